"""ReSSL by the formulas of the paper, in the order of solo-learn's step."""

import copy

import torch
from torch import nn
from torch.nn.functional import normalize

from tests.references.steps import Reference

SIZE, M = 48, 0.9


class ReSSL(Reference):
    """Zheng et al. 2021, https://arxiv.org/abs/2107.09282."""

    source = "its relations, with a queue and a teacher as solo-learn's `ReSSL`"
    overrides = [
        "model.projector=[8,6]",
        "model.student_temperature=0.2",
        "model.teacher_temperature=0.05",
        f"model.queue={SIZE}",
        f"model.momentum={M}",
        f"model.final_momentum={M}",
    ]
    kept = {
        "running statistics": "the teacher's are averaged as its weights are; training"
        " does not use them"
    }

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
        student = nn.Sequential(self.backbone, self.projector)
        pairs = [*zip(self.teacher.parameters(), student.parameters(), strict=True)]
        if "running statistics" in self.aligned:
            both = zip(self.teacher.buffers(), student.buffers(), strict=True)
            pairs += [(x, y) for x, y in both if x.is_floating_point()]
        for slow, fast in pairs:
            slow.copy_(M * slow + (1 - M) * fast)
