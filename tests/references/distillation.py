"""Distillation by the equations of AM-RADIO, from one teacher."""

import copy

import torch
from torch import nn
from torch.nn.functional import cosine_similarity, interpolate, smooth_l1_loss

from tests.references._tokens import VIT, TokenReference, tokens


class Distillation(TokenReference):
    """Ranzinger et al. 2024, https://arxiv.org/abs/2312.06709."""

    source = "eq. 2 and 3, alpha 0.9 and beta 0.1, of the paper"
    lr = 0.05
    sizes = (8,)
    overrides = [
        *VIT,
        "model.teacher={name: vit, image_size: 8, patch_size: 4, dim: 12, depth: 1,"
        " heads: 2, width: null}",
        "model.hidden=6",
        "model.patch_weight=0.5",
    ]

    def build(self, backbone):
        from stable_ssl.models import backbone as build

        self.backbone = backbone
        spec = {"name": "vit", "image_size": 8, "patch_size": 4, "dim": 12}
        self.teacher = build(spec, in_channels=1, depth=1, heads=2)
        self.teacher.requires_grad_(False)
        layers = nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 12)
        self.projector = nn.Sequential(*layers)
        self.patch_projector = copy.deepcopy(self.projector)

    def loss(self, views, labels):
        (image,) = views
        with torch.no_grad():
            y = self.teacher.forward_features(image)
        z = tokens(self.backbone, image)
        summary = self.projector(z[:, 0])
        maps = self.patch_projector(z[:, 1:]).mT.unflatten(2, (4, 4))
        patches = interpolate(maps, (2, 2), mode="bilinear").flatten(2).mT
        loss = (1 - cosine_similarity(summary, y[:, 0])).mean()
        apart = (1 - cosine_similarity(patches, y[:, 1:], dim=2)).mean()
        return loss + 0.5 * (0.9 * apart + 0.1 * smooth_l1_loss(patches, y[:, 1:]))
