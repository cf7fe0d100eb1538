"""I-JEPA: Self-Supervised Learning ... with a Joint-Embedding Predictive Architecture.

Assran et al. 2023, https://arxiv.org/abs/2301.08243

From the patches of a context a predictor predicts the features that a target encoder,
the moving average of the context encoder, has for blocks of patches elsewhere in the
image. Targets without gradient, and their slow change, prevent collapse.
Differs from the paper: how contexts are cut to one size, see `block_masks`; the context
encoder is evaluated, not the target encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, smooth_l1_loss

from stable_ssl import models
from stable_ssl.batch import first_view
from stable_ssl.config import Model, key
from stable_ssl.losses.checks import in_float32
from stable_ssl.trainer import BaseTrainer


@dataclass
class IJEPAConfig(Model):
    """Keys under `model`; a scale is a block's share of the area of the image."""

    targets: int = key(4, low=1)  # M, blocks to predict
    target_scale: list[float] = key([0.15, 0.2], above=0, below=1, length=2)  # blocks
    target_aspect: list[float] = key([0.75, 1.5], above=0, length=2)  # height to width
    context_scale: list[float] = key([0.85, 1.0], above=0, high=1, length=2)  # block
    predictor_dim: int = key(384, low=4)  # width of the predictor's tokens
    predictor_depth: int = key(6, low=1)  # its blocks
    predictor_heads: int = key(12, low=1)  # of its attention
    momentum: float = key(0.996, low=0, high=1)  # of the target encoder, climbs ...
    final_momentum: float = key(1.0, low=0, high=1)  # ... to this
    momentum_schedule: str = key("cosine", choices=("cosine", "polynomial"))  # curve


class IJEPA(BaseTrainer):
    """Predict patches' features; `data.train` yields one view, the backbone is `vit`.

    Or a ViT of timm by name. There is no class token: features are the mean patch.
    """

    model_config = IJEPAConfig
    views = 1

    def initialize_modules(self) -> None:
        """Build the context encoder, the target encoder and the predictor.

        Raises:
            ConfigError: a backbone that cannot leave patches out, or a class token.
        """
        model = self.config.model
        self.backbone = models.backbone(model.backbone)
        models.check_maskable(self.backbone, only_patches=True)
        ends = model.momentum, model.final_momentum
        self.teacher = models.EMA(self.backbone, *ends, model.momentum_schedule)
        dim, width = self.backbone.dim, model.predictor_dim
        self.narrow, self.widen = nn.Linear(dim, width), nn.Linear(width, dim)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.predictor = models.transformer_blocks(
            width, model.predictor_depth, model.predictor_heads
        )
        positions = models.sincos_positions(self.backbone.patch_embed.grid_size, width)
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W), nothing hidden, to features (N, D)."""
        return self.backbone(x)

    @torch.compiler.disable
    def masks(self, rows: int) -> tuple[Tensor, Tensor]:
        """Draw contexts (N, k) and target blocks (N, M, a) for this rank's images."""
        model = self.config.model
        scales = (model.target_scale, model.target_aspect, model.context_scale)
        grid, _ = self.backbone.patch_embed.grid_size
        keys = self.row_keys(rows), self.step_key()
        return models.block_masks(*keys, grid, model.targets, *map(tuple, scales))

    def predict_targets(self, view: Tensor, context: Tensor, blocks: Tensor) -> Tensor:
        """Predict each block from the context by itself, (N, M, a, D)."""
        n, count, area = blocks.shape
        visible = self.narrow(models.patch_tokens(self.backbone, view, context))
        visible = (visible + self.positions[context]).repeat_interleave(count, 0)
        queries = self.mask_token + self.positions[blocks.flatten(0, 1)]
        predicted = self.predictor(torch.cat([visible, queries], 1))[:, -area:]
        return self.widen(predicted).view(n, count, area, -1)

    @torch.no_grad()
    def target_features(self, view: Tensor, blocks: Tensor) -> Tensor:
        """Return the target encoder's normalised tokens of the blocks, (N, M, a, D)."""
        tokens = models.patch_tokens(self.teacher.module, view)
        tokens = in_float32(layer_norm)(tokens, tokens.shape[-1:])
        return models.gather_patches(tokens, blocks.flatten(1)).view(*blocks.shape, -1)

    def compute_loss(self) -> Tensor:
        """Return the smooth L1 distance of predictions and targets."""
        view = first_view(self.data[0])
        context, blocks = self.masks(len(view))
        predicted = self.predict_targets(view, context, blocks)
        return in_float32(smooth_l1_loss)(predicted, self.target_features(view, blocks))

    def after_train_step(self) -> None:
        """Move the target encoder towards the context encoder."""
        self.teacher.update(self.backbone, self.step, self.total_steps)
