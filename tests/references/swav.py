"""SwAV by its algorithm 1."""

import torch
from torch import nn
from torch.nn.functional import normalize

from tests.references.steps import IMAGES, Reference

NO_BIAS = "no bias before a batch norm"
EARLY = "the queues are filled from the first step"
QUEUE = 48


class Queue(nn.Module):
    """Projections, of which the oldest are replaced."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.zeros(QUEUE, 6))
        self.register_buffer("pointer", torch.tensor(0))


class SwAV(Reference):
    """Caron et al. 2020, https://arxiv.org/abs/2006.09882."""

    source = "algorithm 1; the authors' `main_swav.py` and `resnet50.py`"
    overrides = [
        "model.projector=[8,6]",
        "model.prototypes=10",
        "model.freeze_epochs=1",
        f"model.queue={QUEUE}",
        "model.queue_epoch=2",
        "model.temperature=0.1",
        "model.epsilon=0.05",
        "model.iterations=3",
    ]
    sizes = (8, 8, 4, 4, 4)
    kept = {
        NO_BIAS: "the norm cancels it; only its running mean tells",
        EARLY: "so they are full of recent projections at `queue_epoch`; the authors'"
        " are filled from then on, and take part once full",
    }

    def build(self, backbone):
        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(backbone.dim, 8, bias=NO_BIAS not in self.aligned),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 6),
        )
        self.prototypes = nn.Linear(6, 10, bias=False)
        self.queues = nn.ModuleList([Queue(), Queue()])

    def loss(self, views, labels):
        with torch.no_grad():
            weight = self.prototypes.weight
            weight.copy_(normalize(weight, dim=1))
        features = [self.backbone(torch.cat(same)) for same in (views[:2], views[2:])]
        z = normalize(self.projector(torch.cat(features)), dim=1)
        scores = self.prototypes(z).chunk(5)
        total = 0.0
        for i, queue in enumerate(self.queues):
            with torch.no_grad():
                pool = scores[i]
                if self.takes_part():
                    pool = torch.cat([pool, self.prototypes(queue.rows)])
                code = sinkhorn(pool)[:IMAGES]
            for j in {0, 1, 2, 3, 4} - {i}:
                total = total - (code * (scores[j] / 0.1).log_softmax(1)).sum(1).mean()
            if EARLY in self.aligned or self.epoch >= 2:
                rows = (queue.pointer + torch.arange(IMAGES)) % QUEUE
                queue.rows[rows] = z.detach().chunk(5)[i]
                queue.pointer = (queue.pointer + IMAGES) % QUEUE
        return total / 4 / 2

    def takes_part(self):
        full = 2 * 5 + QUEUE // IMAGES  # steps
        return self.epoch >= 2 if EARLY in self.aligned else self.step >= full

    def before_update(self):
        if self.epoch < 1:
            self.prototypes.weight.grad = None


def sinkhorn(scores):
    q = (scores / 0.05).exp().T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / q.shape[0]
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T
