"""The part that each process evaluates of a loader of one's own.

The library's loaders give each process a part of every batch, and DistributedSampler
gives each a part of the samples. A loader that gives all of them the same would put
every image of a bank in as often as there are processes.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import RandomSampler

from stable_ssl import distributed, seeding
from stable_ssl.batch import BatchSource, count, parts_of, rebuilt
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

    Which these are, their first batches say, drawn from other global generators on each
    process. Synchronises the ranks; the caller keeps the global generators.

    Args:
        loaders: by split.
    """
    if distributed.world_size() == 1:
        return dict(loaders)
    seeding.seed_everything(distributed.rank())
    alike = [s for s, x in loaders.items() if s != "train" and _is_alike(s, x)]
    return {s: Share(x) if s in alike else x for s, x in loaders.items()}


def _is_alike(split: str, loader: Iterable[Any]) -> bool:
    """Return whether a loader gives all processes one first batch, for each a row."""
    seen = None
    known = isinstance(loader, BatchSource) or is_shared_out(loader)
    if not known and iter(loader) is not loader:  # which would begin but once
        batch = next(iter(loader), None)
        sums = [_checksum(x) for x in _arrays(batch)]
        if sums and (count(batch) or 0) >= distributed.world_size():
            seen = sums
    everyone = distributed.all_gather_object(seen)
    alike = seen is not None and all(other == seen for other in everyone)
    if not (alike or known) and type(getattr(loader, "sampler", None)) is RandomSampler:
        warnings.warn(
            f"the {split} loader, a {type(loader).__name__}, shuffles, so that each of"
            f" {len(everyone)} processes sees all of it, in an order of its own; set"
            " shuffle=False, and each sees its part",
            stacklevel=3,
        )
    return alike


def _arrays(batch: Any) -> Iterator[Tensor]:
    """Yield the arrays of numbers of a batch as tensors on the CPU."""
    if isinstance(batch, Tensor):
        yield batch.detach().cpu()
    elif isinstance(batch, numpy.ndarray) and batch.dtype.kind in "biufc":
        yield torch.as_tensor(batch)
    for part in parts_of(batch) or ():
        yield from _arrays(part)


def _checksum(x: Tensor) -> tuple[Any, ...]:
    """Return what another order of the values changes, too."""
    values = x.contiguous().flatten().view(torch.uint8).numpy()
    return str(x.dtype), tuple(x.shape), zlib.crc32(values)


def rows_of(batch: Any, part: slice, rows: int) -> Any:
    """Return some rows of a batch of nested lists, tuples, mappings and dataclasses.

    A list of `rows` values has one a sample, unless all are arrays of `rows`: those are
    views. What else there is stays whole.

    Args:
        batch: its images come first.
        part: of the rows.
        rows: of the batch.
    """

    def is_array(x: Any) -> bool:
        return isinstance(x, (Tensor, numpy.ndarray)) and x.ndim > 0 and len(x) == rows

    def cut(x: Any) -> Any:
        if is_array(x):
            return x[part]
        samples = isinstance(x, (list, tuple)) and len(x) == rows
        if samples and not all(map(is_array, x)):
            return x[part]
        return rebuilt(x, cut)

    # a batch of however many parts is no list of samples
    return rebuilt(batch, cut) if isinstance(batch, (list, tuple)) else cut(batch)
