"""FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence.

Sohn et al. 2020, https://arxiv.org/abs/2001.07685

A confident prediction for a weakly augmented image without a label is the label of its
strongly augmented view; a few true labels tell the classes apart and prevent collapse.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stable_ssl.config import Model, key
from stable_ssl.losses import pseudo_label
from stable_ssl.models import EMA, backbone
from stable_ssl.trainer import BaseTrainer


@dataclass
class FixMatchConfig(Model):
    """Keys under `model`."""

    threshold: float = key(0.95, low=0, high=1)  # tau, minimal confidence that counts
    weight: float = key(1.0, low=0)  # lambda_u, of the loss without labels
    momentum: float = key(0.999, low=0, high=1)  # of the weights' moving average


class FixMatch(BaseTrainer):
    """Classify from few labels; `data.train` is {labelled, unlabelled}.

    The loader `unlabelled` yields two views, the weak one first. Metrics see the
    moving average of the network, features are the network's.
    """

    model_config = FixMatchConfig
    views = {"labelled": 1, "unlabelled": 2}
    needs_labels = True
    predicts = True

    def initialize_modules(self) -> None:
        """Build the backbone, the classifier and their moving average."""
        self.backbone = backbone(self.config.model.backbone)
        self.classifier = nn.Linear(self.backbone.dim, self.num_classes)
        momentum = self.config.model.momentum
        self.average = EMA(self.student, momentum, momentum)

    @property
    def student(self) -> nn.Module:
        """What is trained, and averaged."""
        return nn.Sequential(self.backbone, self.classifier)

    def encode(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, classes)."""
        return self.classifier(self.encoded(x))

    def predict(self, x: Tensor) -> Tensor:
        """Return the logits of the averaged weights; the probe's where one is on."""
        probed = self.evaluation.probe is not None
        return super().predict(x) if probed else self.average(x)

    def compute_loss(self) -> dict[str, Tensor]:
        """Return l_s + lambda_u l_u, eq. 3 and 4, of all images in one forward pass."""
        model, (x, labels, *_) = self.config.model, self.data["labelled"]
        (weak, strong), *_ = self.data["unlabelled"]
        sizes = len(x), len(weak), len(strong)
        logits, weak, strong = self(torch.cat([x, weak, strong])).split(sizes)
        supervised = cross_entropy(logits, labels)
        unlabelled = pseudo_label(weak, strong, model.threshold)
        confident = weak.detach().float().softmax(1).amax(1) >= model.threshold
        return {
            "loss": supervised + model.weight * unlabelled,
            "supervised": supervised,
            "pseudo_label": unlabelled,
            "mask_rate": confident.float().mean(),
        }

    def after_train_step(self) -> None:
        """Move the average towards the weights."""
        self.average.update(self.student, self.step, self.total_steps)
