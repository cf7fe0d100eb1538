"""Runs in groups for a figure: which metric, which keys, and how a group looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stable_ssl.loggers.names import axis_label, value_label
from stable_ssl.schema import ConfigError
from stable_ssl.tools import keys
from stable_ssl.tools.style import COLOURS

if TYPE_CHECKING:
    from pandas import DataFrame

DASHES = ("-", "--", ":")  # after the colours are used up
LOOKS = [(colour, dash) for dash in DASHES for colour in COLOURS]


@dataclass(frozen=True)
class Group:
    """Runs that share their values of some keys."""

    label: str  # in the legend
    title: str  # of the legend: the key whose values the labels are; empty for words
    runs: DataFrame
    colour: Any  # of its lines and points
    dash: str = "-"


def metric(runs: DataFrame, value: str | None, rows: DataFrame | None = None) -> str:
    """Return the metric to draw: the one given, or the monitored one.

    Raises:
        ConfigError: no runs, or none of them has it, nor the rows that are given.
    """
    keys.require_runs(runs)
    if value is None:
        monitors = [m for m in runs.get("log.monitor", ()) if isinstance(m, str)]
        value = monitors[0] if monitors else keys.usual(runs)[0]
    if rows is not None:
        rows = rows[rows["run"].isin(runs["run"])]
    if rows is None or value not in rows or not keys.has_numbers(rows[value]):
        keys.require_metrics([value], runs)
    if rows is not None and "epoch" not in rows:
        raise ConfigError("the rows of these runs have no epoch to draw against")
    return value


def grouping(
    runs: DataFrame, by: Sequence[str] | None, beside: Sequence[str] = ()
) -> list[str]:
    """Return the keys that make groups, without those that stand elsewhere.

    Raises:
        ConfigError: a key that no run has.
    """
    keys.require_keys(by or (), runs)
    chosen = keys.telling(runs, given=beside) if by is None else by
    return [key for key in chosen if key not in beside]


def grouped(
    runs: DataFrame, by: Sequence[str] | None, beside: Sequence[str] = ()
) -> list[Group]:
    """Return the groups of runs with their labels and colours.

    A single key of numbers gets colours in its order.

    Raises:
        ConfigError: of `grouping`, or more groups than can be told apart.
    """
    from matplotlib import colormaps

    names = grouping(runs, by, beside)
    members = keys.groups(runs, names)
    n, title, looks = len(members), "", LOOKS
    if n > len(LOOKS):
        raise ConfigError(
            f"{n} groups by {', '.join(names)} are more than the {len(LOOKS)} that can"
            " be told apart; group by fewer keys, or give fewer runs"
        )
    labels = [", ".join(map(value_label, names, texts)) for texts in members]
    if len(names) == 1 and keys.numeric(text for (text,) in members):
        title, labels = axis_label(names[0]), [text for (text,) in members]
        if n > 2:
            looks = [(colormaps["viridis"](0.86 * i / (n - 1)), "-") for i in range(n)]
    return [
        Group(label, title, group, *look)
        for label, group, look in zip(labels, members.values(), looks, strict=False)
    ]


def numbers(runs: DataFrame, n: int, known: Sequence[str | None] = ()) -> list[str]:
    """Return the n keys that differ and hold numbers, those known first.

    Raises:
        ConfigError: there are more or fewer.
    """
    differ = [k for k in keys.telling(runs) if keys.numeric(runs[k].map(keys.cell))]
    names = list(dict.fromkeys([*filter(None, known), *differ]))
    if len(names) != n:
        raise ConfigError(
            f"{len(names)} keys of numbers differ ({', '.join(names) or 'none'});"
            f" say which {'is --x' if n == 1 else 'are --x and --y'}"
        )
    return names
