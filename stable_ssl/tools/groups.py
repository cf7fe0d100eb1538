"""Runs in groups for a figure: which metric, which keys, and how a group looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stable_ssl.config import ConfigError
from stable_ssl.loggers.names import axis, is_accuracy, named
from stable_ssl.tools import keys
from stable_ssl.tools.seeds import Sample, sample
from stable_ssl.tools.style import COLOURS

if TYPE_CHECKING:
    from pandas import DataFrame

DASHES = ("-", "--", ":")  # after the colours are used up


@dataclass(frozen=True)
class Group:
    """Runs that share their values of some keys.

    Args:
        label: in the legend.
        title: of the legend: the key whose values the labels are; empty for words.
        runs: rows of the frame of runs.
        colour: of its lines and points.
        dash: of its lines.
    """

    label: str
    title: str
    runs: DataFrame
    colour: Any
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
    own = None if rows is None else rows[rows["run"].isin(runs["run"])]
    if own is None or value not in own or not keys.has_numbers(own[value]):
        keys.require_metrics([value], runs)
    if own is not None and "epoch" not in own:
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
    found = keys.groups(runs, names)
    looks = [(colour, dash) for dash in DASHES for colour in COLOURS]
    if len(found) > len(looks):
        raise ConfigError(
            f"{len(found)} groups by {', '.join(names)} are more than the {len(looks)}"
            " that can be told apart; group by fewer keys, or give fewer runs"
        )
    if len(names) == 1 and keys.numeric(text for (text,) in found):
        title, labels = axis(names[0]), [text for (text,) in found]
        if len(found) > 2:
            shades = colormaps["viridis"]
            looks = [
                (shades(0.86 * i / (len(found) - 1)), "-") for i in range(len(found))
            ]
    else:
        title = ""
        labels = [", ".join(map(named, names, place)) for place in found]
    return [
        Group(label, title, group, *look)
        for label, group, look in zip(labels, found.values(), looks, strict=False)
    ]


def numbers(runs: DataFrame, n: int, known: Sequence[str | None] = ()) -> list[str]:
    """Return the n keys that differ and hold numbers.

    Raises:
        ConfigError: there are more or fewer.
    """
    given = [key for key in known if key]
    found = [
        key
        for key in keys.telling(runs)
        if keys.numeric(keys.cell(v) for v in runs[key])
    ]
    found = list(dict.fromkeys([*given, *found]))
    if len(found) != n:
        raise ConfigError(
            f"{len(found)} keys of numbers differ ({', '.join(found) or 'none'});"
            f" say which {'is --x' if n == 1 else 'are --x and --y'}"
        )
    return found


def values(runs: DataFrame, value: str) -> Sample:
    """Return the values of a metric, accuracies in per cent."""
    scale = 100 if is_accuracy(value) else 1
    return sample([scale * v for v in runs[value]])
