"""SupCon: Supervised Contrastive Learning.

Khosla et al. 2020, https://arxiv.org/abs/2004.11362

All views of all images with one label are to be alike, and unlike those of other
labels; these negatives prevent collapse. The labels are used in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stable_ssl.config import Model, key
from stable_ssl.losses import sup_con
from stable_ssl.models import backbone, encode_views, mlp
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
    min_batch = 2
    needs_labels = True

    def initialize_modules(self) -> None:
        """Build the backbone Enc and the projector Proj."""
        model = self.config.model
        self.backbone = backbone(model.backbone)
        self.projector = mlp(self.backbone.dim, *model.projector, norm=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to representations r = Enc(x), (N, D)."""
        return self.backbone(x)

    def compute_loss(self) -> dict[str, Any]:
        """Return L_out between the projections of all views, and features."""
        views, labels, *_ = self.data
        features = encode_views(self, views)
        projections = encode_views(self.projector, features)
        loss = sup_con(projections, labels, self.config.model.temperature)
        return {"loss": loss, "features": features}
