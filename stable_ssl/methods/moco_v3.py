"""MoCo v3: An Empirical Study of Training Self-Supervised Vision Transformers.

Chen, Xie and He 2021, https://arxiv.org/abs/2104.02057

The prediction from one view is to be like the key of the other view, and unlike those
of the other images of the batch; keys are made by a teacher, the moving average of the
student. The negatives prevent collapse, and there is no queue of them.
Differs from the paper: the heads are those of its ResNet for every backbone, two layers
each by default, the projector alone ending in a batch norm; the patch projection of a
ViT is trained unless `model.backbone.freeze` names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stable_ssl.config import Model, key
from stable_ssl.losses import info_nce
from stable_ssl.models import EMA, backbone, mlp
from stable_ssl.trainer import BaseTrainer


@dataclass
class MoCoV3Config(Model):
    """Keys under `model`."""

    temperature: float = key(1.0, above=0)  # tau of eq. 1
    projector: list[int] = key([4096, 256], low=1, shortest=1)  # widths
    predictor: int = key(4096, low=1)  # hidden width
    momentum: float = key(0.99, low=0, high=1)  # m at first, climbs to 1 on a curve
    momentum_schedule: str = key("cosine", choices=("cosine", "polynomial"))  # curve


class MoCoV3(BaseTrainer):
    """Contrast predictions with a teacher's keys; `data.train` yields two views."""

    model_config = MoCoV3Config
    views = 2
    min_batch = 2

    def initialize_modules(self) -> None:
        """Build backbone, projector and predictor, and the teacher of the first two.

        The projector ends in a batch norm without scale and shift.
        """
        model = self.config.model
        self.backbone = backbone(model.backbone)
        width = model.projector[-1]
        self.projector = mlp(self.backbone.dim, *model.projector, bias=False)
        self.projector.append(nn.BatchNorm1d(width, affine=False))
        self.predictor = mlp(width, model.predictor, width, bias=False)
        self.teacher = EMA(self.student, model.momentum, 1.0, model.momentum_schedule)

    @property
    def student(self) -> nn.Sequential:
        """What the teacher is a moving average of."""
        return nn.Sequential(self.backbone, self.projector)

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def compute_loss(self) -> dict[str, Any]:
        """Return both orders' InfoNCE times 2 tau, algorithm 1, and features."""
        (a, b), *_ = self.data
        features = [self(view) for view in (a, b)]
        q_a, q_b = (self.predictor(self.projector(feature)) for feature in features)
        k_a, k_b = self.teacher(a), self.teacher(b)
        tau = self.config.model.temperature
        loss = 2 * tau * (info_nce(q_a, k_b, tau) + info_nce(q_b, k_a, tau))
        return {"loss": loss, "features": features}

    def after_train_step(self) -> None:
        """Move the teacher before the keys of the next step, by that step's m."""
        self.teacher.update(self.student, self.step + 1, self.total_steps)
