"""Mean Teacher by the authors' training step, with labels on a part of the images."""

import copy
import math

import torch
from torch import nn

from tests.references.steps import Reference

WEIGHT, RAMP = 8.0, 10  # of the consistency, and steps until it is whole
FEW = 6  # images with a label
CONSISTENCY = "consistency of the unlabelled loader's images alone"
CROSS_ENTROPY = "cross-entropy as the mean over labelled images"


class MeanTeacher(Reference):
    """Tarvainen and Valpola 2017, https://arxiv.org/abs/1703.01780."""

    source = "section 3.1; the authors' ramps and `ema_decay` (TensorFlow)"
    overrides = [
        f"model.weight={WEIGHT}",
        "model.ramp_epochs=2",
        "model.momentum=0.8",
        "model.final_momentum=0.95",
    ]
    kept = {
        CONSISTENCY: "which has the labelled ones among all",
        CROSS_ENTROPY: "a rate and a weight make up for it",
    }

    def build(self, backbone):
        self.backbone = backbone
        self.classifier = nn.Linear(backbone.dim, 10)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    @property
    def student(self):
        return nn.Sequential(self.backbone, self.classifier)

    def batch(self, step):
        views, labels = super().batch(step)
        other, _ = super().batch(step + 1000)
        labelled = other[0][:FEW], labels[:FEW]
        return {"labelled": labelled, "unlabelled": (views, labels)}

    def loss(self, labelled, unlabelled):
        (x, y), ((shown, view), _) = labelled, unlabelled
        logits = self.student(torch.cat([x, view]))
        with torch.no_grad():
            target = self.teacher(torch.cat([x, shown])).softmax(1)
        costs = -logits[:FEW].log_softmax(1)[range(FEW), y]
        count = FEW if CROSS_ENTROPY in self.aligned else len(logits)
        apart = (logits.softmax(1) - target).square().mean(1)
        apart = apart[FEW:] if CONSISTENCY in self.aligned else apart
        phase = 1 - self.step / RAMP
        ramp = math.exp(-5 * phase**2) if self.step < RAMP else 1.0
        return costs.sum() / count + WEIGHT * ramp * apart.mean()

    def after_step(self):
        alpha = 0.8 if self.step < RAMP else 0.95
        for t, s in zip(
            self.teacher.parameters(), self.student.parameters(), strict=True
        ):
            t.copy_(alpha * t + (1 - alpha) * s)
