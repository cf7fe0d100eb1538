"""Seconds that count what a device was asked to do, too."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


class Clock:
    """Adds up the seconds that parts of a program take, by name.

    Args:
        device: whose work is waited for at the beginning and end of each part.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = {}

    def now(self) -> float:
        """Return the seconds of a clock, the device being idle; synchronises."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add what happens inside to a part."""
        start = self.now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - start

    def take(self) -> dict[str, float]:
        """Return the seconds so far, and start at nothing."""
        taken, self.seconds = self.seconds, {}
        return taken

    @contextmanager
    def watching(self, parts: Mapping[str, tuple[Any, str]]) -> Iterator[None]:
        """Add the calls of methods to parts while inside.

        Args:
            parts: {part: (object, name of its method)}.
        """
        before = {name: vars(owner).get(m) for name, (owner, m) in parts.items()}
        for name, (owner, method) in parts.items():
            vars(owner)[method] = self._watched(name, getattr(owner, method))
        try:
            yield
        finally:
            for name, (owner, method) in parts.items():
                if before[name] is None:
                    del vars(owner)[method]
                else:
                    vars(owner)[method] = before[name]

    def _watched(self, name: str, method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return method(*args, **kwargs)

        return call
