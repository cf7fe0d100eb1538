"""SwAV: Unsupervised Learning of Visual Features by Contrasting Cluster Assignments.

Caron et al. 2020, https://arxiv.org/abs/2006.09882

From each view of an image, small crops included, the assignment of its large views to
prototypes is predicted. Each prototype gets an equal share of the batch, which prevents
collapse.
Differs from the authors' code: no bias before a batch norm, which would cancel it; and
the queues are filled from the first step, so that they are full when they take part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stable_ssl.config import Model, key
from stable_ssl.losses import swav
from stable_ssl.models import Prototypes, Queue, backbone, encode_views, mlp
from stable_ssl.trainer import BaseTrainer
from stable_ssl.vectors import unit


@dataclass
class SwAVConfig(Model):
    """Keys under `model`."""

    global_views: int = key(2, low=1)  # leading views that are assigned
    projector: list[int] = key([2048, 128], low=1)  # widths of g
    prototypes: int = key(3000, low=2)  # K
    freeze_epochs: int = key(1, low=0, epoch=True)  # in which prototypes stay
    temperature: float = key(0.1, above=0)  # tau
    epsilon: float = key(0.05, above=0)  # of the assignments, eq. 3
    iterations: int = key(3, low=1)  # of Sinkhorn-Knopp
    queue: int = key(0, low=0)  # earlier projections of each global view, assigned too
    queue_epoch: int = key(15, low=0)  # from which on; they are kept from the start


class SwAV(BaseTrainer):
    """Predict cluster assignments; `data.train` yields the large views first."""

    model_config = SwAVConfig
    min_views = 2
    min_batch = 2

    def initialize_modules(self) -> None:
        """Build the backbone f, the projector g, the prototypes and the queues."""
        model = self.config.model
        self.backbone = backbone(model.backbone)
        self.projector = mlp(self.backbone.dim, *model.projector)
        dim, seed = model.projector[-1], self.config.hardware.seed
        self.prototypes = Prototypes(dim, model.prototypes)
        self.queues = nn.ModuleList(
            Queue(model.queue, dim, seed + view)
            for view in range(model.global_views if model.queue else 0)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to features f(x), (N, D)."""
        return self.backbone(x)

    def compute_loss(self) -> dict[str, Any]:
        """Return the swapped prediction loss, and features; keep the projections."""
        model, (views, *_) = self.config.model, self.data
        features = encode_views(self, views)
        z = [unit(view) for view in encode_views(self.projector, features)]
        loss = swav(
            [self.prototypes(view) for view in z],
            model.global_views,
            model.temperature,
            model.epsilon,
            model.iterations,
            self.queue_scores(),
        )
        if self.training:
            for queue, view in zip(self.queues, z, strict=False):
                queue.enqueue(view)
        return {"loss": loss, "features": features}

    @torch.compiler.disable
    def queue_scores(self) -> list[Tensor] | None:
        """Compare this rank's share of the queues with the present prototypes."""
        if not self.queues or self.epoch < self.config.model.queue_epoch:
            return None
        ranks, rank = self.world_size, self.rank
        rank_rows = [queue.rows.tensor_split(ranks)[rank] for queue in self.queues]
        return [self.prototypes(rows).detach() for rows in rank_rows]

    def optimizer_step(self, name: str | None = None) -> None:
        """Take the step, in the first epochs without the prototypes."""
        if self.epoch < self.config.model.freeze_epochs:
            self.prototypes.weight.grad = None
        super().optimizer_step(name)

    def before_train_step(self) -> None:
        """Bring the prototypes back to norm 1."""
        self.prototypes.normalize()
