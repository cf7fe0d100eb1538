"""Samples of train that are evaluated on: accuracy on them measures no generalisation.

A sample is known by its file, by its row in a dataset that both splits read, or by its
row in what both were made of: a file of arrays, the digits, the same arguments.
Samples that are equal, and known by none of these, are not found.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    IterableDataset,
    Subset,
    TensorDataset,
)

from stable_ssl.batch import known_length
from stable_ssl.data.combined import named_parts
from stable_ssl.data.datasets import Source, sample_name
from stable_ssl.data.index.paths import Paths
from stable_ssl.data.loading.loader import Loader
from stable_ssl.data.nodes import split_name
from stable_ssl.data.sources.source import labelled_files


@dataclass(frozen=True, eq=False)
class Piece:
    """Some samples of a dataset that is no part of another."""

    dataset: Any
    rows: Tensor  # (N,) int64
    built_of: str | None  # arguments, where the config names it

    @property
    def files(self) -> Iterator[str] | None:
        """The samples' files; None where they have none each."""
        if isinstance(self.dataset, Source):
            if not self.dataset.paths:
                return None
            source = copy(self.dataset)
            source.rows = source.rows[self.rows]
            return source.files()
        samples = labelled_files(self.dataset)
        if not samples or len(samples) != known_length(self.dataset):
            return None
        return (os.fspath(samples[row][0]) for row in self.rows.tolist())

    @cached_property
    def hashes(self) -> numpy.ndarray | None:
        """A number of each file, of 8 bytes, the same in this process; None of none."""
        files = self.files
        return None if files is None else numpy.fromiter(map(hash, files), numpy.int64)

    @cached_property
    def sorted_hashes(self) -> numpy.ndarray:
        """`hashes` in ascending order."""
        return numpy.sort(self.hashes)

    def shared_with(self, other: Piece) -> Tensor:
        """Return which of the samples are among another's, too, (N,) bool."""
        one, two = self.dataset, other.dataset
        tensors = isinstance(one, TensorDataset) and isinstance(two, TensorDataset)
        if (
            one is two
            or (self.built_of is not None and self.built_of == other.built_of)
            or (tensors and one.tensors[0] is two.tensors[0])
        ):
            return torch.isin(self.rows, other.rows)
        if isinstance(one, Source) and isinstance(two, Source):
            if one.origin is not None and one.origin == two.origin:
                rows = (part.dataset.origin_rows[part.rows] for part in (self, other))
                return torch.isin(*rows)
            if isinstance(one.paths, Paths) and isinstance(two.paths, Paths):
                known = one.paths.are_those_of(two.paths)
                if known is not None:
                    rows = other.rows if known else other.rows[:0]
                    return torch.isin(one.rows[self.rows], two.rows[rows])
        if self.hashes is None or other.hashes is None or not len(other.hashes):
            return torch.zeros(len(self.rows), dtype=torch.bool)
        known = other.sorted_hashes
        at = numpy.searchsorted(known, self.hashes).clip(max=len(known) - 1)
        return torch.from_numpy(known[at] == self.hashes)


def warn_of_leakage(
    loaders: Mapping[str, Iterable[Any]], built_of: Mapping[str, str]
) -> None:
    """Warn of samples of train that are in val or test, too.

    The bank may well be those of train, and is not looked at.

    Args:
        loaders: `Loader`, `Combined`, or one that was brought, by split; train first.
        built_of: arguments of datasets that the config names, by `split_name`.
    """
    trained: list[Piece] = []
    for split, combined in loaders.items():
        if split in ("bank", "predict"):
            continue
        for name, loader in named_parts(combined, None).items():
            at = split_name(split, name)
            parts = pieces_of(loader, built_of.get(at))
            if split == "train":
                trained += parts
            else:
                _warn_of_shared(at, parts, trained)


def _warn_of_shared(split: str, parts: Sequence[Piece], trained: list[Piece]) -> None:
    """Warn if samples of a split are among those that are trained on."""
    masks = []
    for part in parts:
        masks.append(torch.zeros(len(part.rows), dtype=torch.bool))
        for other in trained:
            masks[-1] |= part.shared_with(other)
    count = sum(int(mask.sum()) for mask in masks)
    if not count:
        return
    part, mask = next(pair for pair in zip(parts, masks, strict=True) if pair[1].any())
    if part.files is not None:
        example = min(compress(part.files, mask.tolist()))
    else:
        example = sample_name(part.dataset, int(part.rows[mask].min()))
    warnings.warn(
        f"{count} of the {sum(map(len, masks))} images of data.{split} are in"
        f" data.train, too, {example} among them; give both the same shares (val_size,"
        " test_size, seed) and their own subset, or each samples of its own",
        stacklevel=3,
    )


def pieces_of(loader: Any, built_of: str | None = None) -> list[Piece]:
    """Return whose samples a loader reads; none where that is not known."""
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, IterableDataset) or not (size := known_length(dataset)):
        return []
    rows = _rows_of(loader, size)
    return [] if rows is None else list(_pieces(dataset, rows, built_of))


def _pieces(dataset: Any, rows: Tensor, built_of: str | None) -> Iterator[Piece]:
    """Yield rows of a dataset as rows of those that it is made of."""
    if isinstance(dataset, Subset):
        size = known_length(dataset.dataset)
        chosen = None if size is None else _numbers(dataset.indices, size)
        if chosen is not None:
            yield from _pieces(dataset.dataset, chosen[rows], built_of)
    elif isinstance(dataset, ConcatDataset):
        start = 0
        for part, end in zip(dataset.datasets, dataset.cumulative_sizes, strict=True):
            inside = rows[(rows >= start) & (rows < end)]
            yield from _pieces(part, inside - start, None)
            start = end
    else:
        yield Piece(dataset, rows, built_of)


def _rows_of(loader: Any, size: int) -> Tensor | None:
    """Return which of `size` samples a loader's sampler may choose; None: who knows."""
    if isinstance(loader, Loader):
        sampler = loader.sampler.sampler
    elif type(batches := getattr(loader, "batch_sampler", None)) is BatchSampler:
        sampler = batches.sampler
    else:
        sampler = getattr(loader, "sampler", None) if batches is None else batches
    if sampler is None:
        return torch.arange(size)
    if isinstance(sampler, (list, tuple, Tensor)):
        return _numbers(sampler, size)
    if type(sampler).__module__.partition(".")[0] not in ("torch", "stable_ssl"):
        return None
    if (indices := getattr(sampler, "indices", None)) is not None:
        return _numbers(indices, size)
    if (weights := getattr(sampler, "weights", None)) is not None:
        return _numbers(weights.nonzero().flatten(), size)
    source = getattr(sampler, "data_source", getattr(sampler, "dataset", None))
    count = known_length(source) or size
    return torch.arange(count) if count <= size else None


def _numbers(chosen: Any, size: int) -> Tensor | None:
    """Return numbers of `size` samples, (N,) int64; None of others, refused elsewhere.

    As of a list, -1 is the last.
    """
    try:
        rows = torch.as_tensor(chosen)
    except (TypeError, ValueError, RuntimeError):
        return None
    if rows.ndim != 1 or rows.is_floating_point() or not len(rows):
        return None
    least, most = (int(bound) for bound in rows.aminmax())
    return rows.long() % size if -size <= least and most < size else None
