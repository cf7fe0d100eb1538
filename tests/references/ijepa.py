"""I-JEPA by the authors' training step, target after target."""

import copy

import torch
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn.functional import layer_norm, smooth_l1_loss

from stable_ssl import seeding
from stable_ssl.models import block_masks
from tests.references.mae import pixels, positions
from tests.references.steps import IMAGES, STEPS, Reference

WIDTH = 8


class IJEPA(Reference):
    """Assran et al. 2023, https://arxiv.org/abs/2301.08243."""

    source = "section 3; the authors' `train_step`, on the same masks"
    overrides = [
        "model.backbone={width: null, dim: 16, depth: 2, heads: 2}",
        "model.targets=2",
        "model.min_keep=1",
        f"model.predictor_dim={WIDTH}",
        "model.predictor_depth=1",
        "model.predictor_heads=2",
        "model.momentum=0.9",
        "model.momentum_schedule=polynomial",
    ]
    sizes = (8,)

    def build(self, backbone):
        self.backbone = backbone
        self.teacher = copy.deepcopy(backbone).requires_grad_(False)
        self.narrow, self.widen = nn.Linear(16, WIDTH), nn.Linear(WIDTH, 16)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.predictor = nn.Sequential(Block(WIDTH, 2, qkv_bias=True), norm)

    def loss(self, views, labels):
        context, blocks = self.masks()
        with torch.no_grad():
            h = encode(self.teacher, *views)
            h = layer_norm(h, (16,))
            h = torch.cat([at(h, block) for block in blocks.unbind(1)])
        z = self.narrow(encode(self.backbone, *views, context))
        where = positions(WIDTH).expand(IMAGES, -1, -1)
        z = z + at(where, context)
        asked = torch.cat([at(where, block) for block in blocks.unbind(1)])
        z = torch.cat([z.repeat(2, 1, 1), self.mask_token + asked], 1)
        z = self.widen(self.predictor(z)[:, context.shape[1] :])
        return smooth_l1_loss(z, h)

    def masks(self):
        """Return the trainer's masks; its tests hold them to the authors'."""
        step = seeding.fold_in(seeding.fold_in(0, self.step), 0)
        keys = seeding.fold_in(step, torch.arange(IMAGES))
        return block_masks(keys, step, 4, targets=2, min_keep=1)

    def after_step(self):
        m = 0.9 + self.step * (1.0 - 0.9) / STEPS
        pairs = zip(self.backbone.parameters(), self.teacher.parameters(), strict=True)
        for q, k in pairs:
            k.mul_(m).add_((1 - m) * q)


def encode(vit, x, index=None):
    """Return the tokens of all patches, (N, L, D), or of those at index (N, k)."""
    tokens = pixels(x) @ vit.patch_embed.proj.weight.flatten(1).T
    tokens = tokens + vit.patch_embed.proj.bias + positions(16)
    tokens = tokens if index is None else at(tokens, index)
    return vit.norm(vit.blocks(tokens))


def at(tokens, index):
    """Return the tokens (N, L, D) at index (N, k)."""
    return torch.stack([own[i] for own, i in zip(tokens, index, strict=True)])
