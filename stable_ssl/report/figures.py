"""Figures across runs: curves, sweeps, heat maps, comparisons, spectra.

Each function takes frames of `load` and returns a matplotlib figure as wide as a
column of a conference; `save` writes it. Groups of runs are told apart by keys of the
config, and what is drawn of a group is the mean over its seeds, and their spread.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stable_ssl.config import ConfigError
from stable_ssl.report import keys
from stable_ssl.report.reader import read_rows
from stable_ssl.report.statistics import Sample, sample
from stable_ssl.report.style import COLOURS, HEIGHTS, SPARSE, WIDTHS, panels, styled
from stable_ssl.report.words import axis, is_accuracy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

DASHES = ("-", "--", ":")  # after the colours are used up
FLOOR = 1e-7  # of the largest eigenvalue: what float32 cannot tell from 0
SEEDS = {"s": 5, "alpha": 0.45, "linewidths": 0, "zorder": 2.5}  # a point a seed
BARS = {"capsize": 2, "elinewidth": 0.9, "capthick": 0.9, "markersize": 3.5}


@dataclass(frozen=True)
class Group:
    """Runs that share their values of some keys.

    Args:
        label: of the legend.
        runs: rows of the frame of runs.
        colour: of its lines and points.
        dash: of its lines.
    """

    label: str
    runs: DataFrame
    colour: Any
    dash: str = "-"


def curves(
    runs: DataFrame,
    rows: DataFrame,
    value: str | None = None,
    by: Sequence[str] | None = None,
    interval: str = "std",
    style: str = "neurips",
) -> Figure:
    """Draw a metric against the epoch: a line a group, with a band over its seeds.

    A mean ends where the first run of its group does; between its rows a run counts as
    the line that joins them.

    Args:
        runs: of `load`, all of its rows or some.
        rows: the other frame of `load`.
        value: metric; None: the monitored one.
        by: keys that make the groups; None: those that tell the runs apart.
        interval: std or ci95, half the height of the band.
        style: neurips, icml or cvpr.

    Raises:
        ConfigError: no runs, an unknown key or metric, too many groups.
    """
    import numpy as np

    value = _metric(runs, value, rows)
    lines = rows[["run", "epoch", value]].dropna().sort_values("epoch", kind="stable")
    lines = lines.drop_duplicates(["run", "epoch"], keep="last")
    of_run = {run: line for run, line in lines.groupby("run", sort=False)}
    runs = runs[runs["run"].isin(of_run)]
    scale = 100 if is_accuracy(value) else 1
    with styled():
        figure, axes = _canvas(style)
        groups = _groups(runs, by)
        keys.warn_of_cells([group.runs for group in groups], ["epoch"])
        for group in groups:
            found = [of_run[run] for run in group.runs["run"]]
            _warn_of_ends(group, [line["epoch"].max() for line in found])
            grid = np.unique(np.concatenate([line["epoch"] for line in found]))
            start = max(line["epoch"].min() for line in found)
            end = min(line["epoch"].max() for line in found)
            grid = grid[(grid >= start) & (grid <= end)]
            seeds = [np.interp(grid, line["epoch"], line[value]) for line in found]
            _draw_band(axes, grid, scale * np.stack(seeds), interval, group)
        axes.set_xlabel("epoch")
        axes.margins(x=0.02)
        _finish(figure, axes, value, groups)
        _sparse_ticks(axes.xaxis)
    return figure


def sweep(
    runs: DataFrame,
    x: str | None = None,
    value: str | None = None,
    by: Sequence[str] | None = None,
    interval: str = "std",
    style: str = "neurips",
) -> Figure:
    """Draw a metric against a key: means with error bars, seeds as small points.

    The key's scale is logarithmic where its values are spaced geometrically, and even
    where they are words.

    Args:
        runs: of `load`, all of its rows or some.
        x: key; None: the one that differs and holds numbers.
        value: metric; None: the monitored one.
        by: keys that make the lines; None: those that tell the runs apart, beside x.
        interval: std or ci95, half the height of an error bar.
        style: neurips, icml or cvpr.

    Raises:
        ConfigError: as of `curves`, or x is needed.
    """
    value = _metric(runs, value)
    x = x or _numbers(runs, 1)[0]
    keys.require_keys([x], runs)
    runs = runs[runs[value].notna()]
    groups = _groups(runs, by, beside=[x])
    scale = Scale.of(runs[x])
    with styled():
        figure, axes = _canvas(style)
        keys.warn_of_cells(
            keys.groups(runs, [*_by(runs, by, [x]), x]).values(), [value]
        )
        for number, group in enumerate(groups):
            shift = 0.0 if scale.joined else _dodge(number, len(groups))
            cells = keys.groups(group.runs, [x])
            at = [scale.places[text] + shift for (text,) in cells]
            found = [_sample(cell, value) for cell in cells.values()]
            _draw_bars(axes, at, found, interval, group, scale.joined)
        scale.apply(axes.xaxis, WIDTHS[style])
        axes.set_xlabel(axis(x))
        _finish(figure, axes, value, groups)
    return figure


def compare(
    runs: DataFrame,
    value: str | None = None,
    by: Sequence[str] | None = None,
    interval: str = "std",
    style: str = "neurips",
) -> Figure:
    """Draw means beside one another, best on top, with error bars and their seeds.

    Args:
        runs: of `load`, all of its rows or some.
        value: metric; None: the monitored one.
        by: keys; the first makes the rows, the others colours; None: those that tell
            the runs apart.
        interval: std or ci95, half the length of an error bar.
        style: neurips, icml or cvpr.

    Raises:
        ConfigError: as of `curves`.
    """
    value = _metric(runs, value)
    runs = runs[runs[value].notna()]
    first, *others = _by(runs, by) or ["run"]
    lines = keys.groups(runs, [first])
    high = keys.preferred(runs, value) != "low"
    means = {place: _sample(group, value).mean for place, group in lines.items()}
    order = sorted(means, key=means.get, reverse=not high)  # the last is on top
    groups = _groups(runs, others)
    keys.warn_of_cells(keys.groups(runs, [first, *others]).values(), [value])
    with styled():
        height = 0.5 + 0.16 * len(order) * max(len(groups), 1.6)
        figure, axes = _canvas(style, min(height, 8.0))
        for number, group in enumerate(groups):
            shift = -_dodge(number, len(groups))
            cells = keys.groups(group.runs, [first])
            at = [order.index(place) + shift for place in cells]
            found = [_sample(cell, value) for cell in cells.values()]
            _draw_bars(axes, at, found, interval, group, joined=False, across=True)
        axes.set_yticks(range(len(order)), [text for (text,) in order])
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        if keys.numeric(text for (text,) in order):
            axes.set_ylabel(axis(first))
        _finish(figure, axes, value, groups, across=True)
    return figure


def heatmap(
    runs: DataFrame,
    x: str | None = None,
    y: str | None = None,
    value: str | None = None,
    style: str = "neurips",
) -> Figure:
    """Draw a metric against two keys: a cell for each pair, its mean written in it.

    Cells are as wide as one another, which is a logarithmic scale for values that are
    spaced geometrically; grey is a pair without runs.

    Args:
        runs: of `load`, all of its rows or some.
        x: key; None: the first of two that differ and hold numbers.
        y: key; None: the second.
        value: metric; None: the monitored one.
        style: neurips, icml or cvpr.

    Raises:
        ConfigError: as of `curves`, or x and y are needed.
    """
    import numpy as np

    value = _metric(runs, value)
    if x is None or y is None:
        free = [key for key in _numbers(runs, 2, known=[x, y]) if key not in (x, y)]
        x = x or free.pop(0)
        y = y or free.pop(0)
    keys.require_keys([x, y], runs)
    runs = runs[runs[value].notna()]
    columns, lines = (
        sorted({keys.cell(v) for v in runs[key]}, key=keys.rank) for key in (x, y)
    )
    cells = keys.groups(runs, [x, y])
    keys.warn_of_cells(cells.values(), [value])
    means = np.full((len(lines), len(columns)), np.nan)
    for (column, line), cell in cells.items():
        mean = _sample(cell, value).mean
        means[lines.index(line), columns.index(column)] = mean
    with styled():
        cell = min((WIDTHS[style] - 1.2) / len(columns), 0.6)
        figure, axes = _canvas(style, min(0.9 + min(cell, 0.35) * len(lines), 8.0))
        axes.set_facecolor("#dddddd")
        axes.grid(visible=False)
        image = axes.pcolormesh(means, cmap="cividis", edgecolor="white", linewidth=0.6)
        digits = 1 if is_accuracy(value) else None
        for (row, column), mean in np.ndenumerate(means):
            if np.isfinite(mean):
                words = f"{mean:.{digits}f}" if digits else f"{mean:.3g}"
                shade = image.norm(mean)
                axes.text(
                    column + 0.5,
                    row + 0.5,
                    words,
                    ha="center",
                    va="center",
                    fontsize=min(7, 72 * cell / 2.6),
                    color="white" if shade < 0.55 else "black",
                )
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
        axes.set_yticks(np.arange(len(lines)) + 0.5, lines)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(axis(x))
        axes.set_ylabel(axis(y))
        figure.set_label(value)
        bar = figure.colorbar(image, ax=axes, label=axis(value), pad=0.02)
        bar.outline.set_visible(False)
        _turn_long(axes, columns, WIDTHS[style])
    return figure


def spectrum(
    runs: DataFrame,
    split: str = "val",
    by: Sequence[str] | None = None,
    style: str = "neurips",
) -> Figure:
    """Draw the eigenvalues of the features' covariance by rank, the largest being 1.

    A line is the geometric mean over the seeds of a group, its band their extremes;
    what float32 cannot tell from 0 is left out.

    Args:
        runs: of `load`, all of its rows or some; spectra are those of their steps.
        split: whose features.
        by: keys that make the groups; None: those that tell the runs apart.
        style: neurips, icml or cvpr.

    Raises:
        ConfigError: as of `curves`, or no run has spectra.
    """
    import numpy as np

    keys.require_runs(runs)
    found = {}
    for run, folder, step in zip(
        runs["run"], runs["folder"], runs["step"], strict=True
    ):
        eigenvalues = _eigenvalues(folder, split, step)
        if eigenvalues is not None:
            found[run] = eigenvalues
    if not found:
        raise ConfigError(
            f"no run has spectra of the split {split}; train with"
            " ++log.eval.spectrum=true, which writes spectra.jsonl"
        )
    groups = _groups(runs[runs["run"].isin(found)], by)
    with styled():
        figure, axes = _canvas(style)
        for group in groups:
            seeds = [found[run] for run in group.runs["run"]]
            length = min(map(len, seeds))
            logs = np.log([seed[:length] for seed in seeds])
            ranks = np.arange(1, length + 1)
            mean = np.exp(logs.mean(0))
            axes.plot(ranks, mean, group.dash, color=group.colour, label=group.label)
            if len(seeds) > 1:
                low, high = np.exp(logs.min(0)), np.exp(logs.max(0))
                axes.fill_between(
                    ranks, low, high, color=group.colour, alpha=0.18, linewidth=0
                )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("rank")
        axes.set_ylabel("eigenvalue / largest")
        figure.set_label(split)
        _legend(figure, groups)
    return figure


# --- groups ---------------------------------------------------------------------------


def _metric(runs: DataFrame, value: str | None, rows: DataFrame | None = None) -> str:
    """Return the metric to draw: the one given or the monitored; refuse unknown."""
    keys.require_runs(runs)
    if value is None:
        monitors = [m for m in runs.get("log.monitor", ()) if isinstance(m, str)]
        value = monitors[0] if monitors else keys.usual(runs)[0]
    if rows is None or value not in rows or "/" not in value:
        keys.require_metrics([value], runs)
    return value


def _by(
    runs: DataFrame, by: Sequence[str] | None, beside: Sequence[str] = ()
) -> list[str]:
    """Return the keys that make groups, without those that stand elsewhere."""
    chosen = keys.telling(runs, given=beside) if by is None else by
    return [key for key in chosen if key not in beside]


def _groups(
    runs: DataFrame, by: Sequence[str] | None, beside: Sequence[str] = ()
) -> list[Group]:
    """Return the groups of runs with their labels and colours.

    A single key of numbers gets colours in its order.

    Raises:
        ConfigError: a key that no run has, or more groups than can be told apart.
    """
    from matplotlib import colormaps

    names = _by(runs, by, beside)
    keys.require_keys(names, runs)
    found = keys.groups(runs, names)
    looks = [(colour, dash) for dash in DASHES for colour in COLOURS]
    if len(found) > len(looks):
        raise ConfigError(
            f"{len(found)} groups by {', '.join(names)} are more than the {len(looks)}"
            " that can be told apart; group by fewer keys, or give fewer runs"
        )
    numbers = [keys.numeric(place[i] for place in found) for i in range(len(names))]
    if numbers == [True] and len(found) > 2:
        shades = colormaps["viridis"]
        looks = [(shades(0.9 * i / (len(found) - 1)), "-") for i in range(len(found))]
    labels = [
        ", ".join(
            f"{axis(name)} {text}" if number else text
            for name, text, number in zip(names, place, numbers, strict=True)
        )
        for place in found
    ]
    return [
        Group(label, group, *look)
        for label, group, look in zip(labels, found.values(), looks, strict=False)
    ]


def _numbers(runs: DataFrame, n: int, known: Sequence[str | None] = ()) -> list[str]:
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


def _sample(runs: DataFrame, value: str) -> Sample:
    """Return the values of a metric, accuracies in per cent."""
    scale = 100 if is_accuracy(value) else 1
    return sample([scale * v for v in runs[value]])


def _eigenvalues(folder: str, split: str, step: float) -> Any:
    """Return the last spectrum up to a step, (D,) with 1 first, or None."""
    import numpy as np

    try:
        rows = read_rows(folder, "spectra.jsonl")
    except FileNotFoundError:
        return None
    rows = [r for r in rows if r.get("split") == split and r["step"] <= step]
    if not rows:
        return None
    values = np.asarray(rows[-1]["eigenvalues"], dtype=float)
    values = values / values[0]
    return values[values > FLOOR] if len(values) and values[0] == 1 else None


def _warn_of_ends(group: Group, ends: Sequence[float]) -> None:
    """Warn of runs that end before the others of their group, and cut its mean."""
    short = [
        run for run, end in zip(group.runs["run"], ends, strict=True) if end < max(ends)
    ]
    if short:
        warnings.warn(
            f"the mean of {group.label or 'the runs'} ends at epoch {min(ends):g} of"
            f" {max(ends):g}, as these do: {', '.join(short)}",
            stacklevel=3,
        )


# --- scales ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """Where the values of a key stand on an axis.

    Args:
        places: by the value's text.
        log: whether the axis is logarithmic.
        even: whether places are numbered, and say nothing of the values.
        joined: whether a line may join them: they are numbers.
    """

    places: dict[str, float]
    log: bool
    even: bool
    joined: bool

    @classmethod
    def of(cls, values: Sequence[Any]) -> Scale:
        """Return the scale that suits the values of a key."""
        texts = sorted({keys.cell(value) for value in values}, key=keys.rank)
        if not keys.numeric(texts):
            return cls({t: i for i, t in enumerate(texts)}, False, True, False)
        numbers = [float(text) for text in texts]
        positive = [number for number in numbers if number > 0]
        log = _geometric(positive)
        if log and len(positive) < len(numbers):  # 0 beside them has no logarithm
            return cls({t: i for i, t in enumerate(texts)}, False, True, True)
        return cls(dict(zip(texts, numbers, strict=True)), log, False, True)

    def apply(self, axis: Any, width: float) -> None:
        """Set scale and ticks; each value has one where there is room in the width."""
        from matplotlib.ticker import NullLocator

        axes, room = axis.axes, (width - 0.6) / 0.075  # characters of 7 pt
        if self.log:
            axes.set_xscale("log")
        fits = sum(len(text) + 1 for text in self.places) < room
        if fits or self.even:
            axes.set_xticks(list(self.places.values()), list(self.places))
            axis.set_minor_locator(NullLocator())
            if not fits:
                _turn_long(axes, list(self.places), width)
        if self.even:
            axes.set_xlim(-0.5, len(self.places) - 0.5)
        else:
            axes.margins(x=0.06)


def _geometric(numbers: Sequence[float]) -> bool:
    """Return whether the ratios of ascending numbers are more even than their gaps."""
    import numpy as np

    if len(numbers) < 2 or numbers[0] <= 0:
        return False
    if len(numbers) == 2:
        return numbers[1] >= 10 * numbers[0]

    def unevenness(steps: Any) -> float:
        return float(np.std(steps) / np.mean(steps))

    return unevenness(np.diff(np.log(numbers))) < unevenness(np.diff(numbers))


# --- pieces ---------------------------------------------------------------------------


def _canvas(style: str, height: float | None = None) -> tuple[Figure, Axes]:
    """Return a figure with one panel, a column wide."""
    figure, (axes,) = panels(WIDTHS[style], height or HEIGHTS[style])
    return figure, axes


def _draw_band(axes: Axes, x: Any, seeds: Any, interval: str, group: Group) -> None:
    """Draw the mean of seeds (n, points), and its spread."""
    import numpy as np

    samples = [Sample(tuple(column)) for column in seeds.T]
    mean = np.array([s.mean for s in samples])
    marker = "o" if len(x) <= SPARSE else None
    axes.plot(x, mean, group.dash, color=group.colour, label=group.label, marker=marker)
    if len(seeds) > 1:
        spread = np.array([s.spread(interval) for s in samples])
        axes.fill_between(
            x, mean - spread, mean + spread, color=group.colour, alpha=0.18, linewidth=0
        )


def _draw_bars(
    axes: Axes,
    at: Sequence[float],
    found: Sequence[Sample],
    interval: str,
    group: Group,
    joined: bool,
    across: bool = False,
) -> None:
    """Draw means with their spreads, and a small point for each seed."""
    import numpy as np

    means = [s.mean for s in found]
    spreads = np.nan_to_num([s.spread(interval) for s in found])
    flat = [(place, v) for place, s in zip(at, found, strict=True) for v in s.values]
    places, values = zip(*flat, strict=True)
    line = group.dash if joined else "none"
    look = {"color": group.colour, "label": group.label, "fmt": "o", "ls": line} | BARS
    if across:
        axes.errorbar(means, at, xerr=spreads, **look)
        axes.scatter(values, places, color=[group.colour], **SEEDS)
    else:
        axes.errorbar(at, means, yerr=spreads, **look)
        axes.scatter(places, values, color=[group.colour], **SEEDS)


def _dodge(number: int, of: int) -> float:
    """Return how far a group stands beside its place, of 1 between places."""
    return (number - (of - 1) / 2) * 0.7 / of


def _finish(
    figure: Figure,
    axes: Axes,
    value: str,
    groups: Sequence[Group],
    across: bool = False,
) -> None:
    """Label the metric's axis, keep accuracies below 100 %, set ticks and legend."""
    of_metric = axes.xaxis if across else axes.yaxis
    figure.set_label(value)
    of_metric.set_label_text(axis(value))
    if is_accuracy(value):
        low, high = of_metric.get_view_interval()
        limits = max(low, -1.0), min(high, 101.0)
        (axes.set_xlim if across else axes.set_ylim)(*limits)
    _sparse_ticks(of_metric)
    _legend(figure, groups)


def _sparse_ticks(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))


def _legend(figure: Figure, groups: Sequence[Group]) -> None:
    """Name the groups above the panel, in as many columns as fit."""
    if len(groups) < 2:
        return
    longest = max(len(group.label) for group in groups)
    room = int(figure.get_figwidth() / (0.4 + 0.06 * longest))
    figure.legend(
        loc="outside upper center",
        ncols=max(1, min(room, len(groups))),
        columnspacing=1.2,
    )


def _turn_long(axes: Axes, texts: Sequence[str], width: float) -> None:
    """Turn tick labels that would touch one another."""
    if max(map(len, texts)) * len(texts) * 0.07 > width - 1.4:
        axes.tick_params(axis="x", labelrotation=30)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
