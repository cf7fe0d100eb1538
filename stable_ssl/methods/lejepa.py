"""LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics.

Balestriero and LeCun 2025, https://arxiv.org/abs/2511.08544

Every view of an image is drawn to the mean of its large views. Collapse is prevented by
SIGReg alone, which shapes the projections of each view as an isotropic Gaussian: no
teacher, no stopped gradient, no predictor.
Differs from the authors' code: no bias before a batch norm, which would cancel it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.config import Model, key
from stable_ssl.losses import invariance, sigreg
from stable_ssl.models import backbone, encode_views, mlp
from stable_ssl.trainer import BaseTrainer


@dataclass
class LeJEPAConfig(Model):
    """Keys under `model`."""

    global_views: int = key(2, low=1)  # V_g, leading views, whose mean is the target
    weight: float = key(0.05, low=0, high=1)  # lambda, SIGReg's share
    directions: int = key(1024, low=1)  # |A|, drawn anew each step
    projector: list[int] = key([2048, 2048, 64], low=1)  # widths


class LeJEPA(BaseTrainer):
    """Draw views together on a Gaussian; `data.train` yields the large views first."""

    model_config = LeJEPAConfig
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
        """Return (1 - lambda) invariance + lambda SIGReg, both, and features."""
        model, z = self.config.model, embeddings["z"]
        distance = invariance(z, model.global_views)
        key = self.step_key().to(self.device, non_blocking=True)  # of all ranks
        directions = seeding.directions(key, z[0].shape[1], model.directions)
        regulariser = torch.stack([sigreg(view, directions) for view in z]).mean()
        loss = (1 - model.weight) * distance + model.weight * regulariser
        parts = {"invariance": distance, "sigreg": regulariser}
        return {"loss": loss, **parts, "features": embeddings["features"]}
