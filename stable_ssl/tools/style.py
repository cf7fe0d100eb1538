"""How figures look: sized for a conference's column, embedded fonts, reproducible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stable_ssl.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTHS = {  # inches of a column
    "neurips": 5.5,  # "33 picas wide", Formatting Instructions For NeurIPS, section 2
    "icml": 3.25,  # of two, Submission and Formatting Instructions for ICML, section 2
    "cvpr": 3.25,  # of two, LaTeX Guidelines for Author Response and CVPR, section 2
}
HEIGHTS = {"neurips": 2.2, "icml": 2.0, "cvpr": 2.0}  # inches of a panel
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# Okabe and Ito, https://jfly.uni-koeln.de/color: told apart with any colour vision
GREY = "#444444"
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.25,
    "lines.markersize": 2.5,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "figure.dpi": 200,
    "pdf.fonttype": 42,  # TrueType: text stays text
}
SPARSE = 30  # points up to which a curve marks each of them


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the house style, whatever the user's own settings."""
    from matplotlib import style

    with style.context(["default", STYLE]):
        yield


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
    """Write a figure as PDF and PNG; equal figures give equal files.

    Args:
        figure: of any size.
        path: of the files, without their suffix.

    Returns:
        The two paths.
    """
    undated = {"pdf": {"CreationDate": None}, "png": {"Software": None}}
    paths = [Path(f"{path}.{kind}") for kind in undated]
    with styled():
        for file, (kind, metadata) in zip(paths, undated.items(), strict=True):
            with replacing(file) as new:
                figure.savefig(new, format=kind, metadata=metadata)
    return paths
