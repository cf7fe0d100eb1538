"""DCL: Decoupled Contrastive Learning.

Yeh et al. 2022, https://arxiv.org/abs/2110.06848

As in SimCLR, two views of an image are to be alike, and unlike the views of every other
image of the batch; these negatives prevent collapse. The pair itself is no candidate of
the softmax, so that a pair which is alike already does not weaken its negatives: the
batch may be small. With `weighted`, DCLW: pairs that are far apart count more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stable_ssl.config import Model, key
from stable_ssl.losses import dcl
from stable_ssl.models import backbone, mlp
from stable_ssl.trainer import BaseTrainer


@dataclass
class DCLConfig(Model):
    """Keys under `model`."""

    temperature: float = key(0.1, above=0)  # tau of eq. 6
    weighted: bool = False  # weigh the attraction of each pair
    sigma: float = key(0.5, above=0)  # of these weights
    projector: list[int] = key([2048, 128], low=1)  # widths
    projector_norm: bool = True  # batch norm after the projector's hidden layers


class DCL(BaseTrainer):
    """Contrast two views within the batch; `data.train` yields two views."""

    model_config = DCLConfig
    views = 2
    min_batch = 2

    def initialize_modules(self) -> None:
        """Build the backbone and the projector."""
        model = self.config.model
        self.backbone = backbone(model.backbone)
        self.projector = mlp(
            self.backbone.dim, *model.projector, norm=model.projector_norm
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def embed(self, views: list[Tensor]) -> dict[str, list[Tensor]]:
        """Return features of the two views, and their projections."""
        features = [self(view) for view in views]
        return {"features": features, "z": [self.projector(h) for h in features]}

    def loss_of(self, embeddings: dict[str, list[Tensor]]) -> dict[str, Any]:
        """Return DCL, or DCLW, between the projections of both views, and features."""
        model, (z_a, z_b) = self.config.model, embeddings["z"]
        sigma = model.sigma if model.weighted else None
        loss = dcl(z_a, z_b, model.temperature, sigma)
        return {"loss": loss, "features": embeddings["features"]}
