"""W-MSE: Whitening for Self-Supervised Representation Learning.

Ermolov et al. 2021, https://arxiv.org/abs/2007.06346

Two views of an image are to have the same projection once those of the batch are
whitened. Whitened features vary and do not correlate, whatever the network does: that
prevents collapse.
The batch is cut into parts at random, once a step as in the authors' recipes.
Differs from their code: no bias before a batch norm or the whitening, which cancel it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stable_ssl import seeding
from stable_ssl.config import Model, key
from stable_ssl.losses import w_mse
from stable_ssl.models import backbone, encode_views, mlp
from stable_ssl.trainer import BaseTrainer


@dataclass
class WMSEConfig(Model):
    """Keys under `model`."""

    projector: list[int] = key([1024, 64], low=1)  # widths
    part: int = key(128, low=2)  # images whitened together, of a batch of whole parts
    epsilon: float = key(0.0, low=0, high=1)  # share of the identity in a covariance


class WMSE(BaseTrainer):
    """Bring whitened views together; `data.train` yields two views or more."""

    model_config = WMSEConfig
    min_views = 2

    @property
    def min_batch(self) -> int:
        """Images of a part, which several micro-batches may make up together."""
        optim = self.config.optim
        micro_batches = optim.accumulate if optim.exact_batch else 1
        return -(-self.config.model.part // micro_batches)

    def initialize_modules(self) -> None:
        """Build the backbone and the projector, which ends in a linear layer."""
        model = self.config.model
        self.backbone = backbone(model.backbone)
        self.projector = mlp(self.backbone.dim, *model.projector, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def embed(self, views: list[Tensor]) -> dict[str, Any]:
        """Return features of the views, projections, and a random number an image.

        The projector alone sees the views at once, as the authors' does.
        """
        features = [self(view) for view in views]
        z = encode_views(self.projector, features)
        order = seeding.bits(self.row_keys(len(z[0])))
        return {"features": features, "z": z, "order": order}

    def loss_of(self, embeddings: dict[str, Any]) -> dict[str, Any]:
        """Return the distance of the whitened views, and features."""
        model, order = self.config.model, embeddings["order"]
        loss = w_mse(embeddings["z"], order, model.part, model.epsilon)
        return {"loss": loss, "features": embeddings["features"]}
