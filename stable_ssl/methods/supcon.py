"""SupCon: Supervised Contrastive Learning.

Khosla et al. 2020, https://arxiv.org/abs/2004.11362

All views of all images with one label are to be alike, and unlike those of other
labels; these negatives prevent collapse. The labels are used in training.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stable_ssl.config import ConfigError, Model, key
from stable_ssl.evaluation.labels import label_range
from stable_ssl.losses import sup_con
from stable_ssl.models import backbone, mlp
from stable_ssl.trainer import BaseTrainer


@dataclass
class SupConConfig(Model):
    """Keys under `model`."""

    temperature: float = key(0.1, above=0)  # tau of eq. 2
    projector: list[int] = key([2048, 128], low=1)  # widths of Proj, without norms


class SupCon(BaseTrainer):
    """Contrast views by label; `data.train` yields two views, labelled."""

    model_config = SupConConfig
    views = 2

    def initialize_modules(self) -> None:
        """Build the backbone Enc and the projector Proj.

        Raises:
            ConfigError: the train data has no labels.
        """
        least, _ = label_range(self.train_loader) or (0, 0)
        if self.num_classes is None or least < 0:
            raise ConfigError(
                "model.name=supcon found no labels in the train data; choose labelled"
                " data, and set data.num_classes if it does not state it; simclr is"
                " the same without labels"
            )
        model = self.config.model
        self.backbone = backbone(model.backbone)
        self.projector = mlp(self.backbone.dim, *model.projector, norm=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to representations r = Enc(x), (N, D)."""
        return self.backbone(x)

    def compute_loss(self) -> Tensor:
        """Return L_out between the projections of all views of the batch."""
        views, labels = self.data
        projections = [self.projector(self(view)) for view in views]
        return sup_con(projections, labels, self.config.model.temperature)
