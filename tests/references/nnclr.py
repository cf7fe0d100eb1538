"""NNCLR by the listing of its paper."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from tests.references.steps import IMAGES, Reference

QUEUE = 40  # the newest batch ends in its middle


class Queue(nn.Module):
    """Unit vectors, of which the oldest are replaced."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.zeros(QUEUE, 6))
        self.register_buffer("pointer", torch.tensor(0))


class NNCLR(Reference):
    """Dwibedi et al. 2021, https://arxiv.org/abs/2104.14548."""

    source = (
        "eq. 3 and the pseudo-code of the paper; the widths' norms of its section 4.1"
    )
    overrides = [
        "model.projector=[8,8,6]",
        "model.predictor=12",
        "model.temperature=0.1",
        f"model.queue={QUEUE}",
    ]

    def build(self, backbone):
        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(backbone.dim, 8, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 8, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 6, bias=False),
            nn.BatchNorm1d(6),
        )
        self.predictor = nn.Sequential(
            nn.Linear(6, 12, bias=False),
            nn.BatchNorm1d(12),
            nn.ReLU(),
            nn.Linear(12, 6),
        )
        self.queue = Queue()

    def loss(self, views, labels):
        z_1, z_2 = (self.projector(self.backbone(view)) for view in views)
        p_1, p_2 = self.predictor(z_1), self.predictor(z_2)
        loss = (self.contrast(z_1, p_2) + self.contrast(z_2, p_1)) / 2
        rows = (self.queue.pointer + torch.arange(IMAGES)) % QUEUE
        self.queue.rows[rows] = normalize(z_1.detach(), dim=1)
        self.queue.pointer = (self.queue.pointer + IMAGES) % QUEUE
        return loss

    def contrast(self, z, p):
        nearest = (normalize(z, dim=1) @ self.queue.rows.T).argmax(1)
        rows = normalize(self.queue.rows[nearest], dim=1)
        logits = rows @ normalize(p, dim=1).T / 0.1
        return cross_entropy(logits, torch.arange(IMAGES))
