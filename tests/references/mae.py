"""MAE by the authors' model, in another order of patches than ours."""

import math

import torch
from timm.models.vision_transformer import Block
from torch import nn

from stable_ssl import seeding
from tests.references.steps import IMAGES, Reference

RATIO, WIDTH = 0.7, 8  # int(16 (1 - 0.7)) = 4 visible patches, 16 - round(11.2) = 5


class MAE(Reference):
    """He et al. 2022, https://arxiv.org/abs/2111.06377."""

    source = "the authors' `MaskedAutoencoderViT`: shuffle, encode, unshuffle, decode"
    overrides = [
        "model.backbone={width: null, dim: 16, depth: 2, heads: 2}",
        f"model.mask_ratio={RATIO}",
        f"model.decoder_dim={WIDTH}",
        "model.decoder_depth=1",
        "model.decoder_heads=2",
        "optim.betas=[0.9, 0.999]",  # sgd takes none
    ]
    sizes = (8,)

    def build(self, backbone):
        self.backbone = backbone
        self.narrow = nn.Linear(16, WIDTH)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.decoder = nn.Sequential(Block(WIDTH, 2, qkv_bias=True), norm)
        self.pixels = nn.Linear(WIDTH, 4)

    def loss(self, views, labels):
        encoder, (x,) = self.backbone, views
        noise = ~seeding.bits(self.keys(), (16,))  # of these the smallest are kept
        shuffle = noise.argsort(1)
        restore, kept = shuffle.argsort(1), int(16 * (1 - RATIO))
        patches = pixels(x)
        tokens = patches @ encoder.patch_embed.proj.weight.flatten(1).T
        tokens = tokens + encoder.patch_embed.proj.bias + positions(16)
        tokens = torch.cat([rows(tokens[i], shuffle[i, :kept]) for i in range(IMAGES)])
        class_token = encoder.cls_token.expand(IMAGES, -1, -1)
        encoded = torch.cat([class_token, tokens], 1)
        encoded = self.narrow(encoder.norm(encoder.blocks(encoded)))
        hidden = self.mask_token.expand(IMAGES, 16 - kept, -1)
        whole = torch.cat([encoded[:, 1:], hidden], 1)
        whole = torch.cat([rows(whole[i], restore[i]) for i in range(IMAGES)])
        whole = torch.cat([encoded[:, :1], whole + positions(WIDTH)], 1)
        predicted = self.pixels(self.decoder(whole))[:, 1:]
        variance, mean = torch.var_mean(patches, 2, correction=1, keepdim=True)
        target = (patches - mean) / (variance + 1e-6) ** 0.5
        mask = (restore >= kept).double()  # 1 where removed
        return ((predicted - target).square().mean(2) * mask).sum() / mask.sum()

    def keys(self):
        """Return what the trainer draws from in this step, a key an image."""
        step = seeding.fold_in(seeding.fold_in(0, self.step), 0)
        return seeding.fold_in(step, torch.arange(IMAGES))


def rows(tokens, index):
    """Return the tokens (1, k, D) at index (k,) of one image's (L, D)."""
    return tokens[index][None]


def pixels(x):
    """Cut grey images (N, 1, 8, 8) into patches of 2 x 2, (N, 16, 4)."""
    x = x.reshape(len(x), 4, 2, 4, 2)
    return torch.einsum("nhpwq->nhwpq", x).reshape(len(x), 16, 4)


def positions(dim, side=4):
    """Return the code of each patch, (L, dim): sin, cos of its column, of its row."""
    table = [
        [
            wave(place / 10_000 ** (i / (dim / 4)))
            for place in (column, row)
            for wave in (math.sin, math.cos)
            for i in range(dim // 4)
        ]
        for row in range(side)
        for column in range(side)
    ]
    return torch.tensor(table).double()  # a float32 table, as the authors'
