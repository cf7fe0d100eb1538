"""What a run reports: rows, the last value of each metric, and lines for a person."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from stable_ssl import report
from stable_ssl.loggers.console import Console
from stable_ssl.loggers.means import Means
from stable_ssl.loggers.run_folder import Bystander, RunFolder


class Records:
    """The one place where a run's figures are written and shown.

    Args:
        console: what a person sees; None is the standard output of now.
    """

    def __init__(self, console: Console | None = None):
        self.console = Console() if console is None else console
        self.folder: RunFolder | Bystander | None = None
        self.training, self.evaluation = Means(), Means()  # logged, not yet written
        self.last: dict[str, float] = {}  # the last value of everything reported
        self.before = time.perf_counter(), 0  # time and step of the row before

    def open(self, folder: RunFolder | Bystander, quiet: bool = False) -> None:
        """Write to a run folder from now on.

        Args:
            folder: of the run.
            quiet: show nothing: another process does.
        """
        self.folder = folder
        if quiet:
            self.console.silence()
        self.console.copy = folder.say

    def open_rows(self, position: int | None, step: int) -> None:
        """Open metrics.jsonl at a length in bytes, and start the clock at a step."""
        self.folder.open_rows(position)
        self.before = time.perf_counter(), step

    def say(self, text: str) -> None:
        """Print a line, in console.log too."""
        self.console.line(text)

    def row(
        self, values: Mapping[str, float], step: int, epoch: float, epochs: float
    ) -> None:
        """Write a row of metrics.jsonl and show it.

        Args:
            values: by name; nothing is written where there are none.
            step: optimizer steps taken.
            epoch: epochs taken, with a fraction.
            epochs: of the whole run.
        """
        if not values:
            return
        row = {"step": step, "epoch": round(epoch, 4), "time": time.time()}
        self.folder.rows.write(row | dict(values))
        self.last.update(values)
        if "train/loss" in values:
            self.console.update(step, epoch, epochs, values)
        else:
            self.console.epoch(epoch, epochs, values)

    def speed(self, step: int, images_per_step: int) -> dict[str, float]:
        """Return images a second since the last call, evaluations left out."""
        now, (then, before) = time.perf_counter(), self.before
        self.before = now, step
        return {"perf/images_per_s": (step - before) * images_per_step / (now - then)}

    @contextmanager
    def off_the_clock(self) -> Iterator[None]:
        """Leave what happens inside out of `speed`."""
        start = time.perf_counter()
        yield
        then, step = self.before
        self.before = then + time.perf_counter() - start, step

    def summarize(self) -> None:
        """Show the closing table and draw the learning curves."""
        self.console.stop()
        self.console.table(report.summary(self.folder.path))
        try:
            paths = report.learning_curves(self.folder.path)
            self.say(f"figures: {', '.join(str(path) for path in paths)}")
        except Exception as error:  # a figure is no reason to lose a finished run
            warnings.warn(f"no figure was drawn: {error!r}", stacklevel=2)

    def close(self) -> None:
        """Release the terminal and the files."""
        self.console.stop()
        self.console.copy = None
        if self.folder is not None:
            self.folder.close()
