"""Masks of patches, a function of each image's key and so the same in any batch.

Keys are those of `seeding.sample_keys`; patches are numbered row by row.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.schema import ConfigError

Range = tuple[float, float]

TRIES = 20  # places of a context block before it may overlap one target more


def random_masks(keys: Tensor, patches: int, hidden: int) -> tuple[Tensor, Tensor]:
    """Hide so many of the patches, any subset of that size with equal probability.

    He et al. 2022 (MAE), https://arxiv.org/abs/2111.06377, section 3.

    Args:
        keys: one an image, (N,) int64.
        patches: L, without the class token.
        hidden: how many of them. A share is the caller's to round, as its authors do.

    Returns:
        The visible patches in ascending order, (N, k) int64, and the mask, (N, L)
        bool, true where hidden.

    Raises:
        ConfigError: nothing would be hidden, or all.
    """
    if not 0 < hidden < patches:
        raise ConfigError(
            f"a mask would hide {hidden} of {patches} patches; set a mask ratio that"
            " hides some and leaves some"
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
    times; then it may overlap the last target, after 20 more the last two, and so on,
    of which it is warned.
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
        if attempt == TRIES - 1:
            warnings.warn(
                f"{targets} targets leave some contexts no more than model.min_keep="
                f"{min_keep} patches, so that these show patches to be predicted; use a"
                " smaller min_keep, fewer targets or smaller patches",
                stacklevel=2,
            )
    shortest = int(seen.sum(1).min())
    first = seen.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    return first[:, :shortest], blocks


def blockwise_masks(
    keys: Tensor,
    grid: tuple[int, int],
    ratio: Range = (0.1, 0.5),
    share: float = 1.0,
    smallest: int = 16,
    aspect: float = 0.3,
    attempts: int = 30,
) -> Tensor:
    """Hide blocks of patches, one after the other, until as many are hidden as asked.

    Bao et al. 2022 (BEiT), https://arxiv.org/abs/2106.08254, algorithm 1, with the
    authors' bounds: a block is drawn anew if it would hide nothing more, or too much,
    or reach from side to side; after ten in a row that is all. Differs from it: at most
    `attempts` blocks are drawn, at once for all images.

    Args:
        keys: one an image, (N,) int64.
        grid: patches along the height and the width, H and W.
        ratio: of the patches that are hidden, drawn for each image and rounded down.
        share: of the images of which patches are hidden; of others, none.
        smallest: patches of the smallest block, except where fewer are left to hide.
        aspect: of a block's height to its width, the smallest; its inverse the largest.
        attempts: blocks that are drawn for an image.

    Returns:
        The mask, (N, H W) bool, true where hidden.
    """
    (height, width), n = grid, len(keys)
    chance, amount = seeding.uniform(seeding.fold_in(keys, 0), (2,)).unbind(1)
    wanted = (_interpolate(amount, ratio) * height * width).floor()
    wanted = wanted * (chance < share)
    u = seeding.uniform(seeding.fold_in(keys, 1), (attempts, 4))
    stretch = (math.log(aspect) * (2 * u[..., 1] - 1)).exp()
    rows = torch.arange(height, device=keys.device)[:, None]
    columns = torch.arange(width, device=keys.device)
    mask = torch.zeros(n, height, width, dtype=torch.bool, device=keys.device)
    hidden, failures = torch.zeros_like(wanted), torch.zeros_like(wanted)
    for i in range(attempts):
        area = smallest + u[:, i, 0] * (wanted - hidden - smallest)
        high = (area * stretch[:, i]).sqrt().round()
        wide = (area / stretch[:, i]).sqrt().round()
        top = (u[:, i, 2] * (height - high + 1)).floor()
        left = (u[:, i, 3] * (width - wide + 1)).floor()
        inside = _within(rows, top, high) & _within(columns, left, wide) & ~mask
        more = inside.sum((1, 2))
        taken = (high < height) & (wide < width) & (failures < 10)
        taken &= (0 < more) & (more <= wanted - hidden)
        mask |= inside & taken[:, None, None]
        hidden = hidden + more * taken
        failures = (failures + 1) * ~taken
    return mask.flatten(1)


def hide_in_views(
    keys: Tensor,
    views: Sequence[Tensor],
    patch_size: tuple[int, int],
    ratio: Range,
    *block: float,
) -> Tensor:
    """Hide blocks of patches of several views, of each image and view others.

    Args:
        keys: one an image, (N,) int64.
        views: V of one size, (N, C, H, W).
        patch_size: of the backbone, pixels.
        ratio: as for `blockwise_masks`.
        block: its further arguments.

    Returns:
        The mask, view after view, (V N, L) bool, true where hidden.
    """
    height, width = views[0].shape[2:]
    grid = height // patch_size[0], width // patch_size[1]
    keys = torch.cat([seeding.fold_in(keys, view) for view in range(len(views))])
    return blockwise_masks(keys, grid, ratio, *block)


def hidden_first(mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return where a mask is true, for tensors of one shape whatever is hidden.

    Args:
        mask: (N, L) bool.
        most: k, patches hidden of one image at most.

    Returns:
        Patches (N, k) int64, the hidden ones first and ascending, and (N, k) bool, true
        for those that are hidden.
    """
    order = (~mask).byte().argsort(dim=1, stable=True)[:, :most]
    return order, mask.gather(1, order)


def _within(places: Tensor, first: Tensor, count: Tensor) -> Tensor:
    """Return which places lie in [first, first + count), of each image."""
    first, count = first[:, None, None], count[:, None, None]
    return (places >= first) & (places < first + count)


def _interpolate(u: float | Tensor, ends: Range) -> float | Tensor:
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
