"""A vision transformer of timm that sees some of an image's patches.

The others are left out, or a token that is learnt stands in their place. `masking.py`
chooses them: timm's way to leave patches out draws them from the global generator, and
they would depend on the number of processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, unfold

from stable_ssl.schema import ConfigError

if TYPE_CHECKING:
    from timm.models import VisionTransformer


def check_maskable(
    model: nn.Module, only_patches: bool = False, class_token: bool = False
) -> None:
    """Refuse a backbone whose patches cannot be left out one by one.

    Args:
        model: a backbone.
        only_patches: whether its tokens must be a square of patches and nothing else.
        class_token: whether there must be one, which is then the first token.

    Raises:
        ConfigError: no VisionTransformer of timm, one that mixes patches before its
            blocks or leaves some out by itself, or one with other tokens.
    """
    from timm.layers import PatchEmbed
    from timm.models import VisionTransformer

    if not isinstance(model, VisionTransformer):
        kind = type(model)
        problem = f"{kind.__module__}.{kind.__name__} is no VisionTransformer of timm"
    elif not isinstance(model.patch_embed, PatchEmbed):
        problem = f"its {type(model.patch_embed).__name__} mixes pixels of patches"
    elif not isinstance(model.patch_drop, nn.Identity):
        problem = "its patch_drop_rate leaves out others"
    elif only_patches and model.num_prefix_tokens:
        problem = f"{model.num_prefix_tokens} of its tokens are no patches"
    elif only_patches and len(set(model.patch_embed.grid_size)) > 1:
        problem = f"its patches, {model.patch_embed.grid_size}, are no square"
    elif class_token and model.cls_token is None:
        problem = "it has no class token"
    else:
        return
    use = "{name: vit, class_token: false}" if only_patches else "{name: vit}"
    raise ConfigError(
        f"model.backbone: {problem}, and this method chooses the patches that are seen;"
        f" use {use}, or the like of timm by name"
    )


def patch_tokens(
    model: VisionTransformer,
    images: Tensor,
    keep: Tensor | None = None,
    mask: Tensor | None = None,
    mask_token: Tensor | None = None,
) -> Tensor:
    """Return what the blocks make of an image's patches, or of some of them.

    Args:
        model: one that `check_maskable` accepts.
        images: (N, C, H, W).
        keep: which patches the blocks see, (N, k) int64, numbered row by row; None: all
            L, in order. He et al. 2022 (MAE), https://arxiv.org/abs/2111.06377, section
            3: the others go before the first block, so that a quarter of the patches
            costs a quarter.
        mask: true, (N, L) bool, for patches in whose place `mask_token` stands. Bao et
            al. 2022 (BEiT), https://arxiv.org/abs/2106.08254, section 2.4.
        mask_token: (D,), which gets the position of the patch.

    Returns:
        (N, T + k, D) after the last norm, where the T = model.num_prefix_tokens class
        and register tokens come first.
    """
    tokens = _embedded(model, images, keep, mask, mask_token)
    return model.norm(model.blocks(tokens))


def block_outputs(model: VisionTransformer, images: Tensor, last: int) -> list[Tensor]:
    """Return the patches, (N, L, D), as each of the last blocks leaves them.

    Args:
        model: as of `patch_tokens`.
        images: (N, C, H, W).
        last: number of the blocks, from the end.
    """
    tokens, outputs = _embedded(model, images), []
    for block in model.blocks:
        tokens = block(tokens)
        outputs.append(tokens[:, model.num_prefix_tokens :])
    return outputs[-last:]


def _embedded(
    model: VisionTransformer,
    images: Tensor,
    keep: Tensor | None = None,
    mask: Tensor | None = None,
    mask_token: Tensor | None = None,
) -> Tensor:
    """Return what the first block sees."""
    # as timm's forward_features, but that patches are selected once they have their
    # positions, and replaced before; no public method of timm ends there
    patches = model.patch_embed(images)
    if mask is not None:
        hidden = mask.view(*patches.shape[:-1], 1)
        patches = torch.where(hidden, mask_token.to(patches.dtype), patches)
    tokens = model._pos_embed(patches)
    if keep is not None:
        prefix = model.num_prefix_tokens
        visible = gather_patches(tokens[:, prefix:], keep)
        tokens = torch.cat([tokens[:, :prefix], visible], 1)
    return model.norm_pre(tokens)


def gather_patches(patches: Tensor, index: Tensor) -> Tensor:
    """Return the patches of (N, L, D) at index (N, k) int64, (N, k, D)."""
    return patches.gather(1, index[..., None].expand(-1, -1, patches.shape[2]))


def resize_patches(
    patches: Tensor, grid: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Return patches (N, L, D) of a grid for one of another size, bilinearly.

    Args:
        patches: row by row.
        grid: H and W, with L = H W.
        size: of the new grid.
    """
    if grid == size:
        return patches
    maps = patches.mT.unflatten(2, grid)
    return interpolate(maps, size, mode="bilinear").flatten(2).mT


def pixel_patches(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut images (N, C, H, W) into the pixels of patches of a size, (N, L, p p C).

    A patch's pixels are in the order of MAE's authors, the channels of each together.
    """
    patches = unfold(images, size, stride=size).unflatten(1, (images.shape[1], -1))
    return patches.permute(0, 3, 2, 1).flatten(2)
