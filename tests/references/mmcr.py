"""MMCR as the authors' momentum version has it, by eigenvalues instead of an SVD."""

import copy

import torch
from torch import nn

from tests.references.steps import Reference

M, LAMBDA = 0.9, 0.3


def nuclear_norm(matrices):
    """Return the sums of singular values of (..., n, d), n at most d."""
    grams = matrices @ matrices.mT
    return torch.linalg.eigvalsh(grams).sqrt().sum(-1)


class MMCR(Reference):
    """Yerxa et al. 2023, https://arxiv.org/abs/2303.03307."""

    source = "the objective with the teacher of the authors' `MMCR_Momentum_Loss`"
    overrides = [
        "model.projector=[24,20]",
        f"model.weight={LAMBDA}",
        f"model.momentum={M}",
    ]

    def build(self, backbone):
        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(backbone.dim, 24, bias=False),
            nn.BatchNorm1d(24),
            nn.ReLU(),
            nn.Linear(24, 20, bias=False),
        )
        self.teacher = copy.deepcopy(nn.Sequential(backbone, self.projector))
        self.teacher.requires_grad_(False)

    def loss(self, views, labels):
        both = torch.cat(views)
        student = self.projector(self.backbone(both)).chunk(2)
        with torch.no_grad():
            teacher = self.teacher(both).chunk(2)
        rows = [z / z.norm(dim=1, keepdim=True) for z in student + teacher]
        means = sum(rows) / len(rows)
        own = nuclear_norm(torch.stack(rows[: len(views)], 1)).mean()
        return LAMBDA * own - nuclear_norm(means)

    def after_step(self):
        student = nn.Sequential(self.backbone, self.projector)
        pairs = zip(self.teacher.parameters(), student.parameters(), strict=True)
        for slow, fast in pairs:
            slow.copy_(M * slow + (1 - M) * fast)
