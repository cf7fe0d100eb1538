"""MoCo v3 by its algorithm 1."""

import copy
import math

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from tests.references.steps import IMAGES, STEPS, Reference


class MoCoV3(Reference):
    """Chen, Xie and He 2021, https://arxiv.org/abs/2104.02057."""

    source = "algorithm 1; the authors' `MoCo_ResNet` and `main_moco.py`"
    overrides = [
        "model.projector=[8,6]",
        "model.predictor=12",
        "model.temperature=0.3",
        "model.momentum=0.9",
    ]

    def build(self, backbone):
        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(backbone.dim, 8, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 6, bias=False),
            nn.BatchNorm1d(6, affine=False),
        )
        self.predictor = nn.Sequential(
            nn.Linear(6, 12, bias=False),
            nn.BatchNorm1d(12),
            nn.ReLU(),
            nn.Linear(12, 6, bias=False),
        )
        student = nn.Sequential(self.backbone, self.projector)
        self.teacher = copy.deepcopy(student).requires_grad_(False)

    def loss(self, views, labels):
        student = nn.Sequential(self.backbone, self.projector)
        q_1, q_2 = (self.predictor(student(view)) for view in views)
        m = 1 - (1 + math.cos(math.pi * self.step / STEPS)) / 2 * (1 - 0.9)
        with torch.no_grad():  # before the keys, by the weights of this step
            for p, k in zip(
                student.parameters(), self.teacher.parameters(), strict=True
            ):
                k.copy_(m * k + (1 - m) * p)
            k_1, k_2 = (self.teacher(view) for view in views)
        return contrast(q_1, k_2) + contrast(q_2, k_1)


def contrast(q, k):
    logits = normalize(q, dim=1) @ normalize(k, dim=1).T / 0.3
    return 2 * 0.3 * cross_entropy(logits, torch.arange(IMAGES))
