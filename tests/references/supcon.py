"""SupCon by pytorch-metric-learning's loss."""

import torch
from torch import nn

from tests.references.steps import Reference


class SupCon(Reference):
    """Khosla et al. 2020, https://arxiv.org/abs/2004.11362."""

    source = "eq. 2 by pytorch-metric-learning's `SupConLoss`; the authors'"
    source += " `main_supcon.py`: both views in one pass"
    overrides = ["model.projector=[8,6]", "model.temperature=0.1"]

    def build(self, backbone):
        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(backbone.dim, 8), nn.ReLU(), nn.Linear(8, 6)
        )

    def loss(self, views, labels):
        from pytorch_metric_learning.losses import SupConLoss

        z = self.projector(self.backbone(torch.cat(views)))
        return SupConLoss(temperature=0.1)(z, labels.repeat(2))
