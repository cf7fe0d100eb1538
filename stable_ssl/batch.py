"""What any loader and its batches have in common, the library's and a user's.

A batch is a tuple or list: first the images, one view or a list of views, then the
labels, then whatever else the dataset returns. Several train loaders together give a
dict of such batches by name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy
import torch
from torch import Tensor


@runtime_checkable
class BatchSource(Protocol):
    """A loader of batches on the device that can start at any batch of an epoch.

    `Loader` and `Combined` are such, and a user's loader may be.
    """

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and the batch in it that the next iteration starts with."""

    def __iter__(self) -> Iterator[Any]: ...


def batches_from(
    loader: Iterable[Any], epoch: int, start: int, end: int, device: torch.device
) -> Iterator[Any]:
    """Return the batches `start` to `end` of an epoch, on the device.

    Args:
        loader: of one that is no `BatchSource`, the batches before `start` are read and
            dropped in this call; its samplers are told the epoch, if they ask for it.
        epoch: counted from 0, as the batches are.
        start: the first batch.
        end: one past the last.
        device: where they go.
    """
    if isinstance(loader, BatchSource):
        loader.set_epoch(epoch, start)
        return islice(loader, end - start)
    for sampler in _samplers(loader):
        if callable(tell := getattr(sampler, "set_epoch", None)):
            tell(epoch)
    batches = iter(loader)
    for _ in islice(batches, start):
        pass
    return (to_device(batch, device) for batch in islice(batches, end - start))


def generators(loader: Any) -> list[torch.Generator]:
    """Return the generators from which a user's loader of torch draws its order."""
    parts = [loader, *_samplers(loader)] if not isinstance(loader, BatchSource) else []
    found = [getattr(part, "generator", None) for part in parts]
    found = [g for g in found if isinstance(g, torch.Generator)]
    return list({id(g): g for g in found}.values())


def _samplers(loader: Any) -> Iterator[Any]:
    """Yield the samplers of a loader, those within its batch sampler, too."""
    for name in ("sampler", "batch_sampler"):
        if (sampler := getattr(loader, name, None)) is not None:
            yield sampler
            yield from _samplers(sampler)


def known_length(data: Iterable[Any]) -> int | None:
    """Return the length of a loader, in batches, or of a dataset; None without one."""
    try:
        return len(data)
    except TypeError:
        return None


def first_view(x: Tensor | list[Tensor]) -> Tensor:
    """Return the view (N, C, H, W) of a batch's images, the first of several."""
    return x[0] if isinstance(x, list) else x


def count(batch: Any) -> int | None:
    """Return how many samples a batch holds, the rows of its first array.

    It is 0 if all its arrays are empty, and None where it has none that is known.
    """
    if isinstance(batch, (Tensor, numpy.ndarray)):
        return len(batch) if batch.ndim else 1
    if (parts := parts_of(batch)) is None:
        return None
    found = [rows for rows in map(count, parts) if rows is not None]
    return next(filter(None, found), 0) if found else None


def seen(
    loader: Iterable[Any], device: torch.device, limit: int | None = None
) -> Iterator[Any]:
    """Yield the batches of any loader that an evaluation sees, on its device.

    They are made in full precision, whatever the features are encoded in.

    Args:
        loader: the library's, or one that is brought.
        device: where batches go.
        limit: batches to take; None takes all.
    """
    batches, taken, end = iter(loader), 0, object()
    while taken != limit:
        with torch.autocast(device.type, enabled=False):
            batch = next(batches, end)
        if batch is end:
            return
        yield to_device(batch, device)
        taken += 1


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a batch with its tensors, however nested, on a device; does not wait.

    Objects of a user's own that have a method `to` are moved by that, dataclasses
    without one field by field.
    """
    if device.type == "cpu":
        return batch  # already there; to look through it would cost 5 us
    return mapped(batch, partial(_moved, device), lambda x: x.to(device))


def _moved(device: torch.device, x: Tensor) -> Tensor:
    return x.to(device, non_blocking=True)


def mapped(
    batch: Any,
    change: Callable[[Tensor], Tensor],
    move: Callable[[Any], Any] = lambda x: x,
) -> Any:
    """Return a batch with each of its tensors changed; named tuples stay such.

    Args:
        batch: nested lists, tuples, mappings and dataclasses; what else it holds stays
            as it is.
        change: called with each tensor.
        move: called with each other object that has a method `to`.
    """
    if isinstance(batch, Tensor):
        return change(batch)
    nested = isinstance(batch, (Mapping, list, tuple))
    if not nested and callable(getattr(batch, "to", None)):
        return move(batch)
    return rebuilt(batch, lambda part: mapped(part, change, move))


def rebuilt(batch: Any, change: Callable[[Any], Any]) -> Any:
    """Return a list, tuple, mapping or dataclass with each of its parts changed.

    Mappings become dicts, named tuples stay such; anything else is returned as it is.
    """
    if isinstance(batch, Mapping):
        return {name: change(value) for name, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        kind, values = type(batch), [change(value) for value in batch]
        return kind(*values) if hasattr(batch, "_fields") else kind(values)
    if not is_dataclass(batch) or isinstance(batch, type):
        return batch
    new = copy.copy(batch)
    for name in (field.name for field in fields(batch)):
        if hasattr(batch, name):  # a frozen one refuses setattr
            object.__setattr__(new, name, change(getattr(batch, name)))
    return new


def parts_of(batch: Any) -> list[Any] | None:
    """Return what a list, tuple, mapping or dataclass holds; None of anything else."""
    if is_dataclass(batch):
        return [getattr(batch, field.name, None) for field in fields(batch)]
    if isinstance(batch, Mapping):
        return list(batch.values())
    return list(batch) if isinstance(batch, (list, tuple)) else None


def tensors(batch: Any) -> Iterator[Tensor]:
    """Yield the tensors of a batch, however nested."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        yield from tensors(list(batch.values()))
    elif isinstance(batch, (list, tuple)):
        for value in batch:
            yield from tensors(value)


def joined(batches: Sequence[Any]) -> Any:
    """Return batches of one form as one, their tensors concatenated by rows."""
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(list(batches))
    if isinstance(first, Mapping):
        return {name: joined([batch[name] for batch in batches]) for name in first}
    if isinstance(first, (list, tuple)):
        parts = [joined(values) for values in zip(*batches, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    return first


def prefetched(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Yield batches on a device; a GPU gets the next one while this one is used."""
    if device.type != "cuda":
        yield from (to_device(batch, device) for batch in batches)
        return
    stream, pending = _copying(device), None
    for batch in batches:
        with torch.cuda.stream(stream):
            copied = mapped(batch, partial(_moved, device))
            done = stream.record_event()
        if pending is not None:
            yield _arrived(*pending, device)
        pending = copied, done
    if pending is not None:
        yield _arrived(*pending, device)


@lru_cache(None)
def _copying(device: torch.device) -> torch.cuda.Stream:
    """Return the stream that copies to a device; one, whose memory is used again."""
    return torch.cuda.Stream(device)


def _arrived(batch: Any, done: torch.cuda.Event, device: torch.device) -> Any:
    """Make the current stream wait for tensors that another one copied.

    Objects that have a method `to` are moved now: nobody could hold their tensors.
    """
    current = torch.cuda.current_stream()
    current.wait_event(done)

    def hold(tensor: Tensor) -> Tensor:  # its memory is not reused before we are done
        tensor.record_stream(current)
        return tensor

    return mapped(batch, hold, lambda x: x.to(device))
