"""The choice of a few labelled images of each class."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.schema import ConfigError


def check_few(y: Tensor, amount: str, at: str) -> None:
    """Refuse an amount that a class does not have, so that none is called another.

    Args:
        y: labels of all (M,).
        amount: "10" a class, or "1%" of each class.
        at: the key that asks for it.

    Raises:
        ConfigError: a class has fewer, or so few that the share is none of them.
    """
    classes, counts = y.unique(return_counts=True)
    fewest, scarce = int(counts.min()), int(classes[counts.argmin()])
    if _amount_of(amount, fewest) > fewest:
        raise ConfigError(
            f"{at}={amount}, but class {scarce} has {fewest}; use at most that"
        )
    if _amount_of(amount, fewest) < 1:
        raise ConfigError(
            f"{at}={amount} is less than one of the {fewest} images of class {scarce};"
            f" use {100 / fewest:.3g}% or more"
        )


def _amount_of(amount: str, count: int) -> int:
    """Return how many "10" are, or "1%" of a class of `count` images."""
    if amount.endswith("%"):
        return round(float(amount[:-1]) / 100 * count)
    return int(amount)


def choose_few(y: Tensor, amount: str, seed: int, draw: int = 0) -> Tensor:
    """Return the indices of a few of each class, at least one.

    A part of the data, all that `fast_dev_run` sees, may have fewer than `check_few`
    was told: all of them are chosen then.

    Args:
        y: labels of all (M,), on the CPU.
        amount: "10" a class, or "1%" of each class.
        seed: of the choice; with one seed and draw, fewer are a part of more.
        draw: number of the choice; others choose other images.
    """
    order = seeding.permutation(len(y), seed, draw)
    chosen = []
    for label in y.unique():
        rows = order[y[order] == label]
        chosen.append(rows[: max(1, _amount_of(amount, len(rows)))])
    return torch.cat(chosen)
