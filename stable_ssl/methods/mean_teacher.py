"""Mean Teacher: Weight-averaged consistency targets improve semi-supervised learning.

Tarvainen and Valpola 2017, https://arxiv.org/abs/1703.01780

The student is to agree on an image without a label with its teacher, the student's
moving average, which sees another view; a few labels prevent collapse. Differs from the
paper: the teacher's momentum climbs on a curve, not at once as the ramp ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stable_ssl.config import Model, key
from stable_ssl.losses import consistency
from stable_ssl.models import EMA, backbone
from stable_ssl.trainer import BaseTrainer


@dataclass
class MeanTeacherConfig(Model):
    """Keys under `model`."""

    weight: float = key(100.0, low=0)  # of the consistency once its ramp is over
    # in which the weight climbs from e^-5 of it
    ramp_epochs: float = key(80.0, low=0, epoch=True)
    momentum: float = key(0.99, low=0, high=1)  # alpha at the first step
    final_momentum: float = key(0.999, low=0, high=1)  # alpha at the last
    momentum_schedule: str = key("cosine", choices=("cosine", "polynomial"))  # curve


def ramp(step: int, steps: float) -> float:
    """Return exp(-5 (1 - step / steps)^2), and 1 from step `steps` on."""
    return math.exp(-5 * (1 - step / steps) ** 2) if step < steps else 1.0


class MeanTeacher(BaseTrainer):
    """Classify from few labels; `data.train` is {labelled, unlabelled}.

    The loader `unlabelled` yields two views, the teacher's first. Metrics see the
    teacher, features are the student's.
    """

    model_config = MeanTeacherConfig
    views = {"labelled": 1, "unlabelled": 2}
    needs_labels = True
    predicts = True

    def initialize_modules(self) -> None:
        """Build the student, backbone and classifier, and its teacher."""
        model = self.config.model
        self.backbone = backbone(model.backbone)
        self.classifier = nn.Linear(self.backbone.dim, self.num_classes)
        ends = model.momentum, model.final_momentum
        self.teacher = EMA(self.student, *ends, model.momentum_schedule)
        self.weight: float | Tensor = model.weight  # of the consistency in this step

    @property
    def student(self) -> nn.Module:
        """What is trained, and followed by the teacher."""
        return nn.Sequential(self.backbone, self.classifier)

    def encode(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to the student's logits (N, classes)."""
        return self.classifier(self.encoded(x))

    def predict(self, x: Tensor) -> Tensor:
        """Return the teacher's logits; the probe's where one is on."""
        probed = self.evaluation.probe is not None
        return super().predict(x) if probed else self.teacher(x)

    def train_step(self, batch: Any) -> None:
        """Set this step's weight, as a tensor: torch.compile would freeze a number."""
        model = self.config.model
        factor = ramp(self.step, model.ramp_epochs * self.steps_per_epoch)
        self.weight = torch.full((), model.weight * factor, device=self.device)
        super().train_step(batch)

    def compute_loss(self) -> dict[str, Tensor]:
        """Return cross-entropy and weighted consistency, all images in one pass."""
        x, labels, *_ = self.data["labelled"]
        (teacher_view, student_view), *_ = self.data["unlabelled"]
        logits, student = self(torch.cat([x, student_view])).tensor_split([len(x)])
        # Labelled images, too, so that batch norms normalise as the student's do.
        teacher = self.teacher(torch.cat([x, teacher_view]))[len(x) :]
        supervised = cross_entropy(logits, labels)
        distance = consistency(student, teacher)
        loss = supervised + self.weight * distance
        return {"loss": loss, "supervised": supervised, "consistency": distance}

    def after_train_step(self) -> None:
        """Move the teacher towards the student."""
        self.teacher.update(self.student, self.step, self.total_steps)
