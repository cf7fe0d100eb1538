"""Figures across runs: curves, sweeps, heat maps, comparisons, spectra.

Each function takes frames of `load` and returns a matplotlib figure as wide as a
column of a conference; `save` writes it. Groups of runs are told apart by keys of the
config, and what is drawn of a group is the mean over its seeds, and their spread.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stable_ssl.config import ConfigError
from stable_ssl.loggers.jsonl import read_rows
from stable_ssl.loggers.names import axis, is_accuracy, spelled
from stable_ssl.tools import keys
from stable_ssl.tools.drawing import (
    band,
    bars,
    canvas,
    dodge,
    finish,
    legend,
    sparse_ticks,
)
from stable_ssl.tools.groups import Group, grouped, grouping, metric, numbers, values
from stable_ssl.tools.scales import Scale, turn_long
from stable_ssl.tools.style import WIDTHS, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

FLOOR = 1e-7  # of the largest eigenvalue: what float32 cannot tell from 0


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

    value = metric(runs, value, rows)
    lines = rows[["run", "step", "epoch", value]].dropna()
    lines = lines.sort_values("epoch", kind="stable")
    lines = lines.drop_duplicates(["run", "epoch"], keep="last")
    of_run = {run: line for run, line in lines.groupby("run", sort=False)}
    trained = runs["run"].isin(lines["run"][lines["step"] > 0])
    some = trained if trained.any() else runs["run"].isin(of_run)
    runs = keys.with_values(runs, some)
    scale = 100 if is_accuracy(value) else 1
    with styled():
        figure, axes = canvas(style)
        groups = grouped(runs, by)
        keys.warn_of_cells([group.runs for group in groups], ["epoch"])
        for group in groups:
            found = [of_run[run] for run in group.runs["run"]]
            _warn_of_ends(group, [line["epoch"].max() for line in found])
            grid = np.unique(np.concatenate([line["epoch"] for line in found]))
            start = max(line["epoch"].min() for line in found)
            end = min(line["epoch"].max() for line in found)
            grid = grid[(grid >= start) & (grid <= end)]
            seeds = [np.interp(grid, line["epoch"], line[value]) for line in found]
            band(axes, grid, scale * np.stack(seeds), interval, group)
        axes.set_xlabel("epoch")
        axes.margins(x=0.02)
        finish(figure, axes, value, groups)
        sparse_ticks(axes.xaxis, whole=rows["epoch"].max() >= 2)
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
    value = metric(runs, value)
    x = x or numbers(runs, 1)[0]
    keys.require_keys([x], runs)
    runs = keys.with_values(runs, runs[value].notna())
    groups = grouped(runs, by, beside=[x])
    scale = Scale.of(runs[x])
    with styled():
        figure, axes = canvas(style)
        keys.warn_of_cells(
            keys.groups(runs, [*grouping(runs, by, [x]), x]).values(), [value]
        )
        for number, group in enumerate(groups):
            shift = 0.0 if scale.joined else dodge(number, len(groups))
            cells = keys.groups(group.runs, [x])
            at = [scale.places[text] + shift for (text,) in cells]
            found = [values(cell, value) for cell in cells.values()]
            bars(axes, at, found, interval, group, scale.joined)
        scale.apply(axes, x, WIDTHS[style])
        axes.set_xlabel(axis(x))
        finish(figure, axes, value, groups)
    return figure


def compare(
    runs: DataFrame,
    value: str | None = None,
    by: Sequence[str] | None = None,
    interval: str = "std",
    style: str = "neurips",
) -> Figure:
    """Draw means below one another, with error bars and the seeds.

    The best is on top, but numbers stay in order.

    Args:
        runs: of `load`, all of its rows or some.
        value: metric; None: the first accuracy of test, or of val.
        by: keys; the first makes the rows, the others colours; None: those that tell
            the runs apart.
        interval: std or ci95, half the length of an error bar.
        style: neurips, icml or cvpr.

    Raises:
        ConfigError: as of `curves`.
    """
    keys.require_runs(runs)
    value = metric(runs, value or keys.usual(runs)[0])
    runs = keys.with_values(runs, runs[value].notna())
    first, *others = grouping(runs, by) or ["run"]
    lines = keys.groups(runs, [first])
    high = keys.preferred(runs, value) != "low"
    means = {place: values(group, value).mean for place, group in lines.items()}
    order = list(means)[::-1]  # the last is on top
    if not keys.numeric(text for (text,) in order):
        order.sort(key=means.get, reverse=not high)
    groups = grouped(runs, others)
    keys.warn_of_cells(keys.groups(runs, [first, *others]).values(), [value])
    with styled():
        height = 0.5 + 0.16 * len(order) * max(len(groups), 1.6)
        figure, axes = canvas(style, min(height, 8.0))
        for number, group in enumerate(groups):
            shift = -dodge(number, len(groups))
            cells = keys.groups(group.runs, [first])
            at = [order.index(place) + shift for place in cells]
            found = [values(cell, value) for cell in cells.values()]
            bars(
                axes, at, found, interval, group, joined=False, below=0.2 / len(groups)
            )
        axes.set_yticks(range(len(order)), [spelled(first, t) for (t,) in order])
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        if keys.numeric(text for (text,) in order):
            axes.set_ylabel(axis(first))
        finish(figure, axes, value, groups, across=True)
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

    value = metric(runs, value)
    if x is None or y is None:
        free = [key for key in numbers(runs, 2, known=[x, y]) if key not in (x, y)]
        x = x or free.pop(0)
        y = y or free.pop(0)
    keys.require_keys([x, y], runs)
    runs = keys.with_values(runs, runs[value].notna())
    columns, lines = (
        sorted({keys.cell(v) for v in runs[key]}, key=keys.rank) for key in (x, y)
    )
    cells = keys.groups(runs, [x, y])
    keys.warn_of_cells(cells.values(), [value])
    means = np.full((len(lines), len(columns)), np.nan)
    for (column, line), cell in cells.items():
        mean = values(cell, value).mean
        means[lines.index(line), columns.index(column)] = mean
    with styled():
        cell = min((WIDTHS[style] - 1.2) / len(columns), 0.6)
        figure, axes = canvas(style, min(0.9 + min(cell, 0.35) * len(lines), 8.0))
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
        names, others = (
            [spelled(key, text) for text in texts]
            for key, texts in ((x, columns), (y, lines))
        )
        axes.set_xticks(np.arange(len(columns)) + 0.5, names)
        axes.set_yticks(np.arange(len(lines)) + 0.5, others)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(axis(x))
        axes.set_ylabel(axis(y))
        figure.set_label(value)
        bar = figure.colorbar(image, ax=axes, label=axis(value), pad=0.02)
        bar.outline.set_visible(False)
        turn_long(axes, names, WIDTHS[style])
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
    groups = grouped(keys.with_values(runs, runs["run"].isin(found)), by)
    with styled():
        figure, axes = canvas(style)
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
        axes.minorticks_off()
        axes.margins(x=0)
        axes.set_xlabel("rank")
        axes.set_ylabel("eigenvalue / largest")
        figure.set_label(split)
        legend(figure, groups)
    return figure


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
    if not len(values) or not 0 < values[0] < np.inf:
        return None
    values = values / values[0]
    return values[values > FLOOR]


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
