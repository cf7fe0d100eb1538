"""The paths of many files, of which none is an object in memory until asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy


class Paths(Sequence[str]):
    """Paths below one root; a subclass has `root`, `__len__`, `__getitem__` and these.

    What it is made of is mapped from an index, so that a worker gets the index alone.
    """

    root: str

    def below_at(self, rows: numpy.ndarray) -> Iterator[str]:
        """Yield the paths of some rows relative to the root, faster than one by one."""
        raise NotImplementedError

    def are_those_of(self, other: Paths) -> bool | None:
        """Say what a row of another has to do with one of this.

        Returns:
            True: the same number is the same file. False: they have no file in common.
            None: either may be.
        """
        raise NotImplementedError

    def at(self, rows: numpy.ndarray) -> Iterator[str]:
        """Yield the paths of some rows, faster than one by one."""
        return map(os.path.join(self.root, "").__add__, self.below_at(rows))

    def __iter__(self) -> Iterator[str]:
        return self.at(numpy.arange(len(self)))
