"""DINOv2: Learning Robust Visual Features without Supervision.

Oquab et al. 2023, https://arxiv.org/abs/2304.07193

iBOT with a head of its own for patches: class tokens of any view, and patches hidden
from the student, predict what the teacher makes of large views. Sinkhorn-Knopp gives
each prototype an equal share of the batch, and KoLeo keeps class tokens apart; both
prevent collapse. Register tokens (Darcet et al. 2024, https://arxiv.org/abs/2309.16588)
and pretrained weights are keys of the backbone.
Differs from the authors' code: the student is evaluated, not the teacher; which images
have a mask, and how many patches of them are hidden, is drawn for each by itself, and
not spread evenly over a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stable_ssl import losses, models
from stable_ssl.config import Model, key
from stable_ssl.schedule_curves import climb
from stable_ssl.trainer import BaseTrainer


@dataclass
class DINOv2Config(Model):
    """Keys under `model`; those of masks as of `models.blockwise_masks`."""

    global_views: int = key(2, low=1)  # leading views, which the teacher sees
    mask_ratio: list[float] = key([0.1, 0.5], low=0, below=1, length=2)  # of patches
    mask_share: float = key(0.5, above=0, high=1)  # of the large views with a mask
    mask_block: int = key(4, low=1)  # patches of the smallest block
    patch_weight: float = key(1.0, low=0)  # of the loss of patches
    koleo_weight: float = key(0.1, low=0)  # of KoLeo, summed over the large views
    hidden: int = key(2048, low=1)  # width of both heads' hidden layers
    bottleneck: int = key(256, low=1)  # width before their last layers
    prototypes: int = key(65536, low=2)  # K, their outputs
    student_temperature: float = key(0.1, above=0)  # tau_s
    teacher_temperature: float = key(0.07, above=0)  # tau_t once warm
    warmup_temperature: float = key(0.04, above=0)  # tau_t of the first epoch
    warmup_epochs: int = key(30, low=0, epoch=True)  # in which tau_t climbs evenly
    freeze_epochs: int = key(1, low=0, epoch=True)  # without the heads' last layers
    momentum: float = key(0.992, low=0, high=1)  # of the teacher, climbs to 1 ...
    momentum_schedule: str = key("cosine", choices=("cosine", "polynomial"))  # so


class DINOv2(BaseTrainer):
    """Distil class and patch tokens; `data.train` yields the large views first.

    The backbone is `vit`, or a ViT of timm by name, with a class token.
    """

    model_config = DINOv2Config
    min_views = 2
    min_batch = 2

    def initialize_modules(self) -> None:
        """Build the student, backbone and two heads, and its teacher.

        Raises:
            ConfigError: a backbone that is no ViT with a class token.
        """
        model = self.config.model
        self.backbone = models.backbone(model.backbone)
        models.check_maskable(self.backbone, class_token=True)
        dim = self.backbone.dim
        sizes = dim, model.hidden, model.bottleneck, model.prototypes
        self.head, self.patch_head = models.DINOHead(*sizes), models.DINOHead(*sizes)
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.teacher = models.EMA(
            self.student, model.momentum, 1.0, model.momentum_schedule
        )

    @property
    def student(self) -> nn.ModuleList:
        """What the teacher is a moving average of."""
        return nn.ModuleList([self.backbone, self.head, self.patch_head])

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to the student's features (N, D)."""
        return self.backbone(x)

    def masks(self, views: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Draw what is hidden of each large view.

        Returns:
            The mask (N of each, L) bool; the hidden patches, k at most, (N of each, k)
            int64, and which of these are hidden, bool, as of `models.hidden_first`.
        """
        model, keys = self.config.model, self.row_keys(len(views[0]))
        size, ratio = self.backbone.patch_embed.patch_size, tuple(model.mask_ratio)
        block = model.mask_share, model.mask_block
        mask = models.hide_in_views(keys, views, size, ratio, *block)
        most = max(1, int(ratio[1] * mask.shape[1]))
        return mask, *models.hidden_first(mask, most)

    def embed(self, views: list[Tensor]) -> dict[str, list[Tensor]]:
        """Return, by view, features, logits of class and patches, and what is hidden.

        The teacher's and those of patches are of the large views.
        """
        count, prefix = self.config.model.global_views, self.backbone.num_prefix_tokens
        large, small = torch.cat(views[:count]), views[count:]
        mask, places, hidden = self.masks(views[:count])

        def logits(
            net: nn.ModuleList, **masks: Tensor
        ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
            """Return by view what a network makes of class and hidden patches."""
            tokens = models.patch_tokens(net[0], large, **masks)
            patches = models.gather_patches(tokens[:, prefix:], places)
            found = tokens[:, 0], net[1](tokens[:, 0]), net[2](patches)
            return tuple(list(x.chunk(count)) for x in found)

        token = {"mask": mask, "mask_token": self.mask_token}
        features, student, patches = logits(self.student, **token)
        with torch.no_grad():
            _, teacher, teacher_patches = logits(self.teacher.module)
        local = models.encode_views(self, small)
        return {
            "features": features + local,
            "student": student + models.encode_views(self.head, local),
            "teacher": teacher,
            "patches": patches,
            "teacher_patches": teacher_patches,
            "hidden": list(hidden.chunk(count)),
        }

    def loss_of(self, embeddings: dict[str, list[Tensor]]) -> dict[str, Any]:
        """Return the losses of classes and patches with KoLeo, and features."""
        model, features = self.config.model, embeddings["features"]
        names = "patches", "teacher_patches", "hidden"
        patches = [torch.cat(embeddings[name]) for name in names]
        temperatures = model.student_temperature, self.teacher_temperature()
        views = embeddings["student"], embeddings["teacher"]
        of_class = losses.dino(*views, None, *temperatures)
        of_patches = losses.ibot(*patches, None, *temperatures)
        large = features[: model.global_views]
        spread = torch.stack([losses.koleo(feature) for feature in large]).sum()
        loss = of_class + model.patch_weight * of_patches + model.koleo_weight * spread
        parts = {"class_loss": of_class, "patch_loss": of_patches, "koleo": spread}
        return {"loss": loss, **parts, "features": features}

    @torch.compiler.disable
    def teacher_temperature(self) -> float:
        """Return tau_t of this epoch."""
        model = self.config.model
        ends = model.warmup_temperature, model.teacher_temperature
        return climb(self.epoch, model.warmup_epochs, *ends)

    def optimizer_step(self, name: str | None = None) -> None:
        """Take the step, in the first epochs without the student's last layers."""
        if self.epoch < self.config.model.freeze_epochs:
            self.head.last.weight.grad = self.patch_head.last.weight.grad = None
        super().optimizer_step(name)

    def after_train_step(self) -> None:
        """Move the teacher towards the student."""
        self.teacher.update(self.student, self.step, self.total_steps)
