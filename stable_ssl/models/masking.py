"""Which patches of an image are seen: a function of keys, whatever the batch's split.

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
    """Hide a share of the patches, any subset of that size alike.

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
    appendix A.1: sizes are drawn once a batch, places for each image.
    Differs from the paper: it cuts all contexts to the shortest of a batch, which
    depends on the batch; here all have the patches that targets without overlap would
    leave, so that sizes alone decide. They come from the context block; an image whose
    block has too few, its targets overlapping little, takes the rest from outside it.

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
    at = seeding.uniform(sizes_key.cpu()[None], (3,))[0].tolist()
    high, wide = _size(grid, target_scale, at[0], _between(at[1], target_aspect))
    context = _size(grid, context_scale, at[2], 1.0)
    blocks = _place(seeding.fold_in(keys, 0), grid, high, wide, targets)
    inside = _mask(_place(seeding.fold_in(keys, 1), grid, *context, 1)[:, 0], grid**2)
    taken = _mask(blocks.flatten(1), grid**2)
    # first a random order of what is inside, then of what is not, targets last
    rank = seeding.uniform(seeding.fold_in(keys, 2), (grid**2,)).double()
    order = (rank + (~inside) + 2 * taken).argsort(dim=1, stable=True)
    visible = grid**2 - targets * high * wide
    return order[:, :visible].sort(1).values, blocks


def _between(u: float, ends: Range) -> float:
    return ends[0] + u * (ends[1] - ends[0])


def _size(grid: int, scale: Range, u: float, aspect: float) -> tuple[int, int]:
    """Return height and width of a block, at most the largest scale when rounded."""
    area, largest = _between(u, scale) * grid**2, scale[1] * grid**2
    high = min(grid, max(1, round(math.sqrt(area * aspect))))
    wide = min(round(area / high), int(largest / high))
    return high, min(grid, max(1, wide))


def _place(keys: Tensor, grid: int, high: int, wide: int, count: int) -> Tensor:
    """Return the patches of `count` blocks an image, (N, count, high * wide)."""
    top = seeding.randint(seeding.fold_in(keys, 0), grid - high + 1, (count,))
    left = seeding.randint(seeding.fold_in(keys, 1), grid - wide + 1, (count,))
    rows = torch.arange(high, device=keys.device)[:, None]
    columns = torch.arange(wide, device=keys.device)
    return (top * grid + left)[..., None] + (rows * grid + columns).flatten()


def _mask(index: Tensor, patches: int) -> Tensor:
    """Return the mask (N, patches) bool that is true at index (N, k)."""
    mask = torch.zeros(len(index), patches, dtype=torch.bool, device=index.device)
    return mask.scatter_(1, index, True)
