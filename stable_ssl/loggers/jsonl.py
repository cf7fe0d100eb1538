"""metrics.jsonl, the truth: one row a line, continued by a resumed run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path


class JsonLines:
    """Append rows to a file of one JSON object a line.

    Args:
        path: opened for appending; rows of an earlier launch stay.
        position: length in bytes to cut the file to first: rows that were written after
            the checkpoint a run resumes from are written again; None keeps all.
    """

    def __init__(self, path: Path, position: int | None = None):
        self.file = open(path, "ab")
        if position is not None:
            position = min(position, path.stat().st_size)
            self.file.truncate(position)
            self.file.seek(position)

    def write(self, row: Mapping[str, float | int | str]) -> None:
        """Append one row; a number that is not finite becomes null."""
        finite = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in row.items()
        }
        self.file.write(json.dumps(finite).encode() + b"\n")
        self.file.flush()

    @property
    def position(self) -> int:
        """The length of the file in bytes."""
        return self.file.tell()

    def close(self) -> None:
        """Close the file."""
        self.file.close()
