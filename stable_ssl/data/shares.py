"""The part that each process evaluates of a loader of one's own.

The library's loaders give each process a part of every batch, and DistributedSampler
gives each a part of the samples. A loader that gives all of them the same would put
every image of a bank in as often as there are processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy
from torch import Tensor

from stable_ssl import distributed
from stable_ssl.batch import BatchSource, count, tensors
from stable_ssl.data.batch_sizes import is_shared_out


class Share:
    """Yield this process's rows of every batch; else the loader that it is made of."""

    def __init__(self, loader: Iterable[Any]):
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        rank, ranks = distributed.rank(), distributed.world_size()
        for batch in self.loader:
            rows = count(batch) or 0
            each, more = divmod(rows, ranks)  # as torch.tensor_split
            first = rank * each + min(rank, more)
            part = slice(first, first + each + (rank < more))
            yield rows_of(batch, part, rows)

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self.loader, name)


def shares(loaders: Mapping[str, Iterable[Any]]) -> dict[str, Iterable[Any]]:
    """Return the loaders, those of evaluations that all processes share shared out.

    Which these are, their first batches say. Synchronises the ranks.

    Args:
        loaders: by split.
    """
    if distributed.world_size() == 1:
        return dict(loaders)
    return {
        split: Share(loader) if split != "train" and _is_alike(loader) else loader
        for split, loader in loaders.items()
    }


def _is_alike(loader: Iterable[Any]) -> bool:
    """Return whether a loader gives all processes one first batch, for each a row."""
    seen: Any = None
    known = isinstance(loader, BatchSource) or is_shared_out(loader)
    if not known and iter(loader) is not loader:  # which would begin but once
        batch = next(iter(loader), None)
        rows = count(batch) or 0
        if rows >= distributed.world_size():
            sums = [repr(x.double().sum().item()) for x in tensors(batch)]
            seen = rows, sums
    everyone = distributed.all_gather_object(seen)
    return seen is not None and all(other == seen for other in everyone)


def rows_of(batch: Any, part: slice, rows: int) -> Any:
    """Return some rows of a batch of nested lists, tuples and mappings.

    Args:
        batch: what it holds besides arrays and lists of `rows` stays whole.
        part: of the rows.
        rows: of the batch.
    """
    if isinstance(batch, (Tensor, numpy.ndarray)):
        return batch[part] if batch.ndim and len(batch) == rows else batch
    if isinstance(batch, Mapping):
        return {name: rows_of(value, part, rows) for name, value in batch.items()}
    if not isinstance(batch, (list, tuple)):
        return batch
    nested = (Tensor, numpy.ndarray, Mapping, list, tuple)
    if len(batch) == rows and not any(isinstance(value, nested) for value in batch):
        return batch[part]  # texts, one a sample
    kind, values = type(batch), [rows_of(value, part, rows) for value in batch]
    return kind(*values) if hasattr(batch, "_fields") else kind(values)
