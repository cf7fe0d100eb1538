"""Barlow Twins: Self-Supervised Learning via Redundancy Reduction.

Zbontar et al. 2021, https://arxiv.org/abs/2103.03230

Over the batch, each feature of one view is to correlate with the same feature of the
other view and with no other feature. A constant feature correlates with nothing, and
two redundant ones correlate with each other: that prevents collapse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stable_ssl.config import Model, key
from stable_ssl.losses import barlow_twins
from stable_ssl.models import backbone, mlp
from stable_ssl.trainer import BaseTrainer


@dataclass
class BarlowTwinsConfig(Model):
    """Keys under `model`."""

    projector: list[int] = key([8192, 8192, 8192], low=1, shortest=1)  # widths
    offdiagonal: float = key(5e-3, low=0)  # lambda of eq. 1
    scale: float = key(1.0, above=0)  # of the loss; choose with optim.lr


class BarlowTwins(BaseTrainer):
    """Decorrelate the features of two views; `data.train` yields two views."""

    model_config = BarlowTwinsConfig
    views = 2
    min_batch = 2

    def initialize_modules(self) -> None:
        """Build the backbone and the projector.

        It ends without a bias: the loss centres each feature.
        """
        model = self.config.model
        self.backbone = backbone(model.backbone)
        self.projector = mlp(self.backbone.dim, *model.projector, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def compute_loss(self) -> dict[str, Any]:
        """Return the cross-correlation's distance from the identity, and features."""
        model, (views, *_) = self.config.model, self.data
        features = [self(view) for view in views]
        z_a, z_b = map(self.projector, features)
        loss = barlow_twins(z_a, z_b, model.offdiagonal, model.scale)
        return {"loss": loss, "features": features}
