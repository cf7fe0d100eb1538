"""Which samples a batch holds: a pure function of (seed, epoch).

A draw is the number of a sample in its dataset. What a sampler draws again in an epoch
is that number and `samples`, the dataset's length, then twice `samples` more: views
depend on the draw, so that they are other ones each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from stable_ssl import seeding
from stable_ssl.schema import ConfigError


class Part(NamedTuple):
    """What a process has of a batch: all that its samples depend on."""

    epoch: int
    draws: list[int]
    spares: Sequence[int] = ()  # draws that follow, for those that cannot be read
    place: int = 0  # of the first one in the order of the epoch

    def instead(self, i: int, samples: int) -> Iterator[int]:
        """Yield draws that may stand for the i-th: what follows, its views other ones.

        Args:
            i: in `draws`.
            samples: of the dataset.
        """
        for draw in [*self.draws[i + 1 :], *self.spares][: len(self.spares)]:
            yield draw % samples - samples * (1 + self.place + i)


@dataclass(eq=False)
class BatchSampler:
    """Yield the samples of each batch of an epoch, from any batch on.

    Several processes share a batch: each takes its consecutive part, so that together
    they see what one process would, no sample twice and none left out. Parts differ by
    one sample at most; those of a last batch may be empty.
    """

    size: int | None  # samples in the dataset; None: unknown
    batch_size: int  # samples a batch, over all processes
    seed: int  # with the epoch, decides the order
    shuffle: bool  # a new order every epoch, or that of the dataset
    drop_last: bool  # leave an incomplete last batch out
    # chooses and orders the samples instead, under generators seeded by (seed, epoch)
    sampler: Sampler | None = None
    rank: int = 0  # number of this process
    world_size: int = 1  # number of processes
    spares: int = 0  # draws that may stand for one that cannot be read
    epoch: int = 0
    start: int = 0  # batch that the next iteration starts with

    def __post_init__(self):
        self.samples = self.size  # of the dataset; `size` is how many an epoch has
        if self.sampler is not None:
            self.size = len(self.sampler)
        if self.batch_size < self.world_size:
            raise ConfigError(
                f"a batch of {self.batch_size} leaves some of {self.world_size}"
                " processes without a sample; set data.batch_size and"
                f" data.eval_batch_size to {self.world_size} or more"
            )

    @property
    def rest(self) -> int:
        """Samples of an epoch's last batch, if it is incomplete and not left out."""
        known = self.size is not None and not self.drop_last
        return self.size % self.batch_size if known else 0

    def __len__(self) -> int:
        if self.size is None:
            raise TypeError("the iterable dataset has no length")
        return self.size // self.batch_size + (self.rest > 0)

    def order(self) -> Tensor:
        """Return the samples of the epoch in order, (size,) int64 on the CPU.

        Raises:
            ConfigError: a sampler chose other than numbers of samples.
        """
        if self.sampler is not None:
            if callable(tell := getattr(self.sampler, "set_epoch", None)):
                tell(self.epoch)
            with seeding.keyed(seeding.fold_in(self.seed, self.epoch)):
                return self._checked(list(self.sampler))
        if self.shuffle:
            return seeding.permutation(self.size, self.seed, self.epoch)
        return torch.arange(self.size)

    def _checked(self, chosen: list[int]) -> Tensor:
        """Return what a sampler chose, (size,)."""
        try:
            index = torch.tensor(chosen)
            least, most = (int(bound) for bound in index.aminmax())
            right = index.ndim == 1 and not index.is_floating_point()
            right = right and 0 <= least and most < self.samples
        except (TypeError, ValueError, RuntimeError, OverflowError):  # no numbers, none
            right = False
        if not right:
            raise ConfigError(
                f"the sampler of a loader node, a {type(self.sampler).__name__}, chose"
                f" others than the samples 0 to {self.samples - 1}: {str(chosen)[:40]};"
                " correct its arguments"
            )
        return index

    def draws(self) -> Tensor:
        """Return the draws of the epoch in order, (size,) int64 on the CPU."""
        order = self.order()
        if self.sampler is None:
            return order
        rows, by = order.sort(stable=True)
        if bool((rows[1:] != rows[:-1]).all()):
            return order
        before = torch.empty_like(order)  # how often each one was drawn before
        before[by] = torch.arange(len(rows)) - torch.searchsorted(rows, rows)
        return order + before * self.samples

    def batches(self) -> list[Tensor]:
        """Return this process's draws of every batch still to come in this epoch."""
        draws = self.draws()
        return [draws[places] for places in self._places(len(draws))]

    def _places(self, size: int) -> list[Tensor]:
        """Return where this process's parts are in an order of a size."""
        batches = torch.arange(size).split(self.batch_size)[self.start : len(self)]
        return [self.share(batch) for batch in batches]

    def share(self, batch: Tensor) -> Tensor:
        """Return this process's part of a batch, (samples,)."""
        return batch.tensor_split(self.world_size)[self.rank]

    def __iter__(self) -> Iterator[Part]:
        """Yield this process's part of every batch still to come in this epoch."""
        draws = self.draws()
        spares = min(self.spares, len(draws) - 1)
        following = torch.cat((draws, draws[:spares]))  # the first follow the last
        for places in self._places(len(draws)):
            end = int(places[-1]) + 1 if len(places) else 0
            others = following[end : end + spares].tolist()
            first = end - len(places)
            yield Part(self.epoch, draws[places].tolist(), others, first)
