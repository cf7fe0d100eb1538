"""TiCo by lightly's loss."""

import copy
import math

import torch
from torch import nn

from tests.references.steps import STEPS, Reference

FIRST = 0.9


class TiCo(Reference):
    """Zhu et al. 2022, https://arxiv.org/abs/2206.10698, one order of the views."""

    source = "the paper's loss by lightly's `TiCoLoss`, with its teacher"
    overrides = [
        "model.projector=[8,6]",
        "model.rho=4.0",
        "model.beta=0.8",
        f"model.momentum={FIRST}",
    ]

    def build(self, backbone):
        from lightly.loss import TiCoLoss

        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(backbone.dim, 8, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 6),
        )
        self.teacher = copy.deepcopy(nn.Sequential(backbone, self.projector))
        self.teacher.requires_grad_(False)
        self.register_buffer("covariance", torch.zeros(6, 6))
        self.criterion = TiCoLoss(beta=0.8, rho=4.0)

    def loss(self, views, labels):
        a, b = views
        loss = self.criterion(self.projector(self.backbone(a)), self.teacher(b))
        self.covariance.copy_(self.criterion.C)
        return loss

    def after_step(self):
        share = (math.cos(math.pi * self.step / STEPS) + 1) / 2
        alpha = 1 - (1 - FIRST) * share
        student = nn.Sequential(self.backbone, self.projector)
        pairs = zip(self.teacher.parameters(), student.parameters(), strict=True)
        for slow, fast in pairs:
            slow.copy_(alpha * slow + (1 - alpha) * fast)
