"""The labelled features that others are compared with, each where it was made.

No process holds those of another: what is asked about the bank of all is either asked
of each rank's rows, or moves the rows that are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stable_ssl import distributed
from stable_ssl.batch import first_view
from stable_ssl.evaluation.collapse import float64
from stable_ssl.evaluation.collected import Collected
from stable_ssl.evaluation.evaluator import Encode, Labelled, labelled_rows
from stable_ssl.evaluation.labels import with_labels

HALVES = torch.float16, torch.bfloat16
PART = 4096  # rows that are copied or measured at once


class Bank(NamedTuple):
    """The features of this rank, and the labels of all."""

    features: Tensor  # (m, D) in the precision they were encoded in, maybe in a file
    labels: Tensor  # (M,) of all ranks, in the order of the split, on the run's device
    places: Tensor  # (M,) int64 of each row in `features`; -1: another rank has it

    @classmethod
    def of(cls, bank: Labelled | Bank) -> Bank:
        """Return this rank's share of features (M, D) and labels (M,) that all hold."""
        if isinstance(bank, Bank):
            return bank
        features, labels = bank
        world, rank = distributed.world_size(), distributed.rank()
        rows = torch.arange(len(labels)).tensor_split(world)[rank]
        first, end = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
        return cls(features[first:end], labels, _places(rows, labels))

    def columns(self, part: slice) -> Bank:
        """Return the bank of some of the features' numbers, in the same memory."""
        return self._replace(features=self.features[:, part])

    @property
    def rows(self) -> Tensor:
        """Return which of all rows the features are, (m,) int64, ascending."""
        return (self.places >= 0).nonzero()[:, 0]

    @property
    def finite(self) -> bool:
        """Return whether all features of this rank are."""
        return all(bool(x.isfinite().all()) for x in self.features.split(PART))

    def held(self, rows: Tensor) -> Labelled:
        """Return those of some rows that this rank holds, and their labels."""
        places = self.places[rows]
        here = places >= 0
        chosen = places[here].to(self.features.device)
        return self._exact(self.features[chosen]), self.labels[rows[here]]

    def take(self, rows: Tensor) -> Tensor:
        """Return the features (n, D) of rows (n,) of all ranks; synchronises them."""
        x, _ = self.held(rows)
        if distributed.world_size() == 1:
            return x
        taken = x.new_zeros(len(rows), x.shape[1])
        taken[self.places[rows] >= 0] = x
        return distributed.all_sum(taken)  # of one and zeros: exact

    def whole(self, keep: bool = True) -> Labelled | None:
        """Return features (M, D) and labels (M,) of all ranks; synchronises them.

        Args:
            keep: whether this rank does; one that does not gets None, and needs no
                memory for them.
        """
        if distributed.world_size() == 1:
            return self._exact(self.features), self.labels
        size = len(self.labels)
        features = self._exact(self.features[:0]).new_empty(
            size if keep else 0, self.features.shape[1]
        )
        for rows in torch.arange(size, device=self.labels.device).split(PART):
            part = self.take(rows)
            if keep:
                features[rows] = part
        return (features, self.labels) if keep else None

    def _exact(self, features: Tensor) -> Tensor:
        """Return features on the run's device, halves in float32."""
        dtype = torch.promote_types(features.dtype, torch.float32)
        return features.to(self.labels.device, dtype)


def _places(rows: Tensor, labels: Tensor) -> Tensor:
    """Return the place of each of all rows among these (m,); -1 of the others."""
    places = torch.full((len(labels),), -1, device=labels.device)
    places[rows.to(labels.device)] = torch.arange(len(rows), device=labels.device)
    return places


@torch.no_grad()
def encode_bank(encode: Encode, batches: Iterable[Any], numbers: bool = True) -> Bank:
    """Encode every batch of a bank; the first view where there are several.

    Args:
        encode: maps a view (N, C, H, W) to features (N, D).
        batches: (views, labels, ...) each; images without a label are left out.
        numbers: whether labels are to be numbers of classes, (N,).

    Returns:
        The features of this rank's part of each batch; float32, or as encoded in less.
        Synchronises ranks.

    Raises:
        ConfigError: a batch has no tensor of labels, or the features find no room.
    """
    features, labels = Collected(), []
    for batch in batches:
        x, y = with_labels(batch, numbers)
        rows = encode(first_view(x)).detach()
        if (known := labelled_rows(y)) is not None:
            y, rows = y[known], rows[known]
        features.append(rows if rows.dtype in HALVES else rows.float())
        labels.append(y)
    of_all = distributed.gather_batches(labels)
    rows = distributed.rows_of_ranks([len(y) for y in labels])[distributed.rank()]
    return Bank(features.joined(), of_all, _places(rows, of_all))


def standardiser(
    bank: Labelled | Bank, rows: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """Return the function that standardises features as a bank's; synchronises ranks.

    Means and deviations are summed in float64, so that they are those of one process.

    Args:
        bank: of all ranks.
        rows: (n,) of all that count; None: each of them.
    """
    bank = Bank.of(bank)
    size = len(bank.labels) if rows is None else len(rows)
    rows = bank.rows if rows is None else rows[bank.places[rows] >= 0].sort().values

    def mean(of: Callable[[Tensor], Tensor]) -> Tensor:
        sums = (of(float64(bank.held(part)[0])).sum(0) for part in rows.split(PART))
        return distributed.all_sum(sum(sums)) / size  # no rows are a part, too

    like = bank.held(rows[:0])[0]
    centre = mean(lambda x: x)
    variance = mean(lambda x: (x - centre).square_())
    shift, scale = centre.to(like), variance.sqrt().to(like).clamp_min(1e-6)
    return lambda x: (x - shift) / scale
