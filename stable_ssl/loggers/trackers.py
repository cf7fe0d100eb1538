"""Trackers mirror the rows of metrics.jsonl; one that fails is dropped, with a warning.

`log.api` names any of them. Each is a class of its own file, a `Tracker`.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from stable_ssl import seeding
from stable_ssl.schema import ConfigError

CLASSES = {"csv": "Csv", "tensorboard": "TensorBoard", "wandb": "Wandb"}

Row = Mapping[str, float | int | str]


class Tracker(Protocol):
    """What a tracker is asked to do; opening it is its constructor.

    Args:
        folder: of the run.
        config: of the run, resolved, secrets masked.
        rows: of metrics.jsonl so far: a resumed run's, up to its checkpoint.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], rows: Sequence[Row]):
        """Open it."""

    def write(self, row: Row) -> None:
        """Take a row; a number that is not finite is nan."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """Take a PNG file of the run folder."""

    def close(self, status: str) -> None:
        """Finish: finished, preempted, diverged or failed."""


class Trackers:
    """The trackers that `log.api` names, none of which may disturb the run."""

    def __init__(
        self,
        names: Iterable[str],
        folder: Path,
        config: Mapping[str, Any],
        rows: Sequence[Row],
    ):
        self.open: dict[str, Tracker] = {}
        with seeding.preserve_rng():  # whatever their packages draw
            for name in dict.fromkeys(names):
                try:
                    module = importlib.import_module(f"stable_ssl.loggers.{name}")
                    tracker = getattr(module, CLASSES[name])
                    self.open[name] = tracker(folder, config, rows)
                except Exception as error:
                    _warn(name, error)

    def write(self, row: Row) -> None:
        """Give every tracker a row."""
        self._each("write", {name: _finite(value) for name, value in row.items()})

    def picture(self, name: str, path: Path, step: int) -> None:
        """Give every tracker a picture."""
        self._each("picture", name, path, step)

    def close(self, status: str) -> None:
        """Finish them all; harmless when done before."""
        self._each("close", status)
        self.open.clear()

    def _each(self, method: str, *arguments: Any) -> None:
        for name, tracker in list(self.open.items()):
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:
                del self.open[name]
                _warn(name, error)


def drawn(folder: Path) -> list[tuple[int, str, Path]]:
    """Return (optimizer step, name, file) of the pictures of a run folder, in order.

    A file that is no picture any more is left out, with a warning.
    """
    from PIL import Image

    pictures = []
    for path in (folder / "figures").glob("*_e*.png"):
        try:
            with Image.open(path, formats=["png"]) as image:  # no program reads it
                image.load()
                step = int(image.info.get("step", -1))
        except (OSError, SyntaxError, ValueError) as error:  # as PIL raises
            warnings.warn(f"{path} is no picture any more: {error}", stacklevel=2)
            continue
        if step >= 0:
            pictures.append((step, path.stem.rpartition("_")[0], path))
    return sorted(pictures)


def check_installed(names: Iterable[str]) -> None:
    """Refuse a tracker whose package is missing.

    Raises:
        ConfigError: with the command that installs it.
    """
    for name in names:
        if find_spec(name) is None:  # csv is Python's own
            raise ConfigError(
                f"log.api names {name}, which is not installed; pip install {name}, or"
                " remove it from log.api"
            )


def _finite(value: float | int | str) -> float | int | str:
    """Return a value as `read_rows` does: nan where it is not finite."""
    infinite = isinstance(value, float) and not math.isfinite(value)
    return math.nan if infinite else value


def _warn(name: str, error: Exception) -> None:
    reason, *_ = [*str(error).strip().splitlines(), "no reason given"]
    warnings.warn(
        f"log.api: {name} failed and gets no more rows ({type(error).__name__}:"
        f" {reason}); the run goes on, and metrics.jsonl has them all",
        stacklevel=4,
    )
