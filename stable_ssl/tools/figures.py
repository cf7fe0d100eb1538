"""Figures across runs: curves, sweeps, heat maps, comparisons, spectra.

Each function takes frames of `load` and returns a matplotlib figure as wide as a
column of a conference; `save` writes it. Groups of runs are told apart by keys of the
config, and what is drawn of a group is the mean over its seeds, and their spread.

Their arguments::

    runs      of `load`, all of its rows or some; rows is the other frame of `load`
    value     metric; None: the monitored one
    by        keys that make the groups; None: those that tell the runs apart
    interval  std or ci95: half the height of a band or an error bar
    style     neurips, icml or cvpr: whose column is as wide

They raise ConfigError of no runs, an unknown key or metric, and too many groups.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from stable_ssl.loggers.jsonl import read_rows
from stable_ssl.loggers.names import axis_label, is_accuracy, spelled
from stable_ssl.schema import ConfigError
from stable_ssl.tools import drawing, run_keys
from stable_ssl.tools.seed_statistics import sample_of
from stable_ssl.tools.style import WIDTHS, column, literal, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy import ndarray
    from pandas import DataFrame

DOTS = "; dots are the runs"
PUBLISHED = "; diamonds: published"
DIAMONDS = {"marker": "D", "facecolors": "none", "edgecolors": "black"}
DIAMONDS |= {"s": 14, "linewidths": 0.7, "zorder": 3}
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
    the line that joins them. Arguments are those of this module.
    """
    value = drawing.metric(runs, value, rows)
    points = rows[["run", "step", "epoch", value]].dropna()
    trained = runs["run"].isin(points["run"][points["step"] > 0])
    valued = trained if trained.any() else runs["run"].isin(points["run"])
    groups = drawing.grouped(run_keys.with_values(runs, valued), by)
    run_keys.warn_of_cells([group.runs for group in groups], ["epoch"])
    points = points.sort_values("epoch", kind="stable")
    points = points.drop_duplicates(["run", "epoch"], keep="last")
    lines = points.pivot(index="epoch", columns="run", values=value)
    scale = 100 if is_accuracy(value) else 1
    with styled():
        figure, axes = column(style)
        for group in groups:
            seeds = lines[list(group.runs["run"])].dropna(how="all")
            _warn_of_ends(group, [seeds[run].last_valid_index() for run in seeds])
            seeds = seeds.interpolate("index", limit_area="inside").dropna()
            epochs, values = seeds.index.to_numpy(), scale * seeds.to_numpy().T
            drawing.band(axes, epochs, values, interval, group)
        axes.set_xlabel("epoch")
        axes.margins(x=0.02)
        note = drawing.spreads([group.runs for group in groups], interval)
        drawing.finish(figure, axes, value, groups, note)
        drawing.sparse_ticks(axes.xaxis, whole=rows["epoch"].max() >= 2)
    return figure


def sweep(
    runs: DataFrame,
    x: str | None = None,
    value: str | None = None,
    by: Sequence[str] | None = None,
    interval: str = "std",
    style: str = "neurips",
) -> Figure:
    """Draw a metric against the key x: means with error bars, seeds as small points.

    The key's scale is logarithmic where its values are spaced geometrically, and even
    where they are words; None is the one key that differs and holds numbers. Other
    arguments are those of this module.
    """
    value, when = drawing.metric(runs, value), run_keys.when(runs)
    x = x or drawing.numbers(runs, 1)[0]
    run_keys.require_keys([x], runs)
    runs = run_keys.with_values(runs, runs[value].notna())
    groups = drawing.grouped(runs, by, beside=[x])
    cells = run_keys.groups(runs, [*drawing.grouping(runs, by, [x]), x])
    run_keys.warn_of_cells(cells.values(), [value])
    scale = drawing.Scale.of(runs[x])
    with styled():
        figure, axes = column(style)
        for number, group in enumerate(groups):
            shift = 0.0 if scale.joined else drawing.dodge(number, len(groups))
            at = {text: position + shift for text, position in scale.positions.items()}
            drawing.bars(axes, group, x, value, interval, at, scale.joined)
        scale.apply(axes, x)
        axes.set_xlabel(literal(axis_label(x)))
        note = drawing.spreads(cells.values(), interval, DOTS) + when
        drawing.finish(figure, axes, value, groups, note)
    return figure


def compare(
    runs: DataFrame,
    value: str | None = None,
    by: Sequence[str] | None = None,
    interval: str = "std",
    style: str = "neurips",
    published: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Draw means below one another, with error bars and the seeds.

    The first key of `by` makes the rows, the others colours; the best is on top, but
    numbers stay in order. Without a value it is the first accuracy of test, or of val.
    Diamonds are what others published, by the value of the first key, in the unit of
    the axis. Other arguments are those of this module.
    """
    run_keys.require_runs(runs)
    value = drawing.metric(runs, value or run_keys.usual(runs)[0])
    when = run_keys.when(runs)
    runs = run_keys.with_values(runs, runs[value].notna())
    first, *others = drawing.grouping(runs, by) or ["run"]
    rows = run_keys.groups(runs, [first])
    means = {text: sample_of(group, value).mean for (text,), group in rows.items()}
    order = list(means)[::-1]  # the last is on top
    numeric = run_keys.numeric(order)
    if not numeric:
        order.sort(key=means.get, reverse=run_keys.preferred(runs, value) == "low")
    groups = drawing.grouped(runs, others)
    cells = run_keys.groups(runs, [first, *others]).values()
    run_keys.warn_of_cells(cells, [value])
    with styled():
        height = 0.5 + 0.16 * len(order) * max(len(groups), 1.6)
        figure, axes = column(style, min(height, 8.0))
        for number, group in enumerate(groups):
            shift, below = drawing.dodge(number, len(groups)), 0.2 / len(groups)
            at = {text: row - shift for row, text in enumerate(order)}
            drawing.bars(axes, group, first, value, interval, at, below=below)
        points = [
            (x, order.index(t)) for t, xs in (published or {}).items() for x in xs
        ]
        if points:
            axes.scatter(*zip(*points, strict=True), **DIAMONDS)
        names = [literal(spelled(first, text)) for text in order]
        axes.set_yticks(range(len(order)), names)
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        if numeric:
            axes.set_ylabel(literal(axis_label(first)))
        note = drawing.spreads(cells, interval, DOTS) + when
        note += PUBLISHED * bool(points)
        drawing.finish(figure, axes, value, groups, note, across=True)
    return figure


def heatmap(
    runs: DataFrame,
    x: str | None = None,
    y: str | None = None,
    value: str | None = None,
    style: str = "neurips",
) -> Figure:
    """Draw a metric against the keys x and y: a cell a pair, its mean written in it.

    Cells are as wide as one another, which is a logarithmic scale for values that are
    spaced geometrically; grey is a pair without runs. None are the two keys that differ
    and hold numbers. Other arguments are those of this module.
    """
    import numpy as np

    value, when = drawing.metric(runs, value), run_keys.when(runs)
    if x is None or y is None:
        pair = drawing.numbers(runs, 2, known=[x, y])
        x = x or next(key for key in pair if key != y)
        y = y or next(key for key in pair if key != x)
    run_keys.require_keys([x, y], runs)
    runs = run_keys.with_values(runs, runs[value].notna())
    columns, lines = run_keys.distinct(runs[x]), run_keys.distinct(runs[y])
    cells = run_keys.groups(runs, [x, y])
    run_keys.warn_of_cells(cells.values(), [value])
    means = np.full((len(lines), len(columns)), np.nan)
    for (across, upwards), cell in cells.items():
        mean = sample_of(cell, value).mean
        means[lines.index(upwards), columns.index(across)] = mean
    with styled():
        side = min((WIDTHS[style] - 1.2) / len(columns), 0.6)  # inches of a cell
        figure, axes = column(style, min(0.9 + min(side, 0.35) * len(lines), 8.0))
        axes.set_facecolor("#dddddd")
        axes.grid(visible=False)
        image = axes.pcolormesh(means, cmap="cividis", edgecolor="white", linewidth=0.6)
        look = {"ha": "center", "va": "center", "fontsize": min(7, 72 * side / 2.6)}
        for (line, position), mean in np.ndenumerate(means):
            if np.isfinite(mean):
                text = f"{mean:.1f}" if is_accuracy(value) else f"{mean:.3g}"
                colour = "white" if image.norm(mean) < 0.55 else "black"
                axes.text(position + 0.5, line + 0.5, text, color=colour, **look)
        names = [literal(spelled(x, text)) for text in columns]
        axes.set_xticks(np.arange(len(columns)) + 0.5, names)
        upwards = [literal(spelled(y, text)) for text in lines]
        axes.set_yticks(np.arange(len(lines)) + 0.5, upwards)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        labels = [literal(axis_label(name)) for name in (x, y, value)]
        labels[2] += when
        axes.set(xlabel=labels[0], ylabel=labels[1])
        figure.set_label(value)
        bar = figure.colorbar(image, ax=axes, label=labels[2], pad=0.02)
        bar.outline.set_visible(False)
        drawing.turn_long(axes, names)
    return figure


def spectrum(
    runs: DataFrame,
    split: str = "val",
    by: Sequence[str] | None = None,
    style: str = "neurips",
) -> Figure:
    """Draw the eigenvalues of the features' covariance by rank, the largest being 1.

    A line is the geometric mean over the seeds of a group, its band their extremes;
    what float32 cannot tell from 0 is left out. Spectra are those of the runs' steps,
    of the features of a split. Other arguments are those of this module.
    """
    import numpy as np

    run_keys.require_runs(runs)
    spectra = {
        run: _eigenvalues(folder, split, step)
        for run, folder, step in runs[["run", "folder", "step"]].itertuples(index=False)
    }
    valued = runs["run"].map(lambda run: spectra[run] is not None)
    if not valued.any():
        raise ConfigError(
            f"no run has spectra of the split {split}; train with"
            " ++log.eval.spectrum=true, which writes spectra.jsonl"
        )
    groups = drawing.grouped(run_keys.with_values(runs, valued), by)
    with styled():
        figure, axes = column(style)
        for group in groups:
            seeds = [spectra[run] for run in group.runs["run"]]
            length = min(map(len, seeds))
            logs = np.log([seed[:length] for seed in seeds])
            ranks, mean = np.arange(1, length + 1), np.exp(logs.mean(0))
            axes.plot(ranks, mean, group.dash, color=group.colour, label=group.drawn)
            if len(seeds) > 1:
                low, high = np.exp(logs.min(0)), np.exp(logs.max(0))
                drawing.shade(axes, ranks, low, high, group.colour)
        axes.set(xscale="log", yscale="log")
        axes.minorticks_off()
        axes.margins(x=0)
        axes.set(xlabel="rank", ylabel="eigenvalue / largest")
        figure.set_label(split)
        drawing.legend(figure, groups)
    return figure


def _eigenvalues(folder: str, split: str, step: float) -> ndarray | None:
    """Return the last spectrum up to a step, (D,) with 1 first, or None."""
    import numpy as np

    try:
        rows = read_rows(folder, "spectra.jsonl")
    except FileNotFoundError:
        return None
    rows = [r for r in rows if r.get("split") == split and r["step"] <= step]
    values = np.asarray(rows[-1]["eigenvalues"] if rows else [], dtype=float)
    if not len(values) or not 0 < values[0] < np.inf:
        return None
    values = values / values[0]
    return values[values > FLOOR]


def _warn_of_ends(group: drawing.Group, ends: Sequence[float]) -> None:
    """Warn of runs that end before the others of their group, and cut its mean."""
    ended = zip(group.runs["run"], ends, strict=True)
    if short := [run for run, end in ended if end < max(ends)]:
        warnings.warn(
            f"the mean of {group.label or 'the runs'} ends at epoch {min(ends):g} of"
            f" {max(ends):g}, as these do: {', '.join(short)}",
            stacklevel=3,
        )
