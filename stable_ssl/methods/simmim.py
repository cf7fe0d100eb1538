"""SimMIM: A Simple Framework for Masked Image Modeling.

Xie et al. 2022, https://arxiv.org/abs/2111.09886

A token that is learnt stands in the place of most patches, and from what the encoder
makes of it one linear layer predicts the patch's pixels; these targets are fixed, which
prevents collapse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stable_ssl import models
from stable_ssl.batch import first_view
from stable_ssl.config import ConfigError, Model, key
from stable_ssl.losses import masked_l1
from stable_ssl.trainer import BaseTrainer


@dataclass
class SimMIMConfig(Model):
    """Keys under `model`."""

    mask_ratio: float = key(0.6, above=0, below=1)  # share of the squares hidden
    mask_side: int = key(2, low=1)  # of the squares that are hidden, in patches


class SimMIM(BaseTrainer):
    """Predict hidden pixels; `data.train` yields one view, the backbone is `vit`.

    Or it is a ViT of timm by name.
    """

    model_config = SimMIMConfig
    views = 1

    def initialize_modules(self) -> None:
        """Build the encoder, its mask token and the linear layer.

        Raises:
            ConfigError: a backbone whose patches cannot be hidden, or that have no
                whole number of squares.
        """
        model = self.config.model
        self.backbone = models.backbone(model.backbone)
        models.check_maskable(self.backbone)
        patch_embed, dim = self.backbone.patch_embed, self.backbone.dim
        if any(side % model.mask_side for side in patch_embed.grid_size):
            raise ConfigError(
                f"model.mask_side={model.mask_side}: the image has a grid of"
                f" {patch_embed.grid_size} patches; use a divisor of both"
            )
        self.mask_token = nn.Parameter(torch.empty(dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)
        self.pixels = nn.Linear(dim, patch_embed.proj.weight[0].numel())

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W), nothing hidden, to features (N, D)."""
        return self.backbone(x)

    def masks(self, rows: int) -> Tensor:
        """Draw what is hidden of each image, (N, L) bool."""
        model, grid = self.config.model, self.backbone.patch_embed.grid_size
        high, wide = (side // model.mask_side for side in grid)
        hidden = math.ceil(model.mask_ratio * high * wide)
        _, squares = models.random_masks(self.row_keys(rows), high * wide, hidden)
        squares = squares.view(rows, high, wide)
        rows_of_patches = squares.repeat_interleave(model.mask_side, 1)
        return rows_of_patches.repeat_interleave(model.mask_side, 2).flatten(1)

    def compute_loss(self) -> Tensor:
        """Return the absolute error of the hidden pixels."""
        view = first_view(self.data[0])
        mask = self.masks(len(view))
        hidden = {"mask": mask, "mask_token": self.mask_token}
        tokens = models.patch_tokens(self.backbone, view, **hidden)
        predicted = self.pixels(tokens[:, self.backbone.num_prefix_tokens :])
        size = self.backbone.patch_embed.patch_size
        return masked_l1(predicted, models.pixel_patches(view, size), mask)
