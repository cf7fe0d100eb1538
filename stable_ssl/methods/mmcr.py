"""MMCR: Efficient Coding of Natural Images using Maximum Manifold Capacity.

Yerxa et al. 2023, https://arxiv.org/abs/2303.03307

The mean projection of each image's views is to be long, so that its views coincide, and
the means of different images are to point in different directions: the nuclear norm of
the means is maximised. Were all images alike, it would be small: that prevents
collapse.
With `momentum`, a mean is that of student and teacher, as in the authors' code for
ImageNet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stable_ssl.config import Model, key
from stable_ssl.losses import mmcr
from stable_ssl.models import EMA, backbone, encode_views, mlp
from stable_ssl.trainer import BaseTrainer


@dataclass
class MMCRConfig(Model):
    """Keys under `model`."""

    projector: list[int] = key([8192, 8192, 512], low=1, shortest=1)  # widths
    weight: float = key(0.0, low=0)  # lambda, of each image's own norm
    momentum: float | None = key(None, low=0, high=1)  # of a teacher; null: none


class MMCR(BaseTrainer):
    """Spread the means of images; `data.train` yields two views or more."""

    model_config = MMCRConfig
    min_views = 2
    min_batch = 2

    def initialize_modules(self) -> None:
        """Build backbone and projector, without biases, and their teacher if any."""
        model = self.config.model
        self.backbone = backbone(model.backbone)
        self.projector = mlp(self.backbone.dim, *model.projector, bias=False)
        self.teacher = None
        if model.momentum is not None:
            self.teacher = EMA(self.student, model.momentum, model.momentum)

    @property
    def student(self) -> nn.Sequential:
        """What the teacher is a moving average of."""
        return nn.Sequential(self.backbone, self.projector)

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def embed(self, views: list[Tensor]) -> dict[str, list[Tensor]]:
        """Return features of the views, their projections, and the teacher's."""
        features = encode_views(self, views)
        z = encode_views(self.projector, features)
        teacher = encode_views(self.teacher, views) if self.teacher else []
        return {"features": features, "z": z, "teacher": teacher}

    def loss_of(self, embeddings: dict[str, list[Tensor]]) -> dict[str, Any]:
        """Return minus the nuclear norm of the means, and features."""
        teacher = embeddings["teacher"] or None
        loss = mmcr(embeddings["z"], self.config.model.weight, teacher)
        return {"loss": loss, "features": embeddings["features"]}

    def after_train_step(self) -> None:
        """Move the teacher, if any, towards the student."""
        if self.teacher is not None:
            self.teacher.update(self.student, self.step, self.total_steps)
