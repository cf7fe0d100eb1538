"""What the references of methods on tokens share: a small ViT, a head, drawn masks."""

import torch
from torch import nn
from torch.nn.functional import linear, normalize

from stable_ssl import seeding
from stable_ssl.models import blockwise_masks
from tests.references.steps import IMAGES, Reference

VIT = [
    "model.backbone={name: vit, image_size: 8, patch_size: 2, dim: 8, depth: 2,"
    " heads: 2, width: null}",
]
SMALL_VIEW = [
    "data.train.dataset.image_transform=[${data.transforms.view},"
    "${data.transforms.view},[{name: random_resized_crop, size: 4}]]"
]


class TokenReference(Reference):
    """A reference whose backbone is a ViT, whose parts alone are used."""

    lr = 5e-4  # so small a head is thrown far by its first gradients


class Head(nn.Module):
    """A perceptron, the unit sphere, and a weight-normalised layer of norm 1."""

    def __init__(self, dim=8, hidden=32, bottleneck=6, prototypes=5):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.last = nn.Linear(bottleneck, prototypes, bias=False)

    def forward(self, x):
        z = normalize(self.mlp(x), dim=-1)
        return linear(z, normalize(self.last.weight, dim=-1))


def embedded(vit, images, mask=None, mask_token=None, keep=None):
    """Return what the first block sees; a mask is (N, H, W), keep (N, k)."""
    from timm.layers import resample_abs_pos_embed

    x = vit.patch_embed.proj(images).permute(0, 2, 3, 1)
    if mask is not None:
        x = x.clone()
        x[mask] = mask_token
    positions, side = vit.pos_embed, x.shape[1]
    if side != 4:  # a small crop, to which they are stretched
        positions = resample_abs_pos_embed(positions, [side, side], [4, 4], 0)
    x = x.flatten(1, 2) + positions
    if keep is not None:
        x = torch.stack([row[places] for row, places in zip(x, keep, strict=True)])
    first = [t for t in (vit.cls_token, vit.reg_token) if t is not None]
    return torch.cat([*(token.expand(len(x), -1, -1) for token in first), x], 1)


def tokens(vit, *images_and_masks, **masks):
    """Return the class token and the patches after the last norm, no registers."""
    x = embedded(vit, *images_and_masks, **masks)
    for block in vit.blocks:
        x = block(x)
    x, registers = vit.norm(x), vit.num_reg_tokens
    return torch.cat([x[:, :1], x[:, 1 + registers :]], 1) if registers else x


def row_keys(step):
    """Return the key of each image of a step, those of a run of seed 0."""
    key = seeding.fold_in(seeding.fold_in(0, step), 0)
    return seeding.fold_in(key, torch.arange(IMAGES))


def hidden_blocks(step, views, *options):
    """Return what is hidden of each image's views, (views N, 4, 4) bool."""
    keys = [seeding.fold_in(row_keys(step), view) for view in range(views)]
    return blockwise_masks(torch.cat(keys), (4, 4), *options).view(-1, 4, 4)


def follow(teacher, student, m):
    """Move each parameter of a teacher to that of the student with its name."""
    for name, parameter in teacher.named_parameters():
        parameter.mul_(m).add_((1 - m) * student.get_parameter(name))
