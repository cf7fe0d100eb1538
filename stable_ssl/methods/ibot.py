"""iBOT: Image BERT Pre-Training with Online Tokenizer.

Zhou et al. 2022, https://arxiv.org/abs/2111.07832

As in DINO a student predicts from any view of an image its teacher's output for the
large ones; of these, blocks of patches are hidden from the student, and it predicts the
teacher's output for each of them as well. Centres and low temperatures of the teacher
prevent collapse.
Differs from the authors' code: the student is evaluated, not the teacher; a head with a
last layer of its own for patches has it in the teacher, too.
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
class IBOTConfig(Model):
    """Keys under `model`; those of masks as of `models.blockwise_masks`."""

    global_views: int = key(2, low=1)  # leading views, which the teacher sees
    mask_ratio: list[float] = key([0.1, 0.5], low=0, below=1, length=2)  # of patches
    mask_share: float = key(0.5, above=0, high=1)  # of the large views with a mask
    mask_block: int = key(16, low=1)  # patches of the smallest block
    patch_weight: float = key(1.0, low=0)  # lambda_2, of the loss of patches
    hidden: int = key(2048, low=1)  # width of the head's hidden layers
    bottleneck: int = key(256, low=1)  # width before its last layer
    prototypes: int = key(8192, low=2)  # K, its outputs
    shared_head: bool = True  # false: a last layer for patches, another for the class
    student_temperature: float = key(0.1, above=0)  # tau_s
    teacher_temperature: float = key(0.07, above=0)  # tau_t of the class once warm
    patch_temperature: float = key(0.07, above=0)  # tau_t of patches once warm
    warmup_temperature: float = key(0.04, above=0)  # both of the first epoch
    warmup_epochs: int = key(30, low=0, epoch=True)  # in which they climb evenly
    freeze_epochs: int = key(1, low=0, epoch=True)  # without the head's last layers
    momentum: float = key(0.996, low=0, high=1)  # of the teacher, climbs to 1 ...
    momentum_schedule: str = key("cosine", choices=("cosine", "polynomial"))  # so
    center_momentum: float = key(0.9, low=0, high=1)  # m of both centres


class IBOT(BaseTrainer):
    """Distil class and patch tokens; `data.train` yields the large views first.

    The backbone is `vit`, or a ViT of timm by name, with a class token.
    """

    model_config = IBOTConfig
    min_views = 2

    def initialize_modules(self) -> None:
        """Build the student, backbone and head, its teacher and the centres.

        Raises:
            ConfigError: a backbone that is no ViT with a class token.
        """
        model = self.config.model
        self.backbone = models.backbone(model.backbone)
        models.check_maskable(self.backbone, class_token=True)
        dim, prototypes = self.backbone.dim, model.prototypes
        self.head = models.DINOHead(dim, model.hidden, model.bottleneck, prototypes)
        if not model.shared_head:
            self.patch_last = models.Directions(model.bottleneck, prototypes)
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.teacher = models.EMA(
            self.student, model.momentum, 1.0, model.momentum_schedule
        )
        self.center = models.Center(prototypes, model.center_momentum)
        self.patch_center = models.Center(prototypes, model.center_momentum)

    @property
    def student(self) -> nn.ModuleDict:
        """What the teacher is a moving average of."""
        names = "backbone", "head", "patch_last"
        return nn.ModuleDict({n: m for n, m in self.named_children() if n in names})

    def forward(self, x: Tensor) -> Tensor:
        """Map a view (N, C, H, W) to the student's features (N, D)."""
        return self.backbone(x)

    def masks(self, views: list[Tensor]) -> Tensor:
        """Draw what is hidden of each large view, (N of each, L) bool."""
        model, keys = self.config.model, self.row_keys(len(views[0]))
        size, ratio = self.backbone.patch_embed.patch_size, tuple(model.mask_ratio)
        block = model.mask_share, model.mask_block
        return models.hide_in_views(keys, views, size, ratio, *block)

    def logits(self, net: nn.ModuleDict, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return a network's outputs for class tokens (N, K) and patches (N, L, K)."""
        z = net["head"].bottleneck(tokens)
        last = net["patch_last"] if "patch_last" in net else net["head"].last
        patches = z[:, net["backbone"].num_prefix_tokens :]
        return net["head"].last(z[:, 0]), last(patches)

    def embed(self, views: list[Tensor]) -> dict[str, list[Tensor]]:
        """Return, by view, features, logits of class and patches, and what is hidden.

        The teacher's and those of patches are of the large views.
        """
        count = self.config.model.global_views
        large, small = torch.cat(views[:count]), views[count:]
        mask = self.masks(views[:count])
        hidden = {"mask": mask, "mask_token": self.mask_token}
        tokens = models.patch_tokens(self.backbone, large, **hidden)
        student, patches = self.logits(self.student, tokens)
        local = models.encode_views(self, small)
        with torch.no_grad():
            net = self.teacher.module
            seen = models.patch_tokens(net["backbone"], large)
            teacher, teacher_patches = self.logits(net, seen)
        return {
            "features": [*tokens[:, 0].chunk(count), *local],
            "student": [*student.chunk(count), *models.encode_views(self.head, local)],
            "teacher": list(teacher.chunk(count)),
            "patches": list(patches.chunk(count)),
            "teacher_patches": list(teacher_patches.chunk(count)),
            "mask": list(mask.chunk(count)),
        }

    def loss_of(self, embeddings: dict[str, list[Tensor]]) -> dict[str, Any]:
        """Return the sum of the losses of class tokens and patches, and features."""
        model, teacher = self.config.model, embeddings["teacher"]
        names = "patches", "teacher_patches", "mask"
        patches, teacher_patches, mask = (torch.cat(embeddings[n]) for n in names)
        self.center.observe(torch.cat(teacher))
        self.patch_center.observe(teacher_patches)
        tau, (tau_t, tau_p) = model.student_temperature, self.teacher_temperatures()
        c, c_p = self.center.value, self.patch_center.value
        of_class = losses.dino(embeddings["student"], teacher, c, tau, tau_t)
        of_patches = losses.ibot(patches, teacher_patches, mask, c_p, tau, tau_p)
        loss = of_class + model.patch_weight * of_patches
        parts = {"class_loss": of_class, "patch_loss": of_patches}
        return {"loss": loss, **parts, "features": embeddings["features"]}

    @torch.compiler.disable
    def teacher_temperatures(self) -> tuple[float, float]:
        """Return tau_t of class and patches in this epoch."""
        model = self.config.model
        start = self.epoch, model.warmup_epochs, model.warmup_temperature
        ends = model.teacher_temperature, model.patch_temperature
        return climb(*start, ends[0]), climb(*start, ends[1])

    def optimizer_step(self, name: str | None = None) -> None:
        """Take the step, in the first epochs without the student's last layers."""
        if self.epoch < self.config.model.freeze_epochs:
            for layer in self.modules():
                if isinstance(layer, models.Directions):
                    layer.weight.grad = None
        super().optimizer_step(name)

    def after_train_step(self) -> None:
        """Move the teacher, and the centres by the means of the step on all ranks."""
        self.teacher.update(self.student, self.step, self.total_steps)
        self.center.update()
        self.patch_center.update()
