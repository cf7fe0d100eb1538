"""Barlow Twins by its algorithm 1."""

from torch import nn
from torch.nn.functional import batch_norm

from tests.references.steps import IMAGES, Reference


class BarlowTwins(Reference):
    """Zbontar et al. 2021, https://arxiv.org/abs/2103.03230."""

    source = "eq. 1 and 2; the authors' `main.py`"
    overrides = [
        "model.projector=[8,8,6]",
        "model.offdiagonal=0.05",
        "model.scale=0.1",
    ]

    def build(self, backbone):
        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(backbone.dim, 8, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 8, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 6, bias=False),
        )

    def loss(self, views, labels):
        z_1, z_2 = (
            batch_norm(self.projector(self.backbone(view)), None, None, training=True)
            for view in views
        )
        squares = z_1.T @ z_2 / IMAGES
        diagonal = squares.diagonal()
        redundancy = squares.square().sum() - diagonal.square().sum()
        return 0.1 * ((1 - diagonal).square().sum() + 0.05 * redundancy)
