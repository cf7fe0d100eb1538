"""MAE: Masked Autoencoders Are Scalable Vision Learners.

He et al. 2022, https://arxiv.org/abs/2111.06377

An encoder sees a few patches of an image, and a small decoder predicts the pixels of
all others from what it makes of them; that the pixels differ prevents collapse.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stable_ssl.config import ConfigError, Model, key
from stable_ssl.data.batch import first_view
from stable_ssl.losses import masked_mse, normalize_patches
from stable_ssl.models import Blocks, ViT, backbone, positions, random_masks
from stable_ssl.trainer import BaseTrainer


@dataclass
class MAEConfig(Model):
    """Keys under `model`."""

    mask_ratio: float = key(0.75, above=0, below=1)  # share of the patches hidden
    norm_pix: bool = True  # predict patches standardised each by itself
    decoder_dim: int = key(512, low=4)  # width of the decoder's tokens
    decoder_depth: int = key(8, low=1)  # its blocks
    decoder_heads: int = key(16, low=1)


class MAE(BaseTrainer):
    """Reconstruct hidden patches; `data.train` yields one view, the backbone is `vit`.

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
        self.backbone = backbone(model.backbone)
        if not isinstance(self.backbone, ViT):
            raise ConfigError(
                f"model.backbone={model.backbone} cannot leave patches out, as mae"
                " needs; use {name: vit}"
            )
        width, grid = model.decoder_dim, self.backbone.grid
        self.narrow = nn.Linear(self.backbone.dim, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.register_buffer("positions", positions(grid, width), persistent=False)
        self.decoder = Blocks(width, model.decoder_depth, model.decoder_heads)
        self.pixels = nn.Linear(width, self.backbone.project.weight[0].numel())

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W), nothing hidden, to features (N, D)."""
        return self.backbone(x)

    def reconstruct(self, view: Tensor, keep: Tensor) -> Tensor:
        """Predict all patches (N, L, p p C) from those at keep (N, k)."""
        tokens = self.narrow(self.backbone.tokens(view, keep))
        first = tokens.shape[1] - keep.shape[1]  # 1 with a class token, else 0
        seen = tokens[:, first:]
        shape = len(view), len(self.positions), seen.shape[2]
        hidden = self.mask_token.to(seen.dtype).expand(shape)
        every = hidden.scatter(1, keep[..., None].expand_as(seen), seen)
        every = torch.cat([tokens[:, :first], every + self.positions], 1)
        return self.pixels(self.decoder(every)[:, first:])

    def compute_loss(self) -> Tensor:
        """Return the squared error of the hidden patches."""
        model, view = self.config.model, first_view(self.data[0])
        keys = self.row_keys(len(view))
        keep, mask = random_masks(keys, self.backbone.patches, model.mask_ratio)
        patches = self.backbone.patchify(view)
        if model.norm_pix:
            patches = normalize_patches(patches)
        return masked_mse(self.reconstruct(view, keep), patches, mask)
