"""Supervised classification: the baseline beside the methods, of three tasks.

multiclass: one of the classes (cross-entropy); binary: yes or no; multilabel: yes or no
for each class (both binary cross-entropy). The labels prevent collapse.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from stable_ssl.batch import first_view
from stable_ssl.config import ConfigError, Model, key
from stable_ssl.evaluation.labels import label_range
from stable_ssl.models import backbone
from stable_ssl.trainer import BaseTrainer


@dataclass
class SupervisedConfig(Model):
    """Keys under `model`."""

    # one class an image, yes or no, or any number of classes
    task: str = key("multiclass", choices=("multiclass", "binary", "multilabel"))
    label_smoothing: float = key(0.0, low=0, high=1)  # share spread over all classes


class Supervised(BaseTrainer):
    """Classify one view; with `log.eval.linear=null` val/acc1 is this classifier's."""

    model_config = SupervisedConfig
    views = 1
    needs_labels = True
    predicts = True

    def initialize_modules(self) -> None:
        """Build the backbone and a linear classifier.

        Raises:
            ConfigError: the labels are not those of the task.
        """
        self.task = self.config.model.task
        _, largest = label_range(self.train_loader) or (0, 0)
        if self.task == "binary" and (self.num_classes != 2 or largest > 1):
            raise ConfigError(
                f"model.task=binary needs the labels 0 and 1, and the data has"
                f" {max(self.num_classes, largest + 1)} classes; choose"
                " model.task=multiclass"
            )
        self.backbone = backbone(self.config.model.backbone)
        outputs = 1 if self.task == "binary" else self.num_classes
        self.classifier = nn.Linear(self.backbone.dim, outputs)

    def encode(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def classify(self, features: Tensor) -> Tensor:
        """Map features (N, D) to logits (N, classes); (N,) of a binary task."""
        logits = self.classifier(features)
        return logits.squeeze(1) if self.task == "binary" else logits

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits."""
        return self.classify(self.encoded(x))

    def compute_loss(self) -> dict[str, Tensor]:
        """Return the cross-entropy of the first view's logits, and its features."""
        x, labels, *_ = self.data
        features = self.encoded(first_view(x))
        loss = self.cross_entropy(self.classify(features), labels)
        return {"loss": loss, "features": features}

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the task's cross-entropy, with label smoothing."""
        smoothing = self.config.model.label_smoothing
        if self.task == "multiclass":
            return cross_entropy(logits, labels, label_smoothing=smoothing)
        if labels.shape != logits.shape:
            raise ConfigError(
                f"model.task={self.task} found labels {tuple(labels.shape)}, expected"
                f" {tuple(logits.shape)} for a batch, 0 or 1 each; choose another task"
            )
        target = labels.to(logits.dtype) * (1 - smoothing) + smoothing / 2
        return binary_cross_entropy_with_logits(logits, target)

    def eval_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Report the loss of the split besides its accuracy."""
        super().eval_step(batch)
        loss = self.compute_loss()  # a subclass may return the scalar alone
        loss = loss["loss"] if isinstance(loss, dict) else loss
        self.log({f"{self.split}/loss": loss})
