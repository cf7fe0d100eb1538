"""VISReg: Variance-Invariance-Sketching Regularization for JEPA training.

Wu et al. 2026, https://arxiv.org/abs/2606.02572

All views of an image, small crops included, are to be projected where the mean of its
large ones is. Over the batch, each feature is to have mean 0 and deviation 1, and along
every direction the shape of a Gaussian, which a collapsed batch has not. There is
no teacher and no stopped gradient between views.
Differs from the authors' code: no bias before a batch norm, which would cancel it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.config import Model, key
from stable_ssl.losses import invariance, visreg
from stable_ssl.models import backbone, encode_views, mlp
from stable_ssl.trainer import BaseTrainer


@dataclass
class VISRegConfig(Model):
    """Keys under `model`."""

    global_views: int = key(2, low=1)  # leading views, whose mean is the target
    weight: float = key(0.6, low=0, high=1)  # lambda, share of the regularisation
    directions: int = key(4096, low=1)  # K, drawn anew each step
    projector: list[int] = key([2048, 2048, 128], low=1)  # widths


class VISReg(BaseTrainer):
    """Draw views together on a Gaussian; `data.train` yields the large views first."""

    model_config = VISRegConfig
    min_views = 2
    min_batch = 2

    def initialize_modules(self) -> None:
        """Build the backbone and the projector."""
        model = self.config.model
        self.backbone = backbone(model.backbone)
        self.projector = mlp(self.backbone.dim, *model.projector)

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def embed(self, views: list[Tensor]) -> dict[str, list[Tensor]]:
        """Return features of the views, and their projections."""
        features = encode_views(self, views)
        return {"features": features, "z": encode_views(self.projector, features)}

    def loss_of(self, embeddings: dict[str, list[Tensor]]) -> dict[str, Any]:
        """Return (1 - lambda) invariance + lambda VISReg, both, and features."""
        model, z = self.config.model, embeddings["z"]
        distance = invariance(z, model.global_views)
        key = self.step_key().to(self.device, non_blocking=True)  # of all ranks
        directions = seeding.directions(key, z[0].shape[1], model.directions)
        regulariser = torch.stack([visreg(view, directions) for view in z]).mean()
        loss = (1 - model.weight) * distance + model.weight * regulariser
        parts = {"invariance": distance, "visreg": regulariser}
        return {"loss": loss, **parts, "features": embeddings["features"]}
