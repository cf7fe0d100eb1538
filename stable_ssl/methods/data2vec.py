"""data2vec: A General Framework for Self-supervised Learning, here on images.

Baevski et al. 2022, https://arxiv.org/abs/2202.03555

From an image with hidden blocks of patches a student predicts, for each of these, the
mean of what the last blocks of a teacher make of it; the teacher, the moving average of
the student, sees all of the image. Targets are normalised, which prevents collapse.
Differs from the authors' code: positions are those of the backbone, not relative ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from stable_ssl import models
from stable_ssl.batch import first_view
from stable_ssl.config import ConfigError, Model, key
from stable_ssl.losses import masked_smooth_l1
from stable_ssl.losses.checks import in_float32
from stable_ssl.trainer import BaseTrainer


@dataclass
class Data2VecConfig(Model):
    """Keys under `model`; those of masks as of `models.blockwise_masks`."""

    mask_ratio: float = key(0.6, above=0, below=1)  # of the patches
    mask_block: int = key(16, low=1)  # patches of the smallest block
    average_blocks: int = key(6, low=1)  # K, the teacher's last ones
    beta: float = key(2.0, above=0)  # of the smooth L1 loss
    momentum: float = key(0.9998, low=0, high=1)  # tau of the teacher, climbs ...
    final_momentum: float = key(0.9998, low=0, high=1)  # ... to this
    momentum_schedule: str = key("polynomial", choices=("cosine", "polynomial"))  # so


class Data2Vec(BaseTrainer):
    """Predict a teacher's layers; `data.train` yields one view, the backbone is `vit`.

    Or it is a ViT of timm by name.
    """

    model_config = Data2VecConfig
    views = 1

    def initialize_modules(self) -> None:
        """Build the student, its mask token and linear head, and the teacher.

        Raises:
            ConfigError: a backbone whose patches cannot be hidden, or with fewer blocks
                than are averaged.
        """
        model = self.config.model
        self.backbone = models.backbone(model.backbone)
        models.check_maskable(self.backbone)
        if model.average_blocks > len(self.backbone.blocks):
            raise ConfigError(
                f"model.average_blocks={model.average_blocks}, and the backbone has"
                f" {len(self.backbone.blocks)} blocks; use as many or fewer"
            )
        dim = self.backbone.dim
        self.mask_token = nn.Parameter(torch.empty(dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)
        self.head = nn.Linear(dim, dim)
        ends = model.momentum, model.final_momentum
        self.teacher = models.EMA(self.backbone, *ends, model.momentum_schedule)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W), nothing hidden, to features (N, D)."""
        return self.backbone(x)

    def masks(self, rows: int) -> Tensor:
        """Draw what is hidden of each image, (N, L) bool."""
        model, grid = self.config.model, self.backbone.patch_embed.grid_size
        ratio = model.mask_ratio, model.mask_ratio
        keys, block = self.row_keys(rows), model.mask_block
        return models.blockwise_masks(keys, grid, ratio, smallest=block)

    @torch.no_grad()
    def targets(self, view: Tensor) -> Tensor:
        """Return the teacher's normalised layers, their mean normalised, (N, L, D)."""
        last = self.config.model.average_blocks
        outputs = models.block_outputs(self.teacher.module, view, last)
        return _normalized(torch.stack([_normalized(x) for x in outputs]).mean(0))

    def compute_loss(self) -> Tensor:
        """Return the smooth L1 distance of predictions and targets, where hidden."""
        model, view = self.config.model, first_view(self.data[0])
        mask = self.masks(len(view))
        hidden = {"mask": mask, "mask_token": self.mask_token}
        tokens = models.patch_tokens(self.backbone, view, **hidden)
        predicted = self.head(tokens[:, self.backbone.num_prefix_tokens :])
        return masked_smooth_l1(predicted, self.targets(view), mask, model.beta)

    def after_train_step(self) -> None:
        """Move the teacher towards the student."""
        self.teacher.update(self.backbone, self.step, self.total_steps)


@in_float32
def _normalized(x: Tensor) -> Tensor:
    """Return tokens (..., D) with mean 0 and variance 1 each."""
    return layer_norm(x, x.shape[-1:])
