"""DINO by its algorithm 1."""

import copy
import math

import torch
from torch import nn
from torch.nn.functional import normalize

from tests.references.steps import STEPS, Reference

NO_BIAS = "no bias before a batch norm"


class Head(nn.Module):
    """The projection head, whose last layer is weight-normalised with g = 1."""

    def __init__(self, dim, bias):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, 8, bias=bias),
            nn.BatchNorm1d(8),
            nn.GELU(),
            nn.Linear(8, 8, bias=bias),
            nn.BatchNorm1d(8),
            nn.GELU(),
            nn.Linear(8, 6),
        )
        self.last = nn.Linear(6, 10, bias=False)

    def forward(self, x):
        v = self.last.weight
        return normalize(self.mlp(x), dim=1) @ (v / v.norm(dim=1, keepdim=True)).T


class DINO(Reference):
    """Caron et al. 2021, https://arxiv.org/abs/2104.14294."""

    source = "algorithm 1; the authors' `main_dino.py`, `DINOHead`, `MultiCropWrapper`"
    overrides = [
        "model.head_norm=true",
        "model.hidden=8",
        "model.bottleneck=6",
        "model.prototypes=10",
        "model.momentum=0.9",
        "model.warmup_temperature=0.04",
        "model.teacher_temperature=0.07",
        "model.warmup_epochs=3",
        "model.freeze_epochs=1",
        "model.center_momentum=0.8",
    ]
    sizes = (8, 8, 4, 4, 4)
    kept = {NO_BIAS: "the norm cancels it; only its running mean tells"}

    def build(self, backbone):
        self.backbone = backbone
        self.head = Head(backbone.dim, NO_BIAS not in self.aligned)
        student = nn.Sequential(self.backbone, self.head)
        self.teacher = copy.deepcopy(student).requires_grad_(False)
        self.center = nn.ParameterDict({"value": torch.zeros(10)}).requires_grad_(False)

    def loss(self, views, labels):
        features = [self.backbone(torch.cat(same)) for same in (views[:2], views[2:])]
        student = (self.head(torch.cat(features)) / 0.1).log_softmax(1).chunk(5)
        with torch.no_grad():
            self.targets = self.teacher(torch.cat(views[:2]))
        temperature = [0.04, 0.055, 0.07, 0.07][self.epoch]
        codes = (
            ((self.targets - self.center["value"]) / temperature).softmax(1).chunk(2)
        )
        total, pairs = 0.0, 0
        for i, code in enumerate(codes):
            for j, prediction in enumerate(student):
                if i != j:
                    total = total - (code * prediction).sum(1).mean()
                    pairs += 1
        return total / pairs

    def before_update(self):
        if self.epoch < 1:
            self.head.last.weight.grad = None

    def after_step(self):
        tau = 1 - (1 - 0.9) * (math.cos(math.pi * self.step / STEPS) + 1) / 2
        student = nn.Sequential(self.backbone, self.head)
        for t, s in zip(self.teacher.parameters(), student.parameters(), strict=True):
            t.copy_(tau * t + (1 - tau) * s)
        self.center["value"].mul_(0.8).add_((1 - 0.8) * self.targets.mean(0))
