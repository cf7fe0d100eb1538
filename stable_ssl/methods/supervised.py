"""Supervised classification: cross-entropy on labels, the baseline beside the methods.

The labels prevent collapse.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stable_ssl.config import ConfigError, Model, key
from stable_ssl.evaluation.features import first_view
from stable_ssl.evaluation.labels import label_range
from stable_ssl.models import backbone
from stable_ssl.trainer import BaseTrainer


@dataclass
class SupervisedConfig(Model):
    """Keys under `model`."""

    label_smoothing: float = key(0.0, low=0, high=1)


class Supervised(BaseTrainer):
    """Classify one view; `log.eval.linear=null` makes val/acc1 the classifier's own."""

    model_config = SupervisedConfig
    views = 1
    predicts = True

    def initialize_modules(self) -> None:
        """Build the backbone and a linear classifier.

        Raises:
            ConfigError: the train data has no labels.
        """
        least, _ = label_range(self.train_loader) or (0, 0)
        if self.num_classes is None or least < 0:
            raise ConfigError(
                "model.name=supervised found no labels in the train data; choose"
                " labelled data, and set data.num_classes if it does not state it"
            )
        self.backbone = backbone(self.config.model.backbone)
        self.classifier = nn.Linear(self.backbone.dim, self.num_classes)

    def encode(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to features (N, D)."""
        return self.backbone(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, classes)."""
        return self.classifier(self.encode(x))

    def compute_loss(self) -> Tensor:
        """Return the cross-entropy of the logits of the first view."""
        x, labels = self.data
        return cross_entropy(
            self(first_view(x)),
            labels,
            label_smoothing=self.config.model.label_smoothing,
        )

    def eval_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Report the loss of the split besides its accuracy."""
        super().eval_step(batch)
        self.log({f"{self.split}/loss": self.compute_loss()})
