"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations.

Chen et al. 2020, https://arxiv.org/abs/2002.05709

Two views of an image are to be alike, and unlike the views of every other image of the
batch; these negatives prevent collapse.
Differs from the authors' code, as the paper's text does: the last layer of the
projector has a bias and no batch norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stable_ssl.config import Model, key
from stable_ssl.losses import nt_xent
from stable_ssl.models import backbone, encode_views, mlp
from stable_ssl.trainer import BaseTrainer


@dataclass
class SimCLRConfig(Model):
    """Keys under `model`."""

    temperature: float = key(0.5, above=0)  # tau of eq. 1
    projector: list[int] = key([2048, 128], low=1)  # widths of g
    projector_norm: bool = True  # batch norm after the projector's hidden layers


class SimCLR(BaseTrainer):
    """Contrast two views within the batch; `data.train` yields two views."""

    model_config = SimCLRConfig
    views = 2
    min_batch = 2

    def initialize_modules(self) -> None:
        """Build the backbone f and the projector g."""
        model = self.config.model
        self.backbone = backbone(model.backbone)
        self.projector = mlp(
            self.backbone.dim, *model.projector, norm=model.projector_norm
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to features h = f(x), (N, D)."""
        return self.backbone(x)

    def embed(self, views: list[Tensor]) -> dict[str, list[Tensor]]:
        """Return features of the two views, and their projections."""
        features = encode_views(self, views)
        return {"features": features, "z": encode_views(self.projector, features)}

    def loss_of(self, embeddings: dict[str, list[Tensor]]) -> dict[str, Any]:
        """Return NT-Xent between the projections of the two views, and features."""
        z_a, z_b = embeddings["z"]
        loss = nt_xent(z_a, z_b, self.config.model.temperature)
        return {"loss": loss, "features": embeddings["features"]}
