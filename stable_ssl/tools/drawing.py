"""What figures are made of: bands, error bars with their seeds, legends, ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from stable_ssl.loggers.names import axis, is_accuracy
from stable_ssl.tools.groups import Group
from stable_ssl.tools.seeds import Sample
from stable_ssl.tools.style import HEIGHTS, SPARSE, WIDTHS, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEEDS = {"s": 5, "alpha": 0.45, "linewidths": 0, "zorder": 2.5}  # a point a seed
LINE = 0.15  # inches of a line of a legend
BARS = {"capsize": 2, "elinewidth": 0.9, "capthick": 0.9, "markersize": 3.5}


def canvas(style: str, height: float | None = None) -> tuple[Figure, Axes]:
    """Return a figure with one panel, a column wide."""
    figure, (axes,) = panels(WIDTHS[style], height or HEIGHTS[style])
    return figure, axes


def band(axes: Axes, x: Any, seeds: Any, interval: str, group: Group) -> None:
    """Draw the mean of seeds (n, points), and its spread."""
    import numpy as np

    samples = [Sample(tuple(column)) for column in seeds.T]
    mean = np.array([s.mean for s in samples])
    look = {"color": group.colour, "label": group.label, "linestyle": group.dash}
    if len(x) <= SPARSE:  # hollow where a dash is all that tells two groups apart
        hollow = {} if group.dash == "-" else {"markerfacecolor": "white"}
        look |= {"marker": "o"} | hollow
    axes.plot(x, mean, **look)
    if len(seeds) > 1:
        spread = np.array([s.spread(interval) for s in samples])
        axes.fill_between(
            x, mean - spread, mean + spread, color=group.colour, alpha=0.18, linewidth=0
        )


def bars(
    axes: Axes,
    at: Sequence[float],
    found: Sequence[Sample],
    interval: str,
    group: Group,
    joined: bool,
    below: float | None = None,
) -> None:
    """Draw means with their spreads, and a small point for each seed.

    Args:
        axes: to draw on.
        at: place of each sample.
        found: the samples.
        interval: std or ci95.
        group: whose look they have.
        joined: whether a line joins the means.
        below: None: upwards; else across, the seeds so far below their mean.
    """
    import numpy as np

    means = [s.mean for s in found]
    spreads = np.nan_to_num([s.spread(interval) for s in found])
    flat = [(place, v) for place, s in zip(at, found, strict=True) for v in s.values]
    places, values = zip(*flat, strict=True)
    line = group.dash if joined else "none"
    look = {"color": group.colour, "label": group.label, "fmt": "o", "ls": line} | BARS
    if below is not None:
        axes.errorbar(means, at, xerr=spreads, **look)
        axes.scatter(values, [p - below for p in places], color=[group.colour], **SEEDS)
    else:
        axes.errorbar(at, means, yerr=spreads, **look)
        axes.scatter(places, values, color=[group.colour], **SEEDS)


def dodge(number: int, of: int) -> float:
    """Return how far a group stands beside its place, of 1 between places."""
    return (number - (of - 1) / 2) * 0.7 / of


def finish(
    figure: Figure,
    axes: Axes,
    value: str,
    groups: Sequence[Group],
    across: bool = False,
) -> None:
    """Label the metric's axis, keep accuracies below 100 %, set ticks and legend."""
    of_metric = axes.xaxis if across else axes.yaxis
    figure.set_label(value)
    room = 60 if across else int(figure.get_figheight() * 14)  # characters of 8 pt
    of_metric.set_label_text("\n".join(wrap(axis(value), room)))
    if is_accuracy(value):
        low, high = of_metric.get_view_interval()
        limits = max(low, -1.0), min(high, 101.0)
        (axes.set_xlim if across else axes.set_ylim)(*limits)
    sparse_ticks(of_metric)
    legend(figure, groups)


def sparse_ticks(axis: Any, whole: bool = False) -> None:
    """Set six ticks at most, at round numbers, or at whole ones."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=whole))


def legend(figure: Figure, groups: Sequence[Group]) -> None:
    """Name the groups above the panel, which keeps its height."""
    if len(groups) < 2:
        return
    n, width, title = len(groups), figure.get_figwidth(), groups[0].title
    sizes = sorted((0.45 + 0.057 * len(group.label) for group in groups), reverse=True)
    columns = max((k for k in range(1, n + 1) if sum(sizes[:k]) < width), default=1)
    lines = math.ceil(n / columns) + bool(title)
    figure.set_figheight(figure.get_figheight() + LINE * lines)
    figure.legend(
        loc="outside upper center",
        ncols=columns,
        columnspacing=1.2,
        handlelength=1.6,
        handletextpad=0.5,
        title=title,
    )
