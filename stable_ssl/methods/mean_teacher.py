"""Mean Teacher: Weight-averaged consistency targets improve semi-supervised learning.

Tarvainen and Valpola 2017, https://arxiv.org/abs/1703.01780

The student is to agree on an image without a label with its teacher, the student's
moving average, which sees another view; a few labels prevent collapse. Differs from the
authors' code: consistency of the unlabelled loader's images alone, which has all of
them; cross-entropy as the mean over labelled images, not over all; and one head.
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
    momentum: float = key(0.99, low=0, high=1)  # alpha during the ramp
    final_momentum: float = key(0.999, low=0, high=1)  # alpha after it


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
        self.teacher = EMA(self.student, model.momentum, model.final_momentum)
        self.weight: float | Tensor = model.weight  # of the consistency in this step

    @property
    def ramp_steps(self) -> float:
        """Optimizer steps until the consistency has its full weight."""
        return self.config.model.ramp_epochs * self.steps_per_epoch

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
        weight = self.config.model.weight * ramp(self.step, self.ramp_steps)
        self.weight = torch.tensor(weight, dtype=torch.float64, device="cpu")
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
        """Move the teacher towards the student, by the second alpha after the ramp."""
        ramped = self.step > self.ramp_steps  # in the step that was just taken
        self.teacher.update(self.student, 1 + ramped, 1)
