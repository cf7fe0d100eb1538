"""Join what each rank evaluated of a split, in the order of the split."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, zip_longest

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
    lengths = all_gather_object([len(part) for part in parts])  # by rank
    gathered = iter(gather_uneven(local).split(sum(lengths, [])))
    by_rank = [list(islice(gathered, len(batches))) for batches in lengths]
    batches = zip_longest(*by_rank, fillvalue=local[:0])
    return torch.cat([part for batch in batches for part in batch])
