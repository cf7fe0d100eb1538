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


def random_masks(keys: Tensor, patches: int, ratio: float) -> tuple[Tensor, Tensor]:
    """Hide a share of the patches, any subset of that size with equal probability.

    He et al. 2022 (MAE), https://arxiv.org/abs/2111.06377, section 3.

    Args:
        keys: one an image, (N,) int64.
        patches: L, without the class token.
        ratio: share of the patches that is hidden; rounded to a whole number of them.

    Returns:
        The visible patches in ascending order, (N, k) int64, and the mask, (N, L)
        bool, true where hidden.

    Raises:
        ConfigError: nothing would be hidden, or all.
    """
    hidden = round(ratio * patches)
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
) -> tuple[Tensor, Tensor]:
    """Draw blocks to predict and, without their patches, a context to predict from.

    Assran et al. 2023 (I-JEPA), https://arxiv.org/abs/2301.08243, section 3 and
    appendix A.1: sizes are drawn once a batch, positions for each image.
    Differs from the paper: it cuts all contexts to the shortest of a batch, so an
    image's mask depends on the batch; here all contexts have as many patches as targets
    without overlap would leave. They come from the context block; an image whose block
    has too few, as its targets hardly overlap, gets the rest from outside the block.

    Args:
        keys: one an image, (N,) int64.
        sizes_key: of the batch's block sizes, () int64 on the CPU, the same on every
            rank: `trainer.step_key()`.
        grid: patches along a side of the image.
        targets: number of blocks to predict.
        target_scale: of a block's area, in images.
        target_aspect: of a block's height to its width.
        context_scale: of the context block's area, a square's, in images.

    Returns:
        Context (N, k) and targets (N, targets, a), int64 and ascending.

    Raises:
        ConfigError: targets that could cover the whole image.
    """
    if targets * target_scale[1] >= 1:
        raise ConfigError(
            f"{targets} targets of up to {target_scale[1]} of the image leave no"
            " context; use fewer or smaller ones"
        )
    u = seeding.uniform(sizes_key.cpu()[None], (3,))[0].tolist()
    height, width = _size(grid, target_scale, u[0], _interpolate(u[1], target_aspect))
    context = _size(grid, context_scale, u[2], 1.0)
    blocks = _blocks(seeding.fold_in(keys, 0), grid, height, width, targets)
    context_blocks = _blocks(seeding.fold_in(keys, 1), grid, *context, 1)
    in_context = _mask(context_blocks.flatten(1), grid**2)
    in_targets = _mask(blocks.flatten(1), grid**2)
    # context patches come first, then those around, then targets, each in random order
    random_order = seeding.uniform(seeding.fold_in(keys, 2), (grid**2,)).double()
    order = (random_order + (~in_context) + 2 * in_targets).argsort(dim=1, stable=True)
    visible = grid**2 - targets * height * width
    return order[:, :visible].sort(1).values, blocks


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


def _size(grid: int, scale: Range, u: float, aspect: float) -> tuple[int, int]:
    """Return height and width of a block, at most the largest scale when rounded."""
    area, largest = _interpolate(u, scale) * grid**2, scale[1] * grid**2
    height = min(grid, max(1, round(math.sqrt(area * aspect))))
    width = min(round(area / height), int(largest / height))
    return height, min(grid, max(1, width))


def _blocks(keys: Tensor, grid: int, height: int, width: int, count: int) -> Tensor:
    """Return the patches of `count` blocks an image, (N, count, high * wide)."""
    top = seeding.randint(seeding.fold_in(keys, 0), grid - height + 1, (count,))
    left = seeding.randint(seeding.fold_in(keys, 1), grid - width + 1, (count,))
    rows = torch.arange(height, device=keys.device)[:, None]
    columns = torch.arange(width, device=keys.device)
    return (top * grid + left)[..., None] + (rows * grid + columns).flatten()


def _mask(index: Tensor, patches: int) -> Tensor:
    """Return the mask (N, patches) bool that is true at index (N, k)."""
    mask = torch.zeros(len(index), patches, dtype=torch.bool, device=index.device)
    return mask.scatter_(1, index, True)
