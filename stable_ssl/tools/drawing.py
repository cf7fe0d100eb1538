"""What figures are made of: groups of runs, bands, error bars, scales, legends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from stable_ssl.loggers.names import axis_label, is_accuracy, spelled, value_label
from stable_ssl.schema import ConfigError
from stable_ssl.tools import run_keys
from stable_ssl.tools.seed_statistics import INTERVALS, Sample, sample_of
from stable_ssl.tools.style import COLOURS, GREY, SPARSE, literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from numpy import ndarray
    from pandas import DataFrame

DASHES = ("-", "--", ":")  # after the colours are used up
LOOKS = [(colour, dash) for dash in DASHES for colour in COLOURS]
SEEDS = {"s": 5, "alpha": 0.45, "linewidths": 0, "zorder": 2.5}  # a point a seed
BESIDE = 4 / 72  # inches from a bar to the seeds it is of
LINE = 0.15  # inches of a line of a legend
BARS = {"capsize": 2, "elinewidth": 0.9, "capthick": 0.9, "markersize": 3.5}
PER_CENT = (0, 5, 10, 20, 50, 80, 90, 95, 98, 100)  # ticks of a scale of odds
CHARACTER = 0.075  # inches a character of 7 pt and its room


@dataclass(frozen=True)
class Group:
    """Runs that share their values of some keys."""

    label: str  # in the legend
    title: str  # of the legend: the key whose values the labels are; empty for words
    runs: DataFrame
    colour: Any  # of its lines and points
    dash: str = "-"

    @property
    def drawn(self) -> str:
        """The label as matplotlib takes it."""
        return literal(self.label)


def metric(runs: DataFrame, value: str | None, rows: DataFrame | None = None) -> str:
    """Return the metric to draw: the one given, or the monitored one.

    Raises:
        ConfigError: no runs, or none of them has it, nor the rows that are given.
    """
    run_keys.require_runs(runs)
    if value is None:
        monitors = [m for m in runs.get("log.monitor", ()) if isinstance(m, str)]
        value = monitors[0] if monitors else run_keys.usual(runs)[0]
    if rows is not None:
        rows = rows[rows["run"].isin(runs["run"])]
    if rows is None or value not in rows or not run_keys.has_numbers(rows[value]):
        run_keys.require_metrics([value], runs)
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
    run_keys.require_keys(by or (), runs)
    chosen = run_keys.telling(runs, given=beside) if by is None else by
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
    members = run_keys.groups(runs, names)
    n, title, looks = len(members), "", LOOKS
    if n > len(LOOKS):
        raise ConfigError(
            f"{n} groups by {', '.join(names)} are more than the {len(LOOKS)} that can"
            " be told apart; group by fewer keys, or give fewer runs"
        )
    labels = [", ".join(map(value_label, names, texts)) for texts in members]
    if len(names) == 1 and run_keys.numeric(text for (text,) in members):
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
    differ = [
        k
        for k in run_keys.telling(runs)
        if run_keys.numeric(runs[k].map(run_keys.cell))
    ]
    names = list(dict.fromkeys([*filter(None, known), *differ]))
    if len(names) != n:
        raise ConfigError(
            f"{len(names)} keys of numbers differ ({', '.join(names) or 'none'});"
            f" say which {'is --x' if n == 1 else 'are --x and --y'}"
        )
    return names


# --- what a group looks like ----------------------------------------------------------


def band(axes: Axes, x: ndarray, seeds: ndarray, interval: str, group: Group) -> None:
    """Draw the mean of seeds (n, points), and its spread."""
    import numpy as np

    samples = [Sample(tuple(column)) for column in seeds.T]
    mean = np.array([sample.mean for sample in samples])
    look = {"color": group.colour, "label": group.drawn, "linestyle": group.dash}
    if len(x) <= SPARSE:  # hollow where a dash is all that tells two groups apart
        hollow = {} if group.dash == "-" else {"markerfacecolor": "white"}
        look |= {"marker": "o"} | hollow
    axes.plot(x, mean, **look)
    if len(seeds) > 1:
        spread = np.array([sample.spread(interval) for sample in samples])
        shade(axes, x, mean - spread, mean + spread, group.colour)


def shade(axes: Axes, x: ndarray, low: ndarray, high: ndarray, colour: Any) -> None:
    """Fill a band, with edges that show where several lie on one another."""
    from matplotlib.colors import to_rgba

    colours = {"facecolor": to_rgba(colour, 0.14), "edgecolor": to_rgba(colour, 0.5)}
    axes.fill_between(x, low, high, linewidth=0.4, **colours)


def bars(
    axes: Axes,
    group: Group,
    key: str,
    value: str,
    interval: str,
    positions: Mapping[str, float],
    joined: bool = False,
    below: float | None = None,
) -> None:
    """Draw a group's means of a metric, each with its spread and a point for each seed.

    There is one for each value of a key, at its position; a line joins them if joined.
    They go upwards with the seeds on their right, or across with them so far `below`.
    """
    import numpy as np
    from matplotlib.transforms import ScaledTranslation

    cells = run_keys.groups(group.runs, [key])
    at = [positions[text] for (text,) in cells]
    samples = [sample_of(cell, value) for cell in cells.values()]
    means = [sample.mean for sample in samples]
    spreads = np.nan_to_num([sample.spread(interval) for sample in samples])
    values = [value for sample in samples for value in sample.values]
    of_values = np.repeat(at, [sample.n for sample in samples])
    line = group.dash if joined else "none"
    look = {"color": group.colour, "label": group.drawn, "fmt": "o", "ls": line} | BARS
    seeds = {"color": [group.colour], **SEEDS}
    if below is None:
        axes.errorbar(at, means, yerr=spreads, **look)
        shift = ScaledTranslation(BESIDE, 0, axes.figure.dpi_scale_trans)
        seeds["transform"] = axes.transData + shift
    else:
        axes.errorbar(means, at, xerr=spreads, **look)
        of_values, values = values, of_values - below
    axes.scatter(of_values, values, **seeds)


def dodge(number: int, of: int) -> float:
    """Return how far a group stands beside its position, of 1 between positions."""
    return (number - (of - 1) / 2) * 0.7 / of


def finish(
    figure: Figure,
    axes: Axes,
    value: str,
    groups: Sequence[Group],
    note: str,
    across: bool = False,
) -> None:
    """Label the metric's axis, set its scale and ticks, and the legend.

    A note stands above the panel: what the spreads are.
    """
    axes.set_title(note, loc="right", fontsize=6, color=GREY)
    axis = axes.xaxis if across else axes.yaxis
    figure.set_label(value)
    room = 60 if across else int(figure.get_figheight() * 14)  # characters of 8 pt
    axis.set_label_text(literal("\n".join(wrap(axis_label(value), room))))
    (accuracy_axis if is_accuracy(value) else sparse_ticks)(axis)
    legend(figure, groups)


def spreads(cells: Iterable[DataFrame], interval: str, dots: str = "") -> str:
    """Say what is drawn of the runs of cells: mean, spread, how many, what dots are."""
    counts = sorted({len(cell) for cell in cells})
    if counts[-1:] == [1]:
        return "one run each"
    n = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]])))
    return f"mean ± {INTERVALS[interval]}, n = {n}{dots}"


def sparse_ticks(axis: Axis, whole: bool = False) -> None:
    """Set six ticks at most, at round numbers, or at whole ones."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=whole))


def accuracy_axis(axis: Axis) -> None:
    """Set scale, limits and ticks of accuracies in per cent; call it when all is drawn.

    Where they lead from below 50 to above 90 % the scale is that of the odds: 90 and
    98 % stand as far apart as 50 and 80 %, which a linear scale would draw as a line.
    """
    from matplotlib.ticker import FixedLocator

    axes, across = axis.axes, axis.axis_name == "x"
    low, high = axis.get_data_interval()
    wide = low < 50 and high > 90
    if wide:
        (axes.set_xscale if across else axes.set_yscale)(
            "function", functions=(_odds, _of_odds)
        )
        axis.set_major_locator(FixedLocator(PER_CENT))
        axis.set_major_formatter("{x:g}")
    low, high = axis.get_view_interval()
    limits = max(low, 0 if wide else -1), min(high, 100 if wide else 101)
    (axes.set_xlim if across else axes.set_ylim)(*limits)
    if not wide:
        sparse_ticks(axis)


def _odds(values: ndarray) -> ndarray:
    """Map per cent to the logarithm of the odds, 0 and 100 to finite ones."""
    import numpy as np

    values = np.clip(values, 0, 100)
    return np.log((1 + values) / (101 - values))


def _of_odds(logarithms: ndarray) -> ndarray:
    """Undo `_odds`."""
    import numpy as np

    odds = np.exp(logarithms)
    return (101 * odds - 1) / (1 + odds)


def legend(figure: Figure, groups: Sequence[Group]) -> None:
    """Name the groups above the panel, which keeps its height."""
    if len(groups) < 2:
        return
    n, width, title = len(groups), figure.get_figwidth(), groups[0].title
    sizes = sorted((0.45 + 0.057 * len(group.label) for group in groups), reverse=True)
    columns = max((k for k in range(1, n + 1) if sum(sizes[:k]) < width), default=1)
    lines = math.ceil(n / columns) + bool(title)
    figure.set_figheight(figure.get_figheight() + LINE * lines)
    spacing = {"columnspacing": 1.2, "handlelength": 1.6, "handletextpad": 0.5}
    spacing |= {"ncols": columns, "title": literal(title)}
    figure.legend(loc="outside upper center", **spacing)


# --- the axis of a key ----------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """Where the values of a key stand on an axis."""

    positions: dict[str, float]  # by the value's text
    scale: str  # of the axis: linear, log, or symlog where 0 is among the values
    even: bool  # whether positions are 0, 1, 2, ... and say nothing of the values
    joined: bool  # whether a line may join them: they are numbers

    @classmethod
    def of(cls, values: Sequence[Any]) -> Scale:
        """Return the scale that suits the values of a key."""
        texts = run_keys.distinct(values)
        joined = run_keys.numeric(texts)
        numbers = [float(text) for text in texts] if joined else []
        positive = [number for number in numbers if number > 0]
        scale = "log" if _geometric(positive) else "linear"
        if scale == "log" and numbers[0] == 0:
            scale = "symlog"  # linear up to the least above 0
        even = not joined or (scale == "log" and numbers[0] < 0)
        positions = range(len(texts)) if even else numbers
        positions = dict(zip(texts, positions, strict=True))
        return cls(positions, "linear" if even else scale, even, joined and not even)

    def apply(self, axes: Axes, key: str) -> None:
        """Set scale and ticks of x, one tick a value of the key where there is room."""
        if self.scale == "symlog":
            least = min(position for position in self.positions.values() if position)
            axes.set_xscale("symlog", linthresh=least)
        else:
            axes.set_xscale(self.scale)
        names = [literal(spelled(key, text)) for text in self.positions]
        room = axes.figure.get_figwidth() - 0.6
        fits = sum(len(name) + 1 for name in names) < room / CHARACTER
        if fits or self.even:
            axes.set_xticks(list(self.positions.values()), names)
            axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        if self.even:
            turn_long(axes, names)
            axes.set_xlim(-0.5, len(names) - 0.5)
        else:
            axes.margins(x=0.06)


def _geometric(numbers: Sequence[float]) -> bool:
    """Return whether the ratios of ascending numbers > 0 are more even than gaps."""
    import numpy as np

    if len(numbers) < 3:
        return len(numbers) == 2 and numbers[1] >= 10 * numbers[0]
    ratios, gaps = np.diff(np.log(numbers)), np.diff(numbers)
    return bool(np.std(ratios) / np.mean(ratios) < np.std(gaps) / np.mean(gaps))


def turn_long(axes: Axes, names: Sequence[str]) -> None:
    """Turn the names below x where they would touch one another."""
    room = axes.figure.get_figwidth() - 1.2
    if max(map(len, names)) * len(names) * CHARACTER > room:
        look = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(axes.get_xticks(), names, **look)
