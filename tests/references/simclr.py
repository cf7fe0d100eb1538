"""SimCLR by lightly's loss."""

import torch
from torch import nn

from tests.references.steps import Reference

OPEN_END = "the last layer of the projector has a bias and no batch norm"


class SimCLR(Reference):
    """Chen et al. 2020, https://arxiv.org/abs/2002.05709."""

    source = (
        "eq. 1 by lightly's `NTXentLoss`; the authors' `model.py`: both views in one"
    )
    source += " pass, `LinearLayer`"
    overrides = ["model.projector=[8,6]", "model.temperature=0.2"]
    kept = {
        OPEN_END: "section 2.1 has g(h) = W2 relu(W1 h), and so have most libraries"
    }

    def build(self, backbone):
        self.backbone = backbone
        last = [nn.Linear(8, 6)]
        if OPEN_END not in self.aligned:
            last = [nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6)]
            last[1].bias.requires_grad_(False)
        self.projector = nn.Sequential(
            nn.Linear(backbone.dim, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), *last
        )

    def loss(self, views, labels):
        from lightly.loss import NTXentLoss

        z = self.projector(self.backbone(torch.cat(views)))
        return NTXentLoss(temperature=0.2)(*z.chunk(2))
