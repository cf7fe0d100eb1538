"""NNCLR: With a Little Help from My Friends, Nearest-Neighbor Contrastive Learning.

Dwibedi et al. 2021, https://arxiv.org/abs/2104.14548

The nearest neighbour of one view's projection among earlier ones, mostly of other
images, is to be like the prediction from the other view, and unlike those from the
other images of the batch; these negatives prevent collapse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stable_ssl.config import Model, key
from stable_ssl.losses import info_nce
from stable_ssl.models import Queue, backbone, mlp
from stable_ssl.trainer import BaseTrainer


@dataclass
class NNCLRConfig(Model):
    """Keys under `model`."""

    temperature: float = key(0.1, above=0)  # tau of eq. 3
    projector: list[int] = key([2048, 2048, 256], low=1, shortest=1)  # widths of g
    predictor: int = key(4096, low=1)  # hidden width of h
    queue: int = key(98304, low=1)  # projections kept, m; fewer than train images


class NNCLR(BaseTrainer):
    """Contrast predictions with neighbours; `data.train` yields two views."""

    model_config = NNCLRConfig
    views = 2
    min_batch = 2

    def initialize_modules(self) -> None:
        """Build the backbone, the projector g, the predictor h and the support set Q.

        The projector ends in a batch norm, the predictor in a linear layer.
        """
        model = self.config.model
        self.backbone = backbone(model.backbone)
        self.projector = mlp(self.backbone.dim, *model.projector, final_norm=True)
        width = model.projector[-1]
        self.predictor = mlp(width, model.predictor, width)
        self.queue = Queue(model.queue, width, self.config.hardware.seed)

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def compute_loss(self) -> dict[str, Any]:
        """Return the mean of both orders of eq. 3, and features; enqueue a view.

        Every micro-batch of a training step is enqueued, once; a batch that is only
        evaluated is not.
        """
        views, *_ = self.data
        features = [self(view) for view in views]
        z_a, z_b = map(self.projector, features)
        p_a, p_b = self.predictor(z_a), self.predictor(z_b)
        neighbours_a, neighbours_b = self.queue.nearest(z_a), self.queue.nearest(z_b)
        tau = self.config.model.temperature
        loss = (info_nce(neighbours_a, p_b, tau) + info_nce(neighbours_b, p_a, tau)) / 2
        if self.training:
            self.queue.enqueue(z_a)
        return {"loss": loss, "features": features}
