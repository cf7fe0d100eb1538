"""metrics.jsonl, the truth: one row a line, continued by a resumed run."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from stable_ssl.config import ConfigError


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
            self.file = open(path, "ab", buffering=0)
            if position is not None:
                self._cut(self._whole(position))
        except OSError as error:
            raise unwritable(path, error) from error

    def _whole(self, position: int) -> int:
        """Return the position, or where the last whole row of a shorter file ends."""
        length = self.path.stat().st_size
        if length >= position:
            return position
        warnings.warn(
            f"{self.path} has {length} bytes, but had {position} when the checkpoint"
            " was written: the rows in between are lost; the training goes on exactly,"
            " its record with a gap",
            stacklevel=4,
        )
        return self.path.read_bytes().rfind(b"\n") + 1

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
        start, line = self.position, json.dumps(finite).encode() + b"\n"
        try:
            while line:  # a disk that is almost full takes a part
                line = line[self.file.write(line) :]
        except OSError as error:
            with suppress(OSError):  # on a read-only disk nothing was added either
                self._cut(start)
            raise unwritable(self.path, error) from error

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


def unwritable(path: Path, error: OSError) -> ConfigError:
    """Return the error that says which file of a run could not be written, and why."""
    return ConfigError(
        f"{path} could not be written: {error.strerror or error}; the checkpoints are"
        " intact; free some space or make the folder writable, and start the same"
        " command again to resume"
    )
