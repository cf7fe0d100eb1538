"""The choice of a few labelled images of each class."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_ssl import seeding


def choose_few(y: Tensor, amount: str, seed: int, draw: int = 0) -> Tensor:
    """Return the indices of a few of each class, at least one.

    Args:
        y: labels of all (M,), on the CPU.
        amount: "10" a class, all of one that has fewer, or "1%" of each class.
        seed: of the choice; with one seed and draw, fewer are a part of more.
        draw: number of the choice; others choose other images.
    """
    order = seeding.permutation(len(y), seed, draw)
    chosen = []
    for label in y.unique():
        rows = order[y[order] == label]
        if amount.endswith("%"):
            k = round(float(amount[:-1]) / 100 * len(rows))
        else:
            k = int(amount)
        chosen.append(rows[: max(1, k)])
    return torch.cat(chosen)
