"""metrics.jsonl, the truth: one row a line, continued by a resumed run."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from stable_ssl.config import unwritable


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
            elif path.read_bytes()[-1:] not in (b"", b"\n"):
                self.file.write(b"\n")  # a killed process left half a row
        except OSError as error:
            raise unwritable(path, error) from error

    def _whole(self, position: int) -> int:
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
