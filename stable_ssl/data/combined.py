"""Several train loaders at once, by name, and access to each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count, islice
from typing import Any

from torch.utils.data import Dataset

from stable_ssl.batch import known_length
from stable_ssl.data.batch_sizes import batch_size_of
from stable_ssl.data.loading.loader import Loader
from stable_ssl.data.nodes import split_name


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
    def batch_size(self) -> int | None:
        """Samples of a step, over all loaders and processes; None if one is silent."""
        sizes = [batch_size_of(loader) for loader in self.loaders.values()]
        return None if None in sizes else sum(sizes)

    def __len__(self) -> int:
        lengths = [known_length(loader) for loader in self.loaders.values()]
        if not any(lengths):
            raise TypeError("none of the loaders knows its length")
        return max(filter(None, lengths))

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and the batch in it that the next iteration starts with."""
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        parts = {name: self._repeated(loader) for name, loader in self.loaders.items()}
        for _ in range(self.start, len(self)):
            yield {name: next(part) for name, part in parts.items()}

    def _repeated(self, loader: Loader) -> Iterator[Any]:
        """Yield a loader's batches from `start` on, pass after pass.

        The passes are counted over all epochs, and that count is the epoch given to the
        loader, so that every pass has another order and other views.
        """
        length = known_length(loader) or len(self)
        passes = -(-len(self) // length)  # in an epoch, rounded up
        first, start = divmod(self.start, length)
        for number in count(self.epoch * passes + first):
            loader.set_epoch(number, start)
            yield from islice(loader, length - start)
            start = 0


def named_parts(loader: Iterable[Any], name: str = "") -> dict[str, Iterable[Any]]:
    """Return the loaders that a `Combined` is made of, by name.

    Args:
        loader: any loader; one that is no `Combined` is returned as a single part.
        name: of that single part.
    """
    return loader.loaders if isinstance(loader, Combined) else {name: loader}


def split_datasets(loaders: Mapping[str, Iterable[Any]]) -> dict[str, Dataset]:
    """Return the datasets of train, val and test by the `split_name` of each part.

    A loader of another library may have none.
    """
    return {
        split_name(split, name): getattr(part, "dataset", None)
        for split, loader in loaders.items()
        if split not in ("bank", "predict")  # images of other splits, or unlabelled
        for name, part in named_parts(loader).items()
    }


def take_skipped(loader: Iterable[Any]) -> int:
    """Return how many samples a loader has skipped since this was asked last.

    A loader of another library skips none.
    """
    parts = [p for p in named_parts(loader).values() if isinstance(p, Loader)]
    skipped = sum(part.skipped for part in parts)
    for part in parts:
        part.skipped = 0
    return skipped
