"""Curves of a run with fewer points, which look alike when drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

CLOCK = {"step", "epoch", "time"}


class Curves:
    """The metrics of a run against step, epoch and time, some `most` points each."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], most: int):
        times = [row["time"] for row in rows if _finite(row.get("time"))]
        start = times[0] if times else 0.0
        self.clocks = {  # seconds from the first row
            "step": [row["step"] for row in rows],
            "epoch": [_rounded(row.get("epoch"), 0.0, 4) for row in rows],
            "time": [_rounded(row.get("time"), start, 1) for row in rows],
        }
        self.of: dict[str, tuple[list[int], list[float]]] = {}  # rows, values
        for number, row in enumerate(rows):
            for name, value in row.items():
                if is_number(value) and name not in CLOCK:
                    numbers, values = self.of.setdefault(name, ([], []))
                    numbers.append(number)
                    values.append(value if math.isfinite(value) else math.nan)
        self.longest = max((len(values) for _, values in self.of.values()), default=0)
        self.thin(most)

    def __len__(self) -> int:
        return sum(len(values) for _, values in self.of.values())

    def thin(self, most: int) -> None:
        """Keep some `most` points of each curve, and the rows that these need."""
        for name, (numbers, values) in self.of.items():
            kept = thinned(values, most)
            self.of[name] = [numbers[i] for i in kept], [values[i] for i in kept]
        used = sorted({number for numbers, _ in self.of.values() for number in numbers})
        new = {old: number for number, old in enumerate(used)}
        self.clocks = {n: [clock[i] for i in used] for n, clock in self.clocks.items()}
        for name, (numbers, values) in self.of.items():
            self.of[name] = [new[number] for number in numbers], values

    def as_json(self) -> dict[str, Any]:
        """Return JSON types: the clocks, and of each metric (rows, values)."""
        of = {
            name: (numbers, [_short(value) for value in values])
            for name, (numbers, values) in self.of.items()
        }
        return self.clocks | {"of": of}


def thinned(values: Sequence[float], most: int) -> list[int]:
    """Return which of the values to keep, in order.

    The first, the last, and of each of equal parts the least and the greatest, so that
    no spike is lost; at `most` so many, and the first value of each gap, nan.
    """
    n = len(values)
    if n <= most:
        return list(range(n))
    gaps = [math.isnan(value) for value in values]
    kept = {0, n - 1, *(i for i in range(1, n) if gaps[i] and not gaps[i - 1])}
    parts = max(1, (most - 2) // 2)
    for part in range(parts):
        indices = range(part * n // parts, (part + 1) * n // parts)
        if finite := [i for i in indices if not gaps[i]]:
            kept |= {min(finite, key=values.__getitem__)}
            kept |= {max(finite, key=values.__getitem__)}
    return sorted(kept)


def is_number(value: Any) -> bool:
    """Return whether a value of a row is a number, nan among them."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def _short(value: float) -> float | None:
    """Return five digits of a number, None of nan."""
    return None if math.isnan(value) else float(f"{value:.5g}")


def _rounded(value: Any, start: float, digits: int) -> float | None:
    return round(value - start, digits) if _finite(value) else None
