"""BYOL by its equations."""

import copy
import math

import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from tests.references.steps import STEPS, Reference

NO_BIAS = "no bias before a batch norm"


class BYOL(Reference):
    """Grill et al. 2020, https://arxiv.org/abs/2006.07733."""

    source = "eq. 2, section 3.2; the authors' `MLP` and `_update_fn` (JAX)"
    overrides = ["model.projector=[8,6]", "model.predictor=12", "model.momentum=0.9"]
    kept = {NO_BIAS: "the norm cancels it; only its running mean tells"}

    def build(self, backbone):
        self.backbone = backbone
        self.projector = self.mlp(backbone.dim, 8, 6)
        self.predictor = self.mlp(6, 12, 6)
        student = nn.Sequential(self.backbone, self.projector)
        self.teacher = copy.deepcopy(student).requires_grad_(False)

    def mlp(self, inputs, hidden, outputs):
        return nn.Sequential(
            nn.Linear(inputs, hidden, bias=NO_BIAS not in self.aligned),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, outputs, bias=False),
        )

    def loss(self, views, labels):
        z_1, z_2 = (self.projector(self.backbone(view)) for view in views)
        with torch.no_grad():
            t_1, t_2 = (self.teacher(view) for view in views)
        p_1, p_2 = self.predictor(z_1), self.predictor(z_2)
        return distance(p_1, t_2) + distance(p_2, t_1)

    def after_step(self):
        tau = 1 - (1 - 0.9) * (math.cos(math.pi * self.step / STEPS) + 1) / 2
        student = nn.Sequential(self.backbone, self.projector)
        for x, y in zip(self.teacher.parameters(), student.parameters(), strict=True):
            x.copy_(tau * x + (1 - tau) * y)


def distance(p, z):
    return 2 - 2 * cosine_similarity(p, z).mean()
