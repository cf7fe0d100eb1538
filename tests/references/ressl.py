"""ReSSL by the formulas of the paper, in the order of solo-learn's step."""

import copy
import math

import torch
from torch import nn
from torch.nn.functional import normalize

from tests.references.steps import STEPS, Reference

SIZE, FIRST, LAST = 48, 0.9, 0.95


class ReSSL(Reference):
    """Zheng et al. 2021, https://arxiv.org/abs/2107.09282."""

    source = "its relations, with a queue and a teacher as solo-learn's `ReSSL`"
    overrides = [
        "model.projector=[8,6]",
        "model.student_temperature=0.2",
        "model.teacher_temperature=0.05",
        f"model.queue={SIZE}",
        f"model.momentum={FIRST}",
        f"model.final_momentum={LAST}",
    ]

    def build(self, backbone):
        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(backbone.dim, 8), nn.ReLU(), nn.Linear(8, 6)
        )
        self.teacher = copy.deepcopy(nn.Sequential(backbone, self.projector))
        self.teacher.requires_grad_(False)
        self.queue = nn.Module()
        self.queue.register_buffer("rows", torch.zeros(SIZE, 6))
        self.queue.register_buffer("pointer", torch.tensor(0))

    def loss(self, views, labels):
        strong, weak = views
        rows = normalize(self.queue.rows)  # drawn in float32
        student = normalize(self.projector(self.backbone(strong))) @ rows.T
        with torch.no_grad():
            keys = normalize(self.teacher(weak))
            relations = torch.exp(keys @ rows.T / 0.05)
            relations /= relations.sum(1, keepdim=True)
        log_sums = torch.exp(student / 0.2).sum(1, keepdim=True).log()
        start = int(self.queue.pointer)
        self.queue.rows[start : start + len(keys)] = keys
        self.queue.pointer.fill_((start + len(keys)) % SIZE)
        return (relations * (log_sums - student / 0.2)).sum(1).mean()

    def after_step(self):
        share = (math.cos(math.pi * self.step / STEPS) + 1) / 2
        m = LAST - (LAST - FIRST) * share
        student = nn.Sequential(self.backbone, self.projector)
        pairs = zip(self.teacher.parameters(), student.parameters(), strict=True)
        for slow, fast in pairs:
            slow.copy_(m * slow + (1 - m) * fast)
