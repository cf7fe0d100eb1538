"""What a person sees of a run: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from stable_ssl.loggers.names import as_text, is_accuracy

ON_THE_BAR = ("train/loss", "train/lr", "perf/images_per_s")
UNITS = {  # and their scale
    "perf/images_per_s": (1, "{:,.0f} images/s"),
    "perf/data_wait": (100, "{:.0f} % waiting for data"),
    "perf/memory_gib": (1, "{:.3g} GiB"),
}
# left out first of a line that is too long; the run's files have all
LEAST = ("perf/memory_gib", "train/grad_norm", "acc5", "perf/data_wait")
APART = 10  # seconds at least between the train lines of two epochs


class Console:
    """Print lines, on a terminal above a progress bar.

    A train line is printed at most once an epoch and every ten seconds, so that the log
    of a batch job stays small; the lines of evaluations are printed always. Anything
    but a terminal gets text without control characters. Nothing runs in a thread: the
    bar moves with `update`. Without a stream it is the standard output of now; where
    that is closed, as a terminal may be while a run goes on, nothing is shown any more.
    """

    def __init__(self, stream: TextIO | None = None):
        self.stream = sys.stdout if stream is None else stream
        self.terminal = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.copy: Callable[[str], None] | None = None  # also called with every line
        self._bar: Any = None  # rich's Progress
        self._next = 0  # epoch from which a train line is due ...
        self._not_before = 0.0  # ... and the time

    def silence(self) -> None:
        """Show nothing any more."""
        self._bar = None
        self.stream, self.terminal = open(os.devnull, "w"), False

    def line(self, text: str) -> None:
        """Print a line as it is, and flush."""
        if self.copy is not None:
            self.copy(text)
        with self._while_open():
            if self._bar is not None:
                self._bar.console.print(text, soft_wrap=True)
            else:
                encoding = getattr(self.stream, "encoding", None) or "utf-8"
                text = text.encode(encoding, "replace").decode(encoding)
                self.stream.write(f"{text}\n")
            self.stream.flush()

    @contextmanager
    def _while_open(self) -> Iterator[None]:
        """Print inside, and nothing any more where the stream is closed."""
        try:
            yield
        except OSError:
            self.silence()
        except ValueError:
            if not self.stream.closed:
                raise
            self.silence()

    def table(self, table: Any) -> None:
        """Print a table, or any text, set apart by empty lines."""
        self.line(f"\n{table}\n")

    def progress(self, total_steps: int, step: int = 0) -> None:
        """Start the bar at a step; `stop` must follow."""
        self.stop()
        self._next, self._not_before = 0, 0.0
        if not self.terminal:
            return
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        plain = {"markup": False, "emoji": False, "highlight": False}
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
            console=Terminal(file=self.stream, force_terminal=True, **plain),
            auto_refresh=False,
            transient=True,
            expand=True,
            speed_estimate_period=600,  # seconds; rows may be far apart
        )
        self._bar.start()
        self._bar.add_task("", total=total_steps, completed=step, metrics="")

    def update(
        self, step: int, epoch: float, epochs: float, metrics: Mapping[str, float]
    ) -> None:
        """Show a train row; epochs are those taken, with a fraction."""
        if self._bar is not None:
            brief = {name: metrics[name] for name in ON_THE_BAR if name in metrics}
            with self._while_open():
                self._bar.update(
                    self._bar.task_ids[0],
                    completed=step,
                    description=_position(math.ceil(epoch), epochs),
                    metrics=format_metrics(brief),
                    refresh=True,
                )
        now = time.monotonic()
        if epoch >= self._next and (now >= self._not_before or epoch == epochs):
            self._next, self._not_before = int(epoch) + 1, now + APART
            self.epoch(epoch, epochs, metrics)

    def epoch(self, epoch: float, epochs: float, metrics: Mapping[str, float]) -> None:
        """Print one line of metrics, e.g. of an evaluation, as wide as the terminal."""
        position = f"{_position(epoch, epochs)}  "
        width = shutil.get_terminal_size((100, 0)).columns - len(position)
        self.line(position + fitted(metrics, width))

    def stop(self) -> None:
        """Remove the bar and restore the terminal; harmless when there is no bar."""
        bar, self._bar = self._bar, None
        if bar is not None:
            with self._while_open():
                bar.stop()


def format_metrics(metrics: Mapping[str, Any]) -> str:
    """Return metrics on one line: "loss 3.214  lr 0.3", "val  knn_acc1 97.2 %"."""
    (split, *others) = {name.rpartition("/")[0] for name in metrics} or [""]
    evaluated = "" if others or split in ("", "train", "perf") else split
    names = {name: name.removeprefix(f"{evaluated}/") for name in metrics}
    texts = [_metric(name, short, metrics[name]) for name, short in names.items()]
    return "  ".join([evaluated, *texts] if evaluated else texts)


def fitted(metrics: Mapping[str, Any], width: int) -> str:
    """Return metrics on one line of at most so many characters, the first of them."""

    def rank(name: str) -> tuple[int, int]:
        parts = [i for i, part in enumerate(LEAST) if name.endswith(part)]
        return -parts[0] if parts else -len(LEAST), names.index(name)

    names = list(metrics)
    while len(text := format_metrics({n: metrics[n] for n in names})) > width:
        if len(names) == 1:
            break
        names.remove(max(names, key=rank))
    return text


def _metric(name: str, short: str, value: Any) -> str:
    """Return "knn_acc1 97.2 %" for a metric of a name, called `short` here."""
    if name in UNITS:
        scale, text = UNITS[name]
        return text.format(scale * value)
    short = short.removeprefix("train/").removeprefix("perf/")
    if is_accuracy(name) or short == "lr" or not isinstance(value, float):
        return f"{short} {as_text(name, value, digits=1)}"
    text = f"{value:#.4g}".rstrip(".")  # trailing zeros keep columns in place
    return f"{short} {text}"


def _position(epoch: float, epochs: float) -> str:
    """Return "epoch  3/20"; a fraction keeps two digits."""
    total = f"{epochs:g}"
    now = f"{epoch:g}" if epoch == int(epoch) else f"{epoch:.2f}"
    return f"epoch {now:>{len(total)}}/{total}"
