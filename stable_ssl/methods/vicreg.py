"""VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning.

Bardes et al. 2022, https://arxiv.org/abs/2105.04906

Two views of an image are to have the same embedding. Two terms on the embeddings of
each view alone prevent collapse: every feature keeps a standard deviation of 1 over the
batch, and different features do not covary.
Differs from the authors' code: no bias before a batch norm, which would cancel it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stable_ssl.config import Model, key
from stable_ssl.losses import vicreg
from stable_ssl.models import backbone, mlp
from stable_ssl.trainer import BaseTrainer


@dataclass
class VICRegConfig(Model):
    """Keys under `model`."""

    projector: list[int] = key([8192, 8192, 8192], low=1, shortest=1)  # the expander's
    invariance: float = key(25.0, low=0)  # lambda of eq. 6
    variance: float = key(25.0, low=0)  # mu
    covariance: float = key(1.0, low=0)  # nu


class VICReg(BaseTrainer):
    """Bring two views together, and spread features; `data.train` yields two views."""

    model_config = VICRegConfig
    views = 2
    min_batch = 2

    def initialize_modules(self) -> None:
        """Build the backbone and the projector.

        It ends without a bias: every term of the loss is the same for any.
        """
        model = self.config.model
        self.backbone = backbone(model.backbone)
        self.projector = mlp(self.backbone.dim, *model.projector, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to representations y, (N, D)."""
        return self.backbone(x)

    def embed(self, views: list[Tensor]) -> dict[str, list[Tensor]]:
        """Return representations of the two views, and their projections."""
        features = [self(view) for view in views]
        return {"features": features, "z": [self.projector(y) for y in features]}

    def loss_of(self, embeddings: dict[str, list[Tensor]]) -> dict[str, Any]:
        """Return invariance, variance and covariance, weighted, and features."""
        model, (z_a, z_b) = self.config.model, embeddings["z"]
        loss = vicreg(z_a, z_b, model.invariance, model.variance, model.covariance)
        return {"loss": loss, "features": embeddings["features"]}
