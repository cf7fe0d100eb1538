"""VICReg by its algorithm 1."""

import torch
from torch import nn
from torch.nn.functional import mse_loss

from tests.references.steps import IMAGES, Reference

NO_BIAS = "no bias before a batch norm"


class VICReg(Reference):
    """Bardes et al. 2022, https://arxiv.org/abs/2105.04906."""

    source = "eq. 1 to 6; the authors' `main_vicreg.py`"
    overrides = [
        "model.projector=[8,8,6]",
        "model.invariance=25",
        "model.variance=25",
        "model.covariance=1",
    ]
    lr = 0.003
    kept = {NO_BIAS: "the norm cancels it; only its running mean tells"}

    def build(self, backbone):
        self.backbone = backbone
        bias = NO_BIAS not in self.aligned
        self.projector = nn.Sequential(
            nn.Linear(backbone.dim, 8, bias=bias),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 8, bias=bias),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 6, bias=False),
        )

    def loss(self, views, labels):
        z_1, z_2 = (self.projector(self.backbone(view)) for view in views)
        variance = covariance = 0.0
        for z in (z_1, z_2):
            std = (z.var(0) + 1e-4).sqrt()
            variance = variance + (1 - std).relu().mean() / 2
            centred = z - z.mean(0)
            matrix = centred.T @ centred / (IMAGES - 1)
            others = matrix[~torch.eye(6, dtype=torch.bool)]
            covariance = covariance + others.square().sum() / 6
        return 25 * mse_loss(z_1, z_2) + 25 * variance + covariance
