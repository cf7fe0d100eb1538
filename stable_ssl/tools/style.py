"""How figures look: sized for a conference's column, embedded fonts, reproducible."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from stable_ssl.files import replacing
from stable_ssl.loggers.table import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTHS = {  # inches of a column
    "neurips": 5.5,  # "33 picas wide", Formatting Instructions For NeurIPS, section 2
    "icml": 3.25,  # of two, Submission and Formatting Instructions for ICML, section 2
    "cvpr": 3.25,  # of two, LaTeX Guidelines for Author Response and CVPR, section 2
}
HEIGHTS = {"neurips": 2.2, "icml": 2.0, "cvpr": 2.0}  # inches of a panel
# Okabe and Ito, https://jfly.uni-koeln.de/color: told apart with any colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GREY = "#444444"
SHEET = Path(__file__).with_name("assets") / "figures.mplstyle"
SPARSE = 30  # points up to which a curve marks each of them


def literal(text: str) -> str:
    """Return a text that is drawn as it is: with $, and with _ at the start.

    matplotlib would take the one for a formula, and leave the other out of a legend.
    """
    text = printable(text, kept="\n").replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def styled() -> AbstractContextManager[None]:
    """Draw in the house style, whatever the user's own settings."""
    from matplotlib import style

    return style.context(["default", SHEET])


def panels(width: float, height: float, n: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure of a size in inches, and n axes side by side that share x."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, n, sharex=True, squeeze=False)[0]


def column(style: str, height: float | None = None) -> tuple[Figure, Axes]:
    """Return a figure as wide as a column of a style, with one panel."""
    figure, (axes,) = panels(WIDTHS[style], height or HEIGHTS[style])
    return figure, axes


def save(figure: Figure, path: str | Path) -> list[Path]:
    """Write a figure as PDF and PNG to a path without suffix; return the two paths.

    Equal figures give equal files.
    """
    undated = {"pdf": {"CreationDate": None}, "png": {"Software": None}}
    paths = [Path(f"{path}.{kind}") for kind in undated]
    with styled():
        for file, (kind, metadata) in zip(paths, undated.items(), strict=True):
            with replacing(file) as new:
                figure.savefig(new, format=kind, metadata=metadata)
    return paths
