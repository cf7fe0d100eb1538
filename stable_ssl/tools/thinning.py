"""Curves of a run with fewer points, which look alike when drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

CLOCK = {"step", "epoch", "time"}


class Curves:
    """The metrics of a run against step, epoch and time, some `most` points each."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], most: int):
        self.rows = dict(enumerate(rows))
        self.points: dict[str, list[int]] = {}  # of each metric the numbers of its rows
        for number, row in self.rows.items():
            for name in metrics_of(row):
                self.points.setdefault(name, []).append(number)
        self.longest = max(map(len, self.points.values()), default=0)
        self.start = next(filter(_finite, (row.get("time") for row in rows)), 0.0)
        self.thin(most)

    def __len__(self) -> int:
        return sum(map(len, self.points.values()))

    def thin(self, most: int) -> None:
        """Keep some `most` points of each curve, and the rows that these need."""
        for name, numbers in self.points.items():
            kept = thinned([self.rows[number][name] for number in numbers], most)
            self.points[name] = [numbers[i] for i in kept]
        used = {number for numbers in self.points.values() for number in numbers}
        self.rows = {number: self.rows[number] for number in sorted(used)}

    def seconds(self) -> list[float | None]:
        """Return the time of each row from the first one."""
        return [_rounded(row.get("time"), self.start, 1) for row in self.rows.values()]

    def as_json(self) -> dict[str, Any]:
        """Return JSON types: the clocks, and of each metric (rows, values)."""
        index = {number: i for i, number in enumerate(self.rows)}
        of = {
            name: (
                [index[number] for number in numbers],
                [_short(self.rows[number][name]) for number in numbers],
            )
            for name, numbers in self.points.items()
        }
        steps = [row["step"] for row in self.rows.values()]
        epochs = [_rounded(row.get("epoch"), 0.0, 4) for row in self.rows.values()]
        return {"step": steps, "epoch": epochs, "time": self.seconds(), "of": of}


def thinned(values: Sequence[float], most: int) -> list[int]:
    """Return which of the values to keep, in order.

    The first, the last, and of each of equal parts the least and the greatest, so that
    no spike is lost; at `most` so many, and the first value of each gap, not finite.
    """
    n = len(values)
    if n <= most:
        return list(range(n))
    gaps = [not math.isfinite(value) for value in values]
    kept = {0, n - 1, *(i for i in range(1, n) if gaps[i] and not gaps[i - 1])}
    parts = max(1, (most - 2) // 2)
    for part in range(parts):
        indices = range(part * n // parts, (part + 1) * n // parts)
        if finite := [i for i in indices if not gaps[i]]:
            kept.add(min(finite, key=values.__getitem__))
            kept.add(max(finite, key=values.__getitem__))
    return sorted(kept)


def metrics_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a row that are numbers, nan among them."""
    return {k: v for k, v in row.items() if k not in CLOCK and _is_number(v)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def _short(value: float) -> float | None:
    """Return five digits of a finite number."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _rounded(value: Any, start: float, digits: int) -> float | None:
    return round(value - start, digits) if _finite(value) else None
