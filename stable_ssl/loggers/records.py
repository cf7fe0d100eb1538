"""What a run reports: rows, the last value of each metric, and lines for a person."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from omegaconf import DictConfig

from stable_ssl.loggers.console import Console
from stable_ssl.loggers.means import Means
from stable_ssl.loggers.run_folder import NullRunFolder, RunFolder

COSTS = ("perf/images_per_s", "perf/data_wait", "perf/memory_gib")
UNTIMED = nullcontext()  # made once: it is entered three times a step


class Clock:
    """Adds up the seconds of parts by name, waiting for the device around each."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: Counter[str] = Counter()

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
        yield
        self.seconds[name] += self.now() - start


class Records:
    """The one place where a run's figures are written and shown."""

    def __init__(self) -> None:
        self.console = Console()
        self.folder: RunFolder | NullRunFolder | None = None
        self.training, self.evaluation = Means(), Means()  # logged, not yet written
        self.last: dict[str, float] = {}  # the last value of everything reported
        self.before = time.perf_counter(), 0  # time and step of the row before
        self.waited = 0.0  # seconds since then
        self.clock: Clock | None = None  # of mode=profile_model

    def open(self, folder: RunFolder | NullRunFolder, quiet: bool = False) -> None:
        """Write to a run folder from now on; if quiet, show nothing: rank 0 does."""
        self.folder = folder
        if quiet:
            self.console.silence()
        self.console.copy = folder.say

    def open_rows(
        self,
        kept: Mapping[str, int] | None,
        config: DictConfig,
        step: int,
        apart: Mapping[str, Any] | None = None,
    ) -> None:
        """Open what rows go to, cut to what is `kept`, and start the clock at a step.

        What is not kept at the end, `fast_dev_run`, has no mirrors. `apart`: as of
        `RunFolder.open_rows`.
        """
        rows = self.folder.open_rows(kept, apart)
        if not config.fast_dev_run:
            self.folder.track(config, rows)
        self.before = time.perf_counter(), step

    def say(self, text: str) -> None:
        """Print a line, in console.log too."""
        self.console.line(text)

    def row(
        self, values: Mapping[str, float], step: int, epoch: float, epochs: float
    ) -> None:
        """Write a row of metrics.jsonl, if there are values, and show it.

        Steps are the optimizer's; epochs are those taken, with a fraction, and all.
        """
        if not values:
            return
        row = {"step": step, "epoch": round(epoch, 4), "time": time.time()}
        self.folder.write(row | dict(values))
        self.last.update(values)
        if "train/loss" in values:
            self.console.update(step, epoch, epochs, values)
        else:
            self.console.epoch(epoch, epochs, values)

    def waiting(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield batches, and count the time that they take to come."""
        clock, end = time.perf_counter, object()
        while True:
            start = clock()
            batch = next(batches, end)
            self.waited += clock() - start
            if batch is end:
                return
            yield batch

    def performance(self, step: int, images_per_step: int | None) -> dict[str, float]:
        """Return what the steps since the last call cost, evaluations left out.

        Images a second if their number is known, the share of the time that was spent
        waiting for batches, and the peak of memory so far: of the GPU, or of this
        process.
        """
        now, (then, before) = time.perf_counter(), self.before
        seconds, waited = now - then, self.waited
        self.before, self.waited = (now, step), 0.0
        costs = waited / seconds, peak_memory() / 2**30
        if not images_per_step:
            return dict(zip(COSTS[1:], costs, strict=True))
        speed = (step - before) * images_per_step / seconds
        return dict(zip(COSTS, (speed, *costs), strict=True))

    @contextmanager
    def off_the_clock(self) -> Iterator[None]:
        """Leave what happens inside out of `performance`."""
        start = time.perf_counter()
        yield
        then, step = self.before
        self.before = then + time.perf_counter() - start, step

    def part(self, name: str) -> AbstractContextManager:
        """Time what happens inside as a part of the step, where it is profiled."""
        return UNTIMED if self.clock is None else self.clock.part(name)

    def close(self) -> None:
        """Release the terminal and the files."""
        self.console.stop()
        self.console.copy = None
        if self.folder is not None:
            self.folder.close()


def peak_memory() -> int:
    """Return bytes: allocated on the GPU in use, or resident in this process."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    import resource  # of Unix

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
