"""metrics.jsonl, the truth: one row a line, continued by a resumed run."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from stable_ssl.files import write_atomically
from stable_ssl.schema import unwritable

FORMAT = 1  # counts the forms of rows; status.json says it, 1 where it does not


class JsonLines:
    """Append rows to a file of one JSON object a line.

    Args:
        path: opened for appending; rows of an earlier launch stay.
        position: length in bytes to cut the file to first: rows that were written after
            the checkpoint a run resumes from are written again; None keeps all.

    Raises:
        ConfigError: the file cannot be opened.
    """

    def __init__(self, path: Path, position: int | None = None):
        self.path = path
        try:  # unbuffered: what could not be written must not be tried again in `close`
            self.file = open(path, "a+b", buffering=0)
            if position is not None:
                self._cut(self._end_of_rows(position))
            elif path.read_bytes()[-1:] not in (b"", b"\n"):
                self.file.write(b"\n")  # a killed process left half a row
        except OSError as error:
            raise unwritable(path, error) from error

    def _end_of_rows(self, position: int) -> int:
        """Return the position, or where the last whole row before it ends."""
        content = self.path.read_bytes()
        end = content.rfind(b"\n", 0, position) + 1
        if end < position:
            warnings.warn(
                f"{self.path} has {len(content)} bytes, but had {position} when the"
                f" checkpoint was written, and its last whole row there ends at {end}:"
                " the rows in between are lost; the training goes on exactly, its"
                " record with a gap",
                stacklevel=4,
            )
        return end

    def _cut(self, position: int) -> None:
        self.file.truncate(position)
        self.file.seek(position)

    def write(self, row: Mapping[str, float | int | str]) -> None:
        """Append one row; a number that is not finite becomes null.

        Raises:
            ConfigError: it could not be written; the rows before it are intact.
        """
        finite = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in row.items()
        }
        self.restore()
        start, line = self.position, json.dumps(finite).encode() + b"\n"
        try:
            while line:  # a disk that is almost full takes a part
                line = line[self.file.write(line) :]
        except OSError as error:
            with suppress(OSError):  # on a read-only disk nothing was added either
                self._cut(start)
            raise unwritable(self.path, error) from error

    def restore(self) -> None:
        """Write the file anew, with a warning, where somebody removed or replaced it.

        Raises:
            ConfigError: its rows are lost, or cannot be written.
        """
        try:
            if self.path.exists() and os.path.samestat(
                os.stat(self.path), os.fstat(self.file.fileno())
            ):
                return
            rows = os.pread(self.file.fileno(), self.position, 0)  # it is still open
            write_atomically(self.path, rows)
            self.file.close()
            self.file = open(self.path, "a+b", buffering=0)
        except OSError as error:
            raise unwritable(self.path, error) from error
        message = f"{self.path} was removed while the run goes on; it was written anew"
        warnings.warn(message, stacklevel=3)

    def sync(self) -> None:
        """Wait until the rows are on the disk, not only in the system's cache.

        Raises:
            ConfigError: they could not be written.
        """
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from error

    @property
    def position(self) -> int:
        """The length of the file in bytes."""
        return self.file.tell()

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def read_rows(run_dir: str | Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """Return the rows of a run's file in order; null (not finite) becomes nan.

    The last line of a killed run may be half-written and is left out; any other line
    that is no row is left out with a warning.

    Raises:
        FileNotFoundError: the folder holds no such file.
    """
    path = Path(run_dir) / name
    if not path.is_file():
        raise FileNotFoundError(
            f"no {name} in {run_dir}; give a run folder,"
            " <log.folder>/runs/<experiment>/<run>"
        )
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.split("\n")
    try:  # all at once takes half the time of one by one
        rows = list(map(_row, json.loads(f"[{','.join(filter(None, lines))}]")))
    except (ValueError, TypeError, KeyError):
        rows = list(_whole_rows(lines, path))
    if "null" in text:
        rows = [{k: math.nan if v is None else v for k, v in r.items()} for r in rows]
    return rows


def _whole_rows(lines: Sequence[str], path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines that are rows; warn of others before the last."""
    for number, line in enumerate(lines, 1):
        try:
            yield _row(json.loads(line))
        except (ValueError, TypeError, KeyError):
            if line and number < len(lines):
                message = f"skipped line {number} of {path}: not a row"
                warnings.warn(message, stacklevel=3)


def _row(row: Any) -> dict[str, Any]:
    """Return a row with a whole number as its step, or raise."""
    row["step"] = int(row["step"])
    return row
