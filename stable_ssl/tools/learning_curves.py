"""Figures of a run for a paper: embedded fonts, colour-blind safe, reproducible."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stable_ssl.loggers.names import axis_label, describe, is_accuracy, order, spelled
from stable_ssl.tools.drawing import accuracy_axis, sparse_ticks
from stable_ssl.tools.runs import Run, read_run
from stable_ssl.tools.style import (
    COLOURS,
    GREY,
    SPARSE,
    literal,
    panels,
    save,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 6.75  # inches: the text of a page; half of it for one panel
HEIGHT = 2.5  # inches
DIAMONDS = {
    **{"marker": "D", "markersize": 4, "markerfacecolor": "white"},
    **{"linestyle": "none", "zorder": 3, "clip_on": False},
}


def learning_curves(
    run_dir: str | Path, folder: str | Path | None = None
) -> list[Path]:
    """Draw training loss and accuracies against the epoch; panels with data alone.

    Lines are the train and val splits, open diamonds the test split. Equal runs give
    equal files: learning_curves.pdf and .png, whose paths are returned, in the run's
    `figures` or another folder; none where the run has neither loss nor accuracy.

    Raises:
        ValueError: no run folder.
    """
    run = read_run(run_dir)
    losses = [name for name in ("train/loss", "val/loss") if _points(run, name)]
    panels_of = [(_draw_loss, losses), (_draw_accuracy, _accuracies(run))]
    panels_of = [(draw, names) for draw, names in panels_of if names]
    if not panels_of:
        return []
    folder = Path(run_dir) / "figures" if folder is None else Path(folder)
    with styled():
        figure, row = panels(WIDTH * len(panels_of) / 2, HEIGHT, len(panels_of))
        row[0].set_title(literal(_title(run)), loc="left")
        for axes, (draw, names) in zip(row, panels_of, strict=True):
            draw(axes, run, names)
            axes.set_xlabel("epoch")
            sparse_ticks(axes.xaxis)
            axes.margins(x=0.02)
    return save(figure, folder / "learning_curves")


def _draw_loss(axes: Axes, run: Run, names: Sequence[str]) -> None:
    """Draw the losses of train and val."""
    for name, colour in zip(names, (GREY, COLOURS[0]), strict=False):
        _draw_line(axes, _points(run, name), colour, name.partition("/")[0])
    axes.set_ylabel("loss" if len(names) > 1 else axis_label(names[0]))
    sparse_ticks(axes.yaxis)
    if len(names) > 1:
        axes.legend()


def _draw_accuracy(axes: Axes, run: Run, names: Sequence[str]) -> None:
    """Draw each accuracy of val as a line and of test as diamonds, in per cent."""
    for name, colour in zip(names, COLOURS * len(names), strict=False):
        label = literal(describe(f"val/{name}", run.metrics))
        if val := _points(run, f"val/{name}", 100):
            _draw_line(axes, val, colour, f"{label}, val")
        if test := _points(run, f"test/{name}", 100):
            look = {"color": colour, "label": f"{label}, test"} | DIAMONDS
            axes.plot(*zip(*test, strict=True), **look)
    axes.set_ylabel("top-1 accuracy (%)")
    accuracy_axis(axes.yaxis)
    axes.legend(loc="best")


def _draw_line(
    axes: Axes, points: Sequence[tuple[float, float]], colour: str, label: str
) -> None:
    marker = "o" if len(points) <= SPARSE else None
    axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=marker)


def _points(run: Run, name: str, scale: int = 1) -> list[tuple[float, float]]:
    """Return (epoch, value) of the rows that hold a metric."""
    rows = [row for row in run.rows if name in row and "epoch" in row]
    return [(row["epoch"], scale * row[name]) for row in rows]


def _accuracies(run: Run) -> list[str]:
    """Return the top-1 accuracies of val, or of test where val has none."""
    metrics = {name for row in run.rows for name in row if is_accuracy(name)}
    for split in ("val/", "test/"):
        names = [n.removeprefix(split) for n in metrics if n.startswith(split)]
        if names := [n for n in names if not re.search(r"^few|acc(?!1?$)\d*$", n)]:
            return sorted(names, key=order)
    return []


def _title(run: Run) -> str:
    """Return method, data and seed, as far as the configuration names them."""
    keys, seed = ("model.name", "data.train.dataset.name"), run.get("hardware.seed")
    facts = [spelled(key, str(run.get(key))) for key in keys if run.get(key)]
    return ", ".join([*facts, *([] if seed is None else [f"seed {seed}"])])
