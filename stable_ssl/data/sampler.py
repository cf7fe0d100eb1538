"""Which samples a batch holds: a pure function of (seed, epoch)."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_ssl import seeding


def epoch_order(size: int, seed: int, epoch: int, shuffle: bool) -> Tensor:
    """Return the order of the samples in an epoch, (size,) int64 on the CPU."""
    return seeding.permutation(size, seed, epoch) if shuffle else torch.arange(size)


class BatchSampler:
    """Yield the samples of each batch of an epoch, from any batch on.

    Args:
        size: samples in the dataset.
        batch_size: samples a batch.
        seed: with the epoch, decides the order.
        shuffle: a new order every epoch, or that of the dataset.
        drop_last: leave an incomplete last batch out.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, shuffle: bool, drop_last: bool
    ):
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        whole, rest = divmod(self.size, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def batches(self) -> list[Tensor]:
        """Return the index of every batch still to come in this epoch."""
        order = epoch_order(self.size, self.seed, self.epoch, self.shuffle)
        return list(order.split(self.batch_size)[self.start : len(self)])

    def __iter__(self):
        """Yield lists of (epoch, index), all that a sample's views depend on."""
        for batch in self.batches():
            yield [(self.epoch, index) for index in batch.tolist()]
