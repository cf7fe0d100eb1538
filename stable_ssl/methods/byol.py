"""BYOL: Bootstrap Your Own Latent, A New Approach to Self-Supervised Learning.

Grill et al. 2020, https://arxiv.org/abs/2006.07733

The prediction from one view is to be what a teacher, the moving average of the student,
projects of the other view. There are no negatives: the predictor, which only the
student has, and the slow teacher, which gets no gradient, prevent collapse.
Differs from the authors' code: no bias before a batch norm, which would cancel it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stable_ssl.config import Model, key
from stable_ssl.losses import cosine_regression
from stable_ssl.models import EMA, backbone, mlp
from stable_ssl.trainer import BaseTrainer


@dataclass
class BYOLConfig(Model):
    """Keys under `model`."""

    projector: list[int] = key([4096, 256], low=1, shortest=1)  # widths of g
    predictor: int = key(4096, low=1)  # hidden width of q
    momentum: float = key(0.996, low=0, high=1)  # tau at first, climbs to 1 on a curve
    momentum_schedule: str = key("cosine", choices=("cosine", "polynomial"))  # curve


class BYOL(BaseTrainer):
    """Predict a teacher's projections; `data.train` yields two views."""

    model_config = BYOLConfig
    views = 2
    min_batch = 2

    def initialize_modules(self) -> None:
        """Build the student f, g and q, and the teacher of f and g.

        Projector and predictor end without a bias.
        """
        model = self.config.model
        self.backbone = backbone(model.backbone)
        self.projector = mlp(self.backbone.dim, *model.projector, bias=False)
        width = model.projector[-1]
        self.predictor = mlp(width, model.predictor, width, bias=False)
        self.teacher = EMA(self.student, model.momentum, 1.0, model.momentum_schedule)

    @property
    def student(self) -> nn.Sequential:
        """What the teacher is a moving average of."""
        return nn.Sequential(self.backbone, self.projector)

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to features y = f(x), (N, D)."""
        return self.backbone(x)

    def compute_loss(self) -> dict[str, Any]:
        """Return the sum of both orders' squared distances, eq. 2, and features."""
        (a, b), *_ = self.data
        features = [self(view) for view in (a, b)]
        p_a, p_b = (self.predictor(self.projector(y)) for y in features)
        z_a, z_b = self.teacher(a), self.teacher(b)
        loss = cosine_regression(p_a, z_b) + cosine_regression(p_b, z_a)
        return {"loss": loss, "features": features}

    def after_train_step(self) -> None:
        """Move the teacher towards the student."""
        self.teacher.update(self.student, self.step, self.total_steps)
