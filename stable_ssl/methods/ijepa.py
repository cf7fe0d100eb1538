"""I-JEPA: Self-Supervised Learning ... with a Joint-Embedding Predictive Architecture.

Assran et al. 2023, https://arxiv.org/abs/2301.08243

From a context's patches a predictor predicts what a target encoder, the context
encoder's moving average, makes of blocks elsewhere. Targets without gradient, and their
slow change, prevent collapse. Differs from the paper: the context encoder is evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, smooth_l1_loss

from stable_ssl import models, seeding
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
    min_keep: int = key(10, low=0)  # a context has more patches than that
    predictor_dim: int = key(384, low=4)  # width of the predictor's tokens
    predictor_depth: int = key(6, low=1)  # its blocks
    predictor_heads: int = key(12, low=1)  # of its attention
    weight_init: str = key("ijepa", choices=("ijepa", "mae"))  # of it; vit has its own
    momentum: float = key(0.996, low=0, high=1)  # of the target encoder, climbs ...
    final_momentum: float = key(1.0, low=0, high=1)  # ... to this, ...
    momentum_schedule: str = key("polynomial", choices=("cosine", "polynomial"))  # so


class IJEPA(BaseTrainer):
    """Predict patches' features; `data.train` yields one view, the backbone is `vit`.

    Or a ViT of timm by name, without class token. The features are the mean patch.
    """

    model_config = IJEPAConfig
    views = 1

    def initialize_modules(self) -> None:
        """Build context encoder, target encoder and predictor, or refuse a backbone."""
        model = self.config.model
        self.backbone = models.backbone(model.backbone)
        models.check_maskable(self.backbone, only_patches=True)
        ends = model.momentum, model.final_momentum
        self.teacher = models.EMA(self.backbone, *ends, model.momentum_schedule)
        dim, width = self.backbone.dim, model.predictor_dim
        self.narrow, self.widen = nn.Linear(dim, width), nn.Linear(width, dim)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        blocks = width, model.predictor_depth, model.predictor_heads
        self.predictor = models.transformer_blocks(*blocks)
        models.draw_weights(model.weight_init, self.predictor, self.narrow, self.widen)
        positions = models.sincos_positions(self.backbone.patch_embed.grid_size, width)
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W), nothing hidden, to features (N, D)."""
        return self.backbone(x)

    @torch.compiler.disable
    def masks(self, rows: int) -> tuple[Tensor, Tensor]:
        """Draw contexts (N, k) and target blocks (N, M, a) for this rank's images."""
        model, (grid, _) = self.config.model, self.backbone.patch_embed.grid_size
        scales = model.target_scale, model.target_aspect, model.context_scale
        sizes = grid, model.targets, *map(tuple, scales), model.min_keep
        # of the whole step, cut alike; on the CPU, as their length would be waited for
        whole = torch.arange(rows * self.micro_batches * self.world_size, device="cpu")
        step, start = self.step_key(), self.micro_batch * self.world_size + self.rank
        masks = models.block_masks(seeding.fold_in(step, whole), step, *sizes)
        own = (mask[rows * start :][:rows] for mask in masks)
        return tuple(mask.to(self.device, non_blocking=True) for mask in own)

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
