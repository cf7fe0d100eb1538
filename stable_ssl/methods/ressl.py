"""ReSSL: Relational Self-Supervised Learning with Weak Augmentation.

Zheng et al. 2021, https://arxiv.org/abs/2107.09282

How like a view is to each of many earlier images, in a queue, is to be the same for a
weakly augmented view, seen by a teacher, and a strongly augmented one, seen by its
student. The teacher is the student's moving average; its lower temperature makes the
likeness sharp, and with the queue's many different images prevents collapse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stable_ssl.config import Model, key
from stable_ssl.losses import ressl
from stable_ssl.models import EMA, Queue, backbone, mlp
from stable_ssl.trainer import BaseTrainer


@dataclass
class ReSSLConfig(Model):
    """Keys under `model`."""

    student_temperature: float = key(0.1, above=0)  # tau_s
    teacher_temperature: float = key(0.04, above=0)  # tau_t
    projector: list[int] = key([4096, 512], low=1)  # widths of g, without norms
    queue: int = key(131072, low=2)  # the teacher's projections, K
    momentum: float = key(0.999, low=0, high=1)  # m at first, climbs to the final one
    final_momentum: float = key(0.999, low=0, high=1)  # m at the end, not below
    momentum_schedule: str = key("cosine", choices=("cosine", "polynomial"))  # between


class ReSSL(BaseTrainer):
    """Match a teacher's relations; `data.train` yields the strong view, then the weak.

    The teacher sees the second view alone, the student the first.
    """

    model_config = ReSSLConfig
    views = 2

    def initialize_modules(self) -> None:
        """Build the student, backbone and projector, its teacher and the queue."""
        model = self.config.model
        self.backbone = backbone(model.backbone)
        self.projector = mlp(self.backbone.dim, *model.projector, norm=False)
        momenta = model.momentum, model.final_momentum
        self.teacher = EMA(self.student, *momenta, model.momentum_schedule)
        width, seed = model.projector[-1], self.config.hardware.seed
        self.queue = Queue(model.queue, width, seed)

    @property
    def student(self) -> nn.Sequential:
        """What the teacher is a moving average of."""
        return nn.Sequential(self.backbone, self.projector)

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def compute_loss(self) -> dict[str, Any]:
        """Return the cross-entropy of both relations, and features; enqueue a view.

        Every micro-batch of a training step is enqueued, once; a batch that is only
        evaluated is not.
        """
        model, ((strong, weak), *_) = self.config.model, self.data
        features = self(strong)
        student, teacher = self.projector(features), self.teacher(weak)
        temperatures = model.student_temperature, model.teacher_temperature
        loss = ressl(student, teacher, self.queue.rows, *temperatures)
        if self.training:
            self.queue.enqueue(teacher)
        return {"loss": loss, "features": features}

    def after_train_step(self) -> None:
        """Move the teacher towards the student."""
        self.teacher.update(self.student, self.step, self.total_steps)
