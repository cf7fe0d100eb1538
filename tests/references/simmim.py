"""SimMIM as the authors' code has it."""

import torch
from torch import nn
from torch.nn.functional import l1_loss, pixel_shuffle

from stable_ssl.models import random_masks
from tests.references._tokens import VIT, TokenReference, row_keys, tokens


class SimMIM(TokenReference):
    """Xie et al. 2022, https://arxiv.org/abs/2111.09886."""

    source = "models/simmim.py of microsoft/SimMIM, on the ViT of the method"
    sizes = (8,)
    lr = 0.05
    overrides = [*VIT, "model.mask_side=2", "model.mask_ratio=0.6"]

    def build(self, backbone):
        self.backbone = backbone
        self.mask_token = nn.Parameter(torch.zeros(8))
        self.pixels = nn.Linear(8, 4)

    def loss(self, views, labels):
        (image,) = views
        # squares of 2 x 2 patches: ceil(0.6 * 4) of the four are hidden
        _, squares = random_masks(row_keys(self.step), 4, 3)
        mask = squares.view(-1, 2, 2).repeat_interleave(2, 1).repeat_interleave(2, 2)
        z = tokens(self.backbone, image, mask, self.mask_token)[:, 1:]
        maps = self.pixels(z).mT.reshape(len(z), 4, 4, 4)
        reconstructed = pixel_shuffle(maps, 2)
        pixels = mask.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
        errors = l1_loss(image, reconstructed, reduction="none")
        hidden = pixels.sum() + 1e-5  # lost to rounding, there as here: float32
        return (errors * pixels).sum() / hidden  # of one channel
