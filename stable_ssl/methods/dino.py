"""DINO: Emerging Properties in Self-Supervised Vision Transformers.

Caron et al. 2021, https://arxiv.org/abs/2104.14294

From any view of an image, small crops too, a student predicts the output of its
teacher, the student's moving average, for the large ones. The teacher's centre keeps
one prototype from winning always, its low temperature all from being equally likely.
Differs from the authors' code: no bias before a batch norm, which would cancel it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stable_ssl.config import Model, key
from stable_ssl.losses import dino
from stable_ssl.models import EMA, Center, DINOHead, backbone, encode_views
from stable_ssl.schedule_curves import climb
from stable_ssl.trainer import BaseTrainer


@dataclass
class DINOConfig(Model):
    """Keys under `model`."""

    global_views: int = key(2, low=1)  # leading views that the teacher sees
    hidden: int = key(2048, low=1)  # width of the head's hidden layers
    bottleneck: int = key(256, low=1)  # width before its last layer
    prototypes: int = key(65536, low=2)  # K, its outputs
    head_norm: bool = False  # batch norm in the head
    student_temperature: float = key(0.1, above=0)  # tau_s
    teacher_temperature: float = key(0.07, above=0)  # tau_t once warm
    warmup_temperature: float = key(0.04, above=0)  # tau_t of the first epoch
    warmup_epochs: int = key(30, low=0, epoch=True)  # in which tau_t climbs evenly
    freeze_epochs: int = key(1, low=0, epoch=True)  # without the head's last layer
    momentum: float = key(0.996, low=0, high=1)  # lambda, climbs to 1 on a curve
    momentum_schedule: str = key("cosine", choices=("cosine", "polynomial"))  # curve
    center_momentum: float = key(0.9, low=0, high=1)  # m of eq. 4


class DINO(BaseTrainer):
    """Distil a teacher into its student; `data.train` yields the large views first."""

    model_config = DINOConfig
    min_views = 2

    @property
    def min_batch(self) -> int:
        """Images that the head's batch norms need, where it has some."""
        return 2 if self.config.model.head_norm else 1

    def initialize_modules(self) -> None:
        """Build the student, backbone and head, its teacher and the centre."""
        model = self.config.model
        self.backbone = backbone(model.backbone)
        widths = model.hidden, model.bottleneck, model.prototypes
        self.head = DINOHead(self.backbone.dim, *widths, norm=model.head_norm)
        self.teacher = EMA(self.student, model.momentum, 1.0, model.momentum_schedule)
        self.center = Center(model.prototypes, model.center_momentum)

    @property
    def student(self) -> nn.Sequential:
        """What the teacher is a moving average of."""
        return nn.Sequential(self.backbone, self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Return the student's features (N, D) of a view; authors use the teacher's."""
        return self.backbone(x)

    def embed(self, views: list[Tensor]) -> dict[str, list[Tensor]]:
        """Return features and logits of all views, the teacher's of the large ones."""
        features = encode_views(self, views)
        student = encode_views(self.head, features)
        teacher = encode_views(self.teacher, views[: self.config.model.global_views])
        return {"features": features, "student": student, "teacher": teacher}

    def loss_of(self, embeddings: dict[str, list[Tensor]]) -> dict[str, Any]:
        """Return the cross-entropy of teacher and student, and features."""
        model, teacher = self.config.model, embeddings["teacher"]
        self.center.observe(torch.cat(teacher))
        temperatures = model.student_temperature, self.teacher_temperature()
        loss = dino(embeddings["student"], teacher, self.center.value, *temperatures)
        return {"loss": loss, "features": embeddings["features"]}

    @torch.compiler.disable
    def teacher_temperature(self) -> float:
        """Return tau_t of this epoch."""
        model = self.config.model
        ends = model.warmup_temperature, model.teacher_temperature
        return climb(self.epoch, model.warmup_epochs, *ends)

    def optimizer_step(self, name: str | None = None) -> None:
        """Take the step, in the first epochs without the student's last layer."""
        if self.epoch < self.config.model.freeze_epochs:
            self.head.last.weight.grad = None
        super().optimizer_step(name)

    def after_train_step(self) -> None:
        """Move the teacher, and the centre by the mean of the step on all ranks."""
        self.teacher.update(self.student, self.step, self.total_steps)
        self.center.update()
