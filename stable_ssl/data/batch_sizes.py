"""How large the batches of a loader are: the library's, or one that is brought."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

from stable_ssl import distributed
from stable_ssl.batch import known_length


class Sizes(NamedTuple):
    """Samples over all processes, as `check.check_sizes` asks of a sampler."""

    batch_size: int
    rest: int  # of a last batch that is smaller, or 0
    size: int  # of an epoch
    world_size: int = 1  # parts that a batch is cut into here


def is_shared_out(loader: Any) -> bool:
    """Return whether a loader that is brought gives each process a part of its own."""
    batches = getattr(loader, "batch_sampler", None)
    samplers = getattr(loader, "sampler", None), getattr(batches, "sampler", None)
    return any(isinstance(sampler, DistributedSampler) for sampler in samplers)


def batch_size_of(loader: Any) -> int | None:
    """Return the samples of a batch over all processes; None where nothing says it."""
    size = getattr(loader, "batch_size", None)
    if size is None:
        size = getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if type(size) is not int:
        return None
    return size * (distributed.world_size() if is_shared_out(loader) else 1)


def sizes_of(loader: Any) -> Sizes | None:
    """Return the sizes of a DataLoader; None of one that batches in its own way."""
    batches = loader.batch_sampler if isinstance(loader, DataLoader) else None
    if type(batches) is not BatchSampler:
        return None
    if not (size := known_length(batches.sampler)):
        return None
    batch_size = min(batches.batch_size, size)
    rest = 0 if batches.drop_last else size % batch_size
    ranks = distributed.world_size() if is_shared_out(loader) else 1
    return Sizes(ranks * batch_size, ranks * rest, ranks * size)
