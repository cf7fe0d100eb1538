"""csv/metrics.csv: a row a line, a column a metric; an empty cell is no value."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from stable_ssl.files import replacing
from stable_ssl.loggers.trackers import Row, Tracker


class Csv(Tracker):
    """Append rows; the file is rewritten when a metric is new, and when a run resumes.

    The file then holds the rows so far, whatever it held before.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], rows: Sequence[Row]):
        self.path = folder / "csv" / "metrics.csv"
        self.columns = list(dict.fromkeys(name for row in rows for name in row))
        self.file = self._rewritten(rows)

    def write(self, row: Row) -> None:
        """Append a row, under a longer header if it has new metrics."""
        if new := [name for name in row if name not in self.columns]:
            self.file.close()
            with open(self.path, newline="", encoding="utf-8") as file:
                before = list(csv.DictReader(file))
            self.columns += new
            self.file = self._rewritten(before)
        csv.DictWriter(self.file, self.columns).writerow(row)
        self.file.flush()

    def close(self, status: str) -> None:
        """Close the file."""
        self.file.close()

    def _rewritten(self, rows: Iterable[Row]) -> TextIO:
        """Replace the file by these rows, all or nothing; return it, to append to."""
        look = {"newline": "", "encoding": "utf-8"}
        with replacing(self.path) as new, open(new, "w", **look) as file:
            writer = csv.DictWriter(file, self.columns)
            if self.columns:
                writer.writeheader()
            writer.writerows(rows)
        return open(self.path, "a", **look)
