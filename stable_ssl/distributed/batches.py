"""Join what each rank evaluated of a split, in the order of the split."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from stable_ssl.distributed.group import all_gather_object, gather_uneven, world_size


def gather_batches(parts: Sequence[Tensor]) -> Tensor:
    """Join every rank's parts of the batches of a split, batch after batch.

    Args:
        parts: one a batch, (n, ...), of which a rank has at least one; n may differ
            between ranks, and the last may be missing on some.

    Returns:
        (N, ...), as one process would see them; synchronises ranks.
    """
    local = torch.cat(list(parts))
    if world_size() == 1:
        return local
    rows = torch.cat(rows_of_ranks([len(part) for part in parts])).to(local.device)
    by_rank = gather_uneven(local)
    return torch.empty_like(by_rank).index_copy_(0, rows, by_rank)


def rows_of_ranks(lengths: Sequence[int]) -> list[Tensor]:
    """Return which rows of a split each rank has, in its order; synchronises ranks.

    Args:
        lengths: of this rank's parts of the batches, as `gather_batches` joins them.

    Returns:
        By rank, (n,) int64 on the CPU, ascending: one row after another where there is
        one process.
    """
    everyone = all_gather_object(list(lengths))
    rows: list[list[Tensor]] = [[torch.arange(0)] for _ in everyone]
    first = 0
    for batch in zip_longest(*everyone, fillvalue=0):
        for own, length in zip(rows, batch, strict=True):
            own.append(torch.arange(first, first + length))
            first += length
    return [torch.cat(own) for own in rows]
