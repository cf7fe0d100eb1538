"""What all ranks saw of a split, in its order."""

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
    own = torch.cat(list(parts))
    if world_size() == 1:
        return own
    lengths = all_gather_object([len(part) for part in parts])
    whole = gather_uneven(own).split([n for some in lengths for n in some])
    ranks, start = [], 0
    for some in lengths:
        ranks.append(whole[start : start + len(some)])
        start += len(some)
    batches = zip_longest(*ranks, fillvalue=own[:0])
    return torch.cat([part for batch in batches for part in batch])
