"""A shuffle for slow disks: a few shards at a time, in random order.

Samples of one shard lie side by side, so that a disk that seeks, or a store that is
copied shard by shard, is asked for a few neighbourhoods at a time, and no longer for
one place after another of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy
import torch
from torch.utils.data import Sampler

from stable_ssl import seeding
from stable_ssl.schema import ConfigError


class BlockShuffle(Sampler[int]):
    """Visit blocks in random order, and shuffle the samples of several together.

    As `sampler: {_target_: stable_ssl.data.BlockShuffle, window: 16}` of a loader node
    the order is a function of (seed, epoch) alone: the loader keys the generator that
    this draws from. Every sample comes once an epoch.

    Args:
        dataset: samples; the blocks of shards are these, of others the next
            `block_size` samples each, such as neighbours in a folder.
        window: blocks whose samples are shuffled together; the more, the nearer to a
            full shuffle.
        block_size: samples a block where there are no shards.

    Raises:
        ConfigError: a number below 1.
    """

    def __init__(self, dataset: Any, window: int = 16, block_size: int = 1000):
        for name, value in (("window", window), ("block_size", block_size)):
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name}={value} of BlockShuffle: use 1 or more")
        self.window, self.size = window, len(dataset)
        blocks = getattr(dataset, "blocks", None)
        if blocks is None:
            blocks = torch.arange(self.size) // block_size
        self.blocks = blocks.unique(return_inverse=True)[1]  # numbered from 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        seed = int(torch.randint(2**62, ()))
        count = int(self.blocks.max()) + 1
        visited = seeding.permutation(count, seed).argsort()  # when each block is
        windows = (visited // self.window)[self.blocks]
        chance = seeding.permutation(self.size, seed, 1)
        yield from numpy.lexsort((chance.numpy(), windows.numpy())).tolist()
