"""SimSiam: Exploring Simple Siamese Representation Learning.

Chen and He 2021, https://arxiv.org/abs/2011.10566

The prediction from one view is to be the projection of the other, by the same network.
There are neither negatives nor a teacher: the predictor, and that no gradient reaches
the projection it is compared with, prevent collapse.
Differs from the authors' code: the projector's last layer has no bias. Theirs is frozen
as it was drawn, and the batch norm after it cancels it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stable_ssl.config import Model, key
from stable_ssl.losses import negative_cosine
from stable_ssl.models import backbone, mlp
from stable_ssl.trainer import BaseTrainer


@dataclass
class SimSiamConfig(Model):
    """Keys under `model`."""

    projector: list[int] = key([2048, 2048, 2048], low=1, shortest=1)  # widths in f
    predictor: int = key(512, low=1)  # hidden width of h, a bottleneck


class SimSiam(BaseTrainer):
    """Predict the projection of the other view; `data.train` yields two views.

    The paper keeps the predictor's learning rate constant:
    `optim.groups=[{pattern: predictor, schedule: false}]`.
    """

    model_config = SimSiamConfig
    views = 2
    min_batch = 2

    def initialize_modules(self) -> None:
        """Build the backbone, the projector and the predictor h.

        The projector ends in a batch norm without scale and shift.
        """
        model = self.config.model
        self.backbone = backbone(model.backbone)
        width = model.projector[-1]
        self.projector = mlp(self.backbone.dim, *model.projector, bias=False)
        self.projector.append(nn.BatchNorm1d(width, affine=False))
        self.predictor = mlp(width, model.predictor, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def compute_loss(self) -> dict[str, Any]:
        """Return the mean of both orders' negative cosines, eq. 4, and features."""
        views, *_ = self.data
        features = [self(view) for view in views]
        z_a, z_b = map(self.projector, features)
        p_a, p_b = self.predictor(z_a), self.predictor(z_b)
        loss = (negative_cosine(p_a, z_b) + negative_cosine(p_b, z_a)) / 2
        return {"loss": loss, "features": features}
