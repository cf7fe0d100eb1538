"""MSN: Masked Siamese Networks for Label-Efficient Learning.

Assran et al. 2022, https://arxiv.org/abs/2204.07141

From a large view some of whose patches are left out, and from small ones, a student
predicts to which prototypes its teacher, the student's moving average, assigns another
large view. Sharp assignments and a mean prediction of all prototypes prevent collapse.
Differs from the authors' code: patches are left out of each image by itself, not the
same of a whole batch; no bias before a batch norm, which would cancel it; the student
is evaluated, not the teacher.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stable_ssl import models, seeding
from stable_ssl.config import Model, key
from stable_ssl.losses import msn
from stable_ssl.trainer import BaseTrainer
from stable_ssl.vectors import unit


@dataclass
class MSNConfig(Model):
    """Keys under `model`."""

    masked_views: int = key(1, low=1)  # after the first, the target; others are small
    mask_ratio: float = key(0.15, above=0, below=1)  # of their patches left out
    projector: list[int] = key([2048, 2048, 256], low=1, shortest=1)  # widths
    prototypes: int = key(1024, low=2)  # K
    temperature: float = key(0.1, above=0)  # tau
    sharpening: float = key(0.25, above=0)  # T, of the targets
    iterations: int = key(3, low=0)  # of Sinkhorn-Knopp on targets; 0: none
    mean_entropy: float = key(1.0, low=0)  # lambda, weight of me-max
    momentum: float = key(0.996, low=0, high=1)  # of the teacher, climbs to 1 ...
    momentum_schedule: str = key("polynomial", choices=("cosine", "polynomial"))  # so


class MSN(BaseTrainer):
    """Predict prototypes of a view; `data.train` yields the target first, then large.

    The backbone is `vit`, or a ViT of timm by name, with a class token.
    """

    model_config = MSNConfig
    min_views = 2
    min_batch = 2

    def initialize_modules(self) -> None:
        """Build the student, backbone and projector, its teacher and the prototypes.

        Raises:
            ConfigError: a backbone that is no ViT with a class token.
        """
        model = self.config.model
        self.backbone = models.backbone(model.backbone)
        models.check_maskable(self.backbone, class_token=True)
        widths = self.backbone.dim, *model.projector
        self.projector = models.mlp(*widths, activation=nn.GELU)
        self.prototypes = models.Directions(model.projector[-1], model.prototypes)
        curve = model.momentum, 1.0, model.momentum_schedule
        self.teacher = models.EMA(self.student, *curve)

    @property
    def student(self) -> nn.Sequential:
        """What the teacher is a moving average of."""
        return nn.Sequential(self.backbone, self.projector)

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to the student's features (N, D)."""
        return self.backbone(x)

    def visible(self, view: Tensor, number: int) -> Tensor:
        """Return features (N, D) of a view of which some patches are left out."""
        high, wide = self.backbone.patch_embed.patch_size
        patches = (view.shape[2] // high) * (view.shape[3] // wide)
        left_out = math.ceil(self.config.model.mask_ratio * patches)
        keys = seeding.fold_in(self.row_keys(len(view)), number)
        keep, _ = models.random_masks(keys, patches, left_out)
        return models.patch_tokens(self.backbone, view, keep)[:, 0]

    def embed(self, views: list[Tensor]) -> dict[str, Any]:
        """Return features and cosines of the anchors, and the cosines of the target."""
        model, (target, *anchors) = self.config.model, views
        large, small = anchors[: model.masked_views], anchors[model.masked_views :]
        masked = [self.visible(view, number) for number, view in enumerate(large)]
        local = models.encode_views(self.backbone, small)
        z = models.encode_views(self.projector, masked)
        z += models.encode_views(self.projector, local)  # norms see one size at a time
        scores = [self.prototypes(unit(x)) for x in z]
        target = self.prototypes(unit(self.teacher(target)))
        return {"features": masked + local, "anchors": scores, "target": target}

    def loss_of(self, embeddings: dict[str, Any]) -> dict[str, Any]:
        """Return the loss of the anchors' predictions, and their features."""
        model, keys = self.config.model, ("anchors", "target")
        options = model.temperature, model.sharpening, model.iterations
        loss = msn(*(embeddings[k] for k in keys), *options, model.mean_entropy)
        return {"loss": loss, "features": embeddings["features"]}

    def after_train_step(self) -> None:
        """Move the teacher towards the student."""
        self.teacher.update(self.student, self.step, self.total_steps)
