"""MAE: Masked Autoencoders Are Scalable Vision Learners.

He et al. 2022, https://arxiv.org/abs/2111.06377

An encoder sees a few patches of an image, and from its output a small decoder predicts
the pixels of all others; these targets are fixed, which prevents collapse.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stable_ssl import models
from stable_ssl.batch import first_view
from stable_ssl.config import Model, key
from stable_ssl.losses import masked_mse, normalize_patches
from stable_ssl.trainer import BaseTrainer


@dataclass
class MAEConfig(Model):
    """Keys under `model`."""

    mask_ratio: float = key(0.75, above=0, below=1)  # share of the patches hidden
    norm_pix: bool = True  # predict patches standardised each by itself
    decoder_dim: int = key(512, low=4)  # width of the decoder's tokens
    decoder_depth: int = key(8, low=1)  # its blocks
    decoder_heads: int = key(16, low=1)  # of its attention


class MAE(BaseTrainer):
    """Reconstruct hidden patches; `data.train` yields one view, the backbone is `vit`.

    Or it is a ViT of timm by name, which keeps its positions, mostly learnt ones.
    The features are the class token or the mean patch, as `model.backbone.pool` says.
    """

    model_config = MAEConfig
    views = 1

    def initialize_modules(self) -> None:
        """Build the encoder and the decoder.

        Raises:
            ConfigError: a backbone that cannot leave patches out.
        """
        model = self.config.model
        self.backbone = models.backbone(model.backbone)
        models.check_maskable(self.backbone)
        patch_embed, width = self.backbone.patch_embed, model.decoder_dim
        self.narrow = nn.Linear(self.backbone.dim, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.decoder = models.transformer_blocks(
            width, model.decoder_depth, model.decoder_heads
        )
        positions = models.sincos_positions(patch_embed.grid_size, width)
        self.register_buffer("positions", positions, persistent=False)
        self.pixels = nn.Linear(width, patch_embed.proj.weight[0].numel())
        models.draw_weights("mae", self.narrow, self.pixels)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W), nothing hidden, to features (N, D)."""
        return self.backbone(x)

    def reconstruct(self, view: Tensor, keep: Tensor) -> Tensor:
        """Predict all patches (N, L, p p C) from those at keep (N, k)."""
        encoded = self.narrow(models.patch_tokens(self.backbone, view, keep))
        prefix = self.backbone.num_prefix_tokens  # the class token, if there is one
        visible = encoded[:, prefix:]
        shape = len(view), len(self.positions), visible.shape[2]
        hidden = self.mask_token.to(visible.dtype).expand(shape)
        tokens = hidden.scatter(1, keep[..., None].expand_as(visible), visible)
        tokens = torch.cat([encoded[:, :prefix], tokens + self.positions], 1)
        return self.pixels(self.decoder(tokens)[:, prefix:])

    def patches(self, view: Tensor) -> Tensor:
        """Cut a view (N, C, H, W) into its patches' pixels, (N, L, p p C)."""
        return models.pixel_patches(view, self.backbone.patch_embed.patch_size)

    def compute_loss(self) -> Tensor:
        """Return the squared error of the hidden patches."""
        model, view = self.config.model, first_view(self.data[0])
        keys, patches = self.row_keys(len(view)), self.patches(view)
        count = patches.shape[1]
        visible = int(count * (1 - model.mask_ratio))  # as the authors round
        keep, mask = models.random_masks(keys, count, count - visible)
        if model.norm_pix:
            patches = normalize_patches(patches)
        return masked_mse(self.reconstruct(view, keep), patches, mask)
