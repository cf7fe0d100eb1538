"""TiCo: Transformation Invariance and Covariance Contrast.

Zhu et al. 2022, https://arxiv.org/abs/2206.10698

The projection of one view is to be like that of the other view by a teacher, the moving
average of the student. It is to avoid the directions in which projections lie most, as
the moving average of their second moments over the batches says: that prevents
collapse, as would a very long queue of negatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stable_ssl.config import Model, key
from stable_ssl.losses import second_moment, tico
from stable_ssl.models import EMA, backbone, mlp
from stable_ssl.trainer import BaseTrainer


@dataclass
class TiCoConfig(Model):
    """Keys under `model`."""

    projector: list[int] = key([4096, 256], low=1)  # widths of g
    rho: float = key(8.0, low=0)  # weight of the covariance term
    beta: float = key(0.9, low=0, high=1)  # share that C keeps of the earlier batches
    momentum: float = key(0.99, low=0, high=1)  # alpha at first, climbs to 1 on a curve
    momentum_schedule: str = key("cosine", choices=("cosine", "polynomial"))  # curve


class TiCo(BaseTrainer):
    """Follow a teacher, and spread over directions; `data.train` yields two views."""

    model_config = TiCoConfig
    views = 2
    min_batch = 2

    def initialize_modules(self) -> None:
        """Build the student, backbone and projector, its teacher and C."""
        model, width = self.config.model, self.config.model.projector[-1]
        self.backbone = backbone(model.backbone)
        self.projector = mlp(self.backbone.dim, *model.projector)
        self.teacher = EMA(self.student, model.momentum, 1.0, model.momentum_schedule)
        self.register_buffer("covariance", torch.zeros(width, width))

    @property
    def student(self) -> nn.Sequential:
        """What the teacher is a moving average of."""
        return nn.Sequential(self.backbone, self.projector)

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def embed(self, views: list[Tensor]) -> dict[str, Tensor]:
        """Return features and projection of one view, the teacher's of the other."""
        a, b = views
        features = self(a)
        z = {"z_a": self.projector(features), "z_b": self.teacher(b)}
        return {"features": features, **z}

    def loss_of(self, embeddings: dict[str, Tensor]) -> dict[str, Any]:
        """Return invariance and covariance contrast, and features; keep C.

        C moves with every loss in training: with `optim.accumulate`, unless
        `optim.exact_batch` takes the step as one batch, once a micro-batch.
        """
        model, z_a = self.config.model, embeddings["z_a"]
        moved = self.covariance.lerp(second_moment(z_a), 1 - model.beta)
        if self.training:
            self.covariance = moved
        loss = tico(z_a, embeddings["z_b"], moved, model.rho)
        return {"loss": loss, "features": embeddings["features"]}

    def after_train_step(self) -> None:
        """Move the teacher towards the student."""
        self.teacher.update(self.student, self.step, self.total_steps)
