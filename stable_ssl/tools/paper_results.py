"""What each run of a paper's table came to, as its folder says.

Each can be traced: to the hash of its configuration, of the code and of its last
checkpoint. All of it is kept in the table's JSON, see paper_store.py.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from stable_ssl.lock import is_held
from stable_ssl.loggers import own_code
from stable_ssl.loggers.names import is_accuracy
from stable_ssl.recorded import is_run_folder
from stable_ssl.tools.paper_file import Column
from stable_ssl.tools.paper_identity import difference
from stable_ssl.tools.runs import Run, joined, last_values, launches, makers, read_run

ENDED = ("finished", "diverged")  # of runs that another start would not change
MINUTES = "minutes"  # a column that is no metric
OTHER, UNREADABLE = "other configuration", "unreadable"  # of folders left as they are
BLOCK = 2**24  # bytes of a checkpoint that are read at once


@dataclass(frozen=True)
class Planned:
    """One run of a table, whether it is there or not."""

    row: str  # its title
    data: str  # title of the data set; empty where the table names none
    seed: int
    config: str  # hash of what it does
    line: tuple[str, ...]  # its command line
    folder: Path
    full: Mapping[str, Any] = field(compare=False, repr=False)  # of `as_recorded`


@dataclass(frozen=True)
class Result:
    """What a run came to; None of what is not there."""

    status: str = "not begun"
    code: str | None = None  # hash of the library; several of its launches by +
    own: str | None = None  # hash of modules of the user's, likewise
    checkpoint: str | None = None  # hash of the last one
    modules: dict[str, dict[str, Any]] = field(default_factory=dict)  # of the user's
    values: dict[str, float | None] = field(default_factory=dict)  # see `name_of`
    versions: str = ""  # of the library and of torch, of `Run`
    names: tuple[str, ...] = field(default=(), compare=False)  # of figures in its rows

    @property
    def metrics(self) -> set[str]:
        """The names of figures that it is known to have, of some step."""
        there = (name for name, value in self.values.items() if value is not None)
        return {*self.names, *(name.rpartition(", ")[0] for name in there)}

    @property
    def made_by(self) -> str:
        """Its versions, that of the user's modules among them."""
        own = [f"own {version}" for version in (self.own or "none").split("+")]
        return ", ".join(filter(None, [self.versions, *own]))

    @property
    def of_other_code(self) -> bool:
        """Whether the library or a module of the user's is known to be another one."""
        library = self.code not in (None, own_code.library())
        changed = "+" in (self.own or "")  # between its launches
        return library or changed or bool(own_code.changes(self.modules))

    @property
    def of_unknown_code(self) -> bool:
        """Whether a run that ended does not say which library made it."""
        return self.status in ENDED and self.code is None


def name_of(column: Column) -> str:
    """Return what names a column's values, whatever its title."""
    return f"{column.value}, {column.at}"


def status(one: Planned) -> str:
    """Return the status of a run's folder: `not begun` where there is none.

    One that is not the planned run's, or cannot be read, is `OTHER` or `UNREADABLE`;
    what differs, or cannot be read, follows in brackets.
    """
    return _opened(one)[0]


def is_refused(how: str) -> bool:
    """Return whether a status is of a folder that is neither counted nor changed."""
    return how.startswith((OTHER, UNREADABLE))


def is_to_be_made(how: str) -> bool:
    """Return whether a run of a status is to be started, or to go on."""
    return how not in (*ENDED, "running") and not is_refused(how)


def _opened(one: Planned) -> tuple[str, Run | None]:
    """Return a run's status, and what its folder holds if it is the planned run's."""
    if not is_run_folder(one.folder):
        return "running" if is_held(one.folder) else "not begun", None
    try:
        run = read_run(one.folder)
    except ValueError as error:
        return f"{UNREADABLE} ({error})", None
    last = [launch.get("library") for launch in makers(one.folder)][-1:]
    whole = last == [own_code.library()]
    if said := difference(one.full, run.config, whole):
        return f"{OTHER} ({said})", None
    return "running" if is_held(one.folder) else run.status, run


def read_folder(one: Planned, columns: Sequence[Column]) -> Result:
    """Return what the folder of a run holds; accuracies in per cent.

    A checkpoint is read whole.
    """
    how, run = _opened(one)
    if run is None:
        return Result(how)
    versions = [launch.get("library") for launch in makers(one.folder)]
    return Result(
        how,
        joined(versions, without="unknown"),
        run.code,
        _hash_of(one.folder / "ckpts" / "last.ckpt"),
        own_code.recorded(one.folder),
        {name_of(column): value_of(run, column) for column in columns},
        run.versions,
        tuple(name for name in last_values(run.rows) if "/" in name),
    )


def value_of(run: Run, column: Column) -> float | None:
    """Return a run's value of a column; None where it has none."""
    if column.value == MINUTES:
        return minutes(run)
    if column.at == "untrained":
        value = last_values(run.untrained).get(column.value)
    else:
        at = int(column.at) if column.at.isdecimal() else column.at
        value = run.values(at).get(column.value)
    number = isinstance(value, int | float) and math.isfinite(value)
    return value * (100 if is_accuracy(column.value) else 1) if number else None


def minutes(run: Run) -> float | None:
    """Return how long a run took: from each launch to its last row before the next.

    None where a launch does not say when it was. They are written to the second.
    """
    rows = [row["time"] for row in run.rows if isinstance(row.get("time"), float)]
    try:
        began = [
            datetime.strptime(launch["time"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
            for launch in launches(run.folder)
        ]
    except (KeyError, TypeError, ValueError):
        return None
    seconds = 0.0
    for start, end in pairwise([*began, math.inf]):
        seconds += max((row - start for row in rows if start < row <= end), default=0)
    return seconds / 60 if seconds else None


def _hash_of(file: Path) -> str | None:
    """Return the SHA-256 of a file's content; None where there is no file."""
    if not file.is_file():
        return None
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
