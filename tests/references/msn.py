"""MSN by lightly's loss, around it as the authors' code has it."""

import copy

import torch
from torch import nn

from stable_ssl import seeding
from stable_ssl.models import random_masks
from tests.references._tokens import (
    SMALL_VIEW,
    VIT,
    TokenReference,
    follow,
    row_keys,
    tokens,
)
from tests.references.steps import STEPS

NO_BIAS = "no bias before a batch norm"


class MSN(TokenReference):
    """Assran et al. 2022, https://arxiv.org/abs/2204.07141."""

    source = (
        "lightly's `MSNLoss`; msn_train.py and deit.py of facebookresearch/msn, with"
        " use_bn and use_sinkhorn"
    )
    lr = 0.02
    sizes = (8, 8, 4)
    overrides = [
        *VIT,
        *SMALL_VIEW,
        "model.projector=[10,10,6]",
        "model.prototypes=5",
        "model.mask_ratio=0.3",
        "model.momentum=0.9",
        "model.sharpening=0.25",
    ]
    kept = {NO_BIAS: "the norm cancels it; only its running mean tells"}

    def build(self, backbone):
        bias = NO_BIAS not in self.aligned
        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(8, 10, bias=bias),
            nn.BatchNorm1d(10),
            nn.GELU(),
            nn.Linear(10, 10, bias=bias),
            nn.BatchNorm1d(10),
            nn.GELU(),
            nn.Linear(10, 6),
        )
        self.prototypes = nn.Linear(6, 5, bias=False)
        student = nn.Sequential(self.backbone, self.projector)
        self.teacher = copy.deepcopy(student).requires_grad_(False)

    def loss(self, views, labels):
        from lightly.loss import MSNLoss

        target, large, small = views
        # of 16 patches the floor of 0.7 times 16 is kept
        keys = seeding.fold_in(row_keys(self.step), 0)
        keep, _ = random_masks(keys, 16, 5)
        anchors = [
            self.projector(tokens(self.backbone, large, keep=keep)[:, 0]),
            self.projector(tokens(self.backbone, small)[:, 0]),
        ]
        with torch.no_grad():
            targets = self.teacher[1](tokens(self.teacher[0], target)[:, 0])
        criterion = MSNLoss(temperature=0.1, sinkhorn_iterations=3)
        weight = self.prototypes.weight
        return criterion(torch.cat(anchors), targets, weight, 0.25)

    def after_step(self):
        m = 0.9 + 0.1 * self.step / STEPS
        student = nn.Sequential(self.backbone, self.projector)
        follow(self.teacher, student, m)
