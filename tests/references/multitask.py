"""Rotation prediction beside classification, by the sum of two cross-entropies."""

import torch
from torch import nn

from tests.references.steps import Reference


class MultiTask(Reference):
    """Gidaris et al. 2018, https://arxiv.org/abs/1803.07728."""

    source = "eq. 2 and 3 by the authors' `rotate_img`, and a classifier beside it"
    overrides = ["model.heads.rotation.scale=0.5"]

    def build(self, backbone):
        self.backbone = backbone
        heads = {"supervised": 10, "rotation": 4}
        self.heads = nn.ModuleDict(
            {name: nn.Linear(backbone.dim, size) for name, size in heads.items()}
        )

    def batch(self, step):
        views, labels = super().batch(step)
        turned = torch.stack([rotated(views[1], k) for k in range(4)], 1).flatten(0, 1)
        turns = torch.arange(4).repeat(len(labels))
        return {"images": (views[0], labels), "rotation": (turned, turns)}

    def loss(self, images, rotation):
        losses = []
        for name, (x, y) in (("supervised", images), ("rotation", rotation)):
            logits = self.heads[name](self.backbone(x))
            losses.append(-logits.log_softmax(1)[range(len(y)), y].mean())
        return losses[0] + 0.5 * losses[1]


def rotated(x, quarters):
    """Turn images by flips and a transposition, as the authors' `rotate_img`."""
    if quarters == 1:
        return x.mT.flip(2)
    if quarters == 2:
        return x.flip(2).flip(3)
    return x.flip(2).mT if quarters == 3 else x
