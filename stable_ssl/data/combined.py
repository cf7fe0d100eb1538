"""Several train loaders at once, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from stable_ssl.data.loader import Loader, known_length


class Combined:
    """Yield {name: batch} from several loaders; an epoch is that of the longest.

    A shorter one starts again where it ends, in a new order and with new views. One
    that does not know its length has as many batches as the longest that does.

    Args:
        loaders: by name, at least one.
    """

    def __init__(self, loaders: Mapping[str, Loader]):
        self.loaders = dict(loaders)
        self.epoch = self.start = 0

    @property
    def batch_size(self) -> int:
        """Samples of a step, over all loaders and processes."""
        return sum(loader.batch_size for loader in self.loaders.values())

    @property
    def skipped(self) -> int:
        """Samples so far that could not be read."""
        return sum(loader.skipped for loader in self.loaders.values())

    @property
    def left_out(self) -> int:
        """Samples that could not be read into memory."""
        return sum(loader.left_out for loader in self.loaders.values())

    def __len__(self) -> int:
        known = [known_length(loader) for loader in self.loaders.values()]
        if not any(known):
            raise TypeError("none of the loaders knows its length")
        return max(filter(None, known))

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and the batch in it that the next iteration starts with."""
        self.epoch, self.start = epoch, start

    def close(self) -> None:
        """End the workers of all loaders."""
        for loader in self.loaders.values():
            loader.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        parts = {name: self._repeated(loader) for name, loader in self.loaders.items()}
        for _ in range(self.start, len(self)):
            yield {name: next(part) for name, part in parts.items()}

    def _repeated(self, loader: Loader) -> Iterator[Any]:
        """Yield a loader's batches from `start` on, pass after pass.

        The passes of all epochs are numbered through: that number is the loader's own
        epoch, so that no two are alike.
        """
        length = known_length(loader) or len(self)
        passes = -(-len(self) // length)  # of an epoch
        number, start = divmod(self.start, length)
        while True:
            loader.set_epoch(self.epoch * passes + number, start)
            yield from islice(loader, length - start)
            number, start = number + 1, 0
