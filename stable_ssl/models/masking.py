"""Masks of patches, a function of each image's key and so the same in any batch.

Keys are those of `seeding.sample_keys`; patches are numbered row by row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.schema import ConfigError

Range = tuple[float, float]

TRIES = 20  # places of a context block before it may overlap one target more


def random_masks(keys: Tensor, patches: int, ratio: float) -> tuple[Tensor, Tensor]:
    """Hide a share of the patches, any subset of that size with equal probability.

    He et al. 2022 (MAE), https://arxiv.org/abs/2111.06377, section 3.

    Args:
        keys: one an image, (N,) int64.
        patches: L, without the class token.
        ratio: share of the patches that is hidden; int(L (1 - ratio)) are visible, as
            the authors count.

    Returns:
        The visible patches in ascending order, (N, k) int64, and the mask, (N, L)
        bool, true where hidden.

    Raises:
        ConfigError: nothing would be hidden, or all.
    """
    hidden = patches - int(patches * (1 - ratio))
    if not 0 < hidden < patches:
        raise ConfigError(
            f"a mask ratio of {ratio} hides {hidden} of {patches} patches; hide some"
            " and leave some"
        )
    order = seeding.bits(keys, (patches,)).argsort(1)
    keep = order[:, hidden:].sort(1).values
    return keep, ~_mask(keep, patches)


def block_masks(
    keys: Tensor,
    sizes_key: Tensor,
    grid: int,
    targets: int = 4,
    target_scale: Range = (0.15, 0.2),
    target_aspect: Range = (0.75, 1.5),
    context_scale: Range = (0.85, 1.0),
    min_keep: int = 10,
) -> tuple[Tensor, Tensor]:
    """Draw blocks to predict and, without their patches, a context to predict from.

    Assran et al. 2023 (I-JEPA), https://arxiv.org/abs/2301.08243, section 3 and
    appendix A.1, as the authors' code draws them. Sizes are drawn once a batch, one
    number for a block's scale and its aspect; places for each image. A context is its
    block without the patches of the targets, and all contexts are cut, from their end,
    to the shortest of the batch. One that keeps too few patches is drawn again, 20
    times; then it may overlap the last target, after 20 more the last two, and so on.
    A block is smaller than the image on both sides, and never reaches the last row and
    column, which the upper ends of the authors' draws leave out.

    Args:
        keys: one an image, (N,) int64, of the whole batch on all ranks: its shortest
            context is that of each image.
        sizes_key: of the batch's block sizes, () int64: `trainer.step_key()`.
        grid: patches along a side of the image.
        targets: number of blocks to predict, M.
        target_scale: of a block's area, in images.
        target_aspect: of a block's height to its width.
        context_scale: of the context block's area, a square's, in images.
        min_keep: a context has more patches than that.

    Returns:
        Context (N, k) and targets (N, targets, a), int64 and ascending.

    Raises:
        ConfigError: a context block that has no more patches than `min_keep`.
    """
    u_target, u_context = seeding.uniform(sizes_key[None], (2,))[0].tolist()
    size = _size(grid, target_scale, target_aspect, u_target)
    blocks = _blocks(seeding.fold_in(keys, 0), grid, size, targets)
    height, width = size = _size(grid, context_scale, (1.0, 1.0), u_context)
    if height * width <= min_keep:
        raise ConfigError(
            f"a context block of {height} x {width} patches has no more than"
            f" model.min_keep={min_keep} of them; use a smaller min_keep, or smaller"
            " patches"
        )
    seen = torch.zeros(len(keys), grid**2, dtype=torch.bool)
    rows = torch.arange(len(keys))  # whose context is yet to be found
    for attempt in range(TRIES * (targets + 1)):
        apart = targets - attempt // TRIES  # targets that the context may not overlap
        place = seeding.fold_in(seeding.fold_in(keys[rows], 1), attempt)
        context = _mask(_blocks(place, grid, size, 1).flatten(1), grid**2)
        context &= ~_mask(blocks[rows, :apart].flatten(1), grid**2)
        enough = context.sum(1) > min_keep
        seen[rows[enough]] = context[enough]
        rows = rows[~enough]
        if not len(rows):
            break
    shortest = int(seen.sum(1).min())
    first = seen.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    return first[:, :shortest], blocks


def _interpolate(u: float, ends: Range) -> float:
    return ends[0] + u * (ends[1] - ends[0])


def _size(grid: int, scale: Range, aspect: Range, u: float) -> tuple[int, int]:
    """Return height and width of a block, both below the grid's side."""
    area, ratio = int(grid**2 * _interpolate(u, scale)), _interpolate(u, aspect)
    sides = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    return tuple(max(1, min(side, grid - 1)) for side in sides)


def _blocks(keys: Tensor, grid: int, size: tuple[int, int], count: int) -> Tensor:
    """Return the patches of `count` blocks an image, (N, count, high * wide)."""
    height, width = size
    top = seeding.randint(seeding.fold_in(keys, 0), grid - height, (count,))
    left = seeding.randint(seeding.fold_in(keys, 1), grid - width, (count,))
    rows = torch.arange(height, device=keys.device)[:, None]
    columns = torch.arange(width, device=keys.device)
    return (top * grid + left)[..., None] + (rows * grid + columns).flatten()


def _mask(index: Tensor, patches: int) -> Tensor:
    """Return the mask (N, patches) bool that is true at index (N, k)."""
    mask = torch.zeros(len(index), patches, dtype=torch.bool, device=index.device)
    return mask.scatter_(1, index, True)
