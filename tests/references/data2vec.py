"""data2vec on images as the authors' code has it."""

import copy

import torch
from torch import nn
from torch.nn.functional import layer_norm, smooth_l1_loss

from stable_ssl.models import blockwise_masks
from tests.references._tokens import (
    VIT,
    TokenReference,
    embedded,
    follow,
    row_keys,
    tokens,
)


class Data2Vec(TokenReference):
    """Baevski et al. 2022, https://arxiv.org/abs/2202.03555."""

    source = (
        "engine_for_cyclical.py and modeling_cyclical.py of data2vec_vision,"
        " --layer_results end --post_target_layer_norm, on the ViT of the method"
    )
    lr = 0.05
    sizes = (8,)
    overrides = [
        *VIT,
        "model.mask_block=2",
        "model.average_blocks=2",
        "model.momentum=0.9",
        "model.final_momentum=0.9",
    ]

    def build(self, backbone):
        self.backbone = backbone
        self.mask_token = nn.Parameter(torch.zeros(8))
        self.head = nn.Linear(8, 8)
        self.teacher = copy.deepcopy(backbone).requires_grad_(False)

    def loss(self, views, labels):
        (image,) = views
        keys = row_keys(self.step)
        mask = blockwise_masks(keys, (4, 4), (0.6, 0.6), smallest=2).view(-1, 4, 4)
        hidden, layers = mask.flatten(1), []
        with torch.no_grad():
            x = embedded(self.teacher, image)
            for block in self.teacher.blocks:
                x = block(x)
                layers.append(layer_norm(x[:, 1:], (8,)))
            targets = layer_norm(sum(layers) / len(layers), (8,))
        z = tokens(self.backbone, image, mask, self.mask_token)[:, 1:]
        return smooth_l1_loss(self.head(z[hidden]), targets[hidden], beta=2.0)

    def after_step(self):
        follow(self.teacher, self.backbone, 0.9)
