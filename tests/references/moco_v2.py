"""MoCo v2+ by the formulas of both papers, in the order of solo-learn's step."""

import copy
import math

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from tests.references.steps import STEPS, Reference

TAU, SIZE, FIRST, LAST = 0.2, 48, 0.9, 0.95


class Fifo(nn.Module):
    """A queue of unit rows; one view's keys go where the oldest are."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.zeros(SIZE, 6))
        self.register_buffer("pointer", torch.tensor(0))

    def enqueue(self, keys):
        start = int(self.pointer)
        self.rows[start : start + len(keys)] = keys  # SIZE is a multiple of a batch
        self.pointer.fill_((start + len(keys)) % SIZE)


class MoCoV2(Reference):
    """He et al. 2020, https://arxiv.org/abs/1911.05722, algorithm 1, both orders."""

    source = "eq. 1 and 2, symmetric with two queues as solo-learn's `MoCoV2Plus`"
    overrides = [
        "model.projector=[8,6]",
        f"model.temperature={TAU}",
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
        self.queues = nn.ModuleList([Fifo(), Fifo()])

    def loss(self, views, labels):
        q = [normalize(self.projector(self.backbone(view))) for view in views]
        with torch.no_grad():
            k = [normalize(self.teacher(view)) for view in views]
        orders = []
        for i, j in ((0, 1), (1, 0)):
            positives = torch.einsum("nc,nc->n", q[i], k[j])[:, None]
            negatives = q[i] @ normalize(self.queues[j].rows).T  # drawn in float32
            logits = torch.cat([positives, negatives], 1) / TAU
            zeros = torch.zeros(len(logits), dtype=torch.long)
            orders.append(cross_entropy(logits, zeros))
        for queue, keys in zip(self.queues, k, strict=True):
            queue.enqueue(keys)
        return sum(orders) / 2

    def after_step(self):
        share = (math.cos(math.pi * self.step / STEPS) + 1) / 2
        m = LAST - (LAST - FIRST) * share
        student = nn.Sequential(self.backbone, self.projector)
        pairs = zip(self.teacher.parameters(), student.parameters(), strict=True)
        for slow, fast in pairs:
            slow.copy_(m * slow + (1 - m) * fast)
