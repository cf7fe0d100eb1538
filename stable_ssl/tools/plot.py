"""The command `stable-ssl plot`: figures of runs, as PDF and PNG."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_ssl.tools import figures
from stable_ssl.tools.runs import load
from stable_ssl.tools.seeds import INTERVALS
from stable_ssl.tools.style import WIDTHS, save
from stable_ssl.tools.table import Words, add_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = {
    "curves": "a metric against the epoch, a band over seeds",
    "sweep": "a metric against one key of the config",
    "heatmap": "a metric against two keys",
    "compare": "means beside one another, with their seeds",
    "spectrum": "eigenvalues of the features' covariance",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Describe `stable-ssl plot`."""
    kinds = "".join(f"  {kind:<9} {words}\n" for kind, words in KINDS.items())
    parser.description = (
        f"Figures of the runs below some folders, as PDF and PNG:\n\n{kinds}\n"
        "What is drawn is the mean over the seeds of runs that share the keys of --by."
    )
    parser.epilog = (
        "examples:\n"
        "  stable-ssl plot logs/runs\n"
        "  stable-ssl plot logs/runs --kind sweep --x optim.lr --by model.name \\\n"
        "    --value test/knn_acc1 --style icml --out figures"
    )
    add_runs(parser)
    option = parser.add_argument
    option("--kind", choices=KINDS, default="curves", help="default: curves")
    option(
        "--value",
        nargs="+",
        action=Words,
        metavar="METRIC",
        help="a figure each; default: the monitored one",
    )
    option(
        "--by",
        nargs="+",
        action=Words,
        metavar="KEY",
        help="what makes groups; default: keys that tell the runs apart",
    )
    option("--x", metavar="KEY", help="across, of a sweep or a heat map")
    option("--y", metavar="KEY", help="upwards, of a heat map")
    option("--split", default="val", help="of a spectrum; default: val")
    option("--interval", choices=INTERVALS, default="std", help="of bands and bars")
    option("--style", choices=WIDTHS, default="neurips", help="whose column is as wide")
    option(
        "--out",
        metavar="FOLDER",
        type=Path,
        default=Path("figures"),
        help="default: figures",
    )


def run(args: Namespace) -> None:
    """Write the figures that the arguments ask for, and say what they show."""
    runs, rows = load(*args.runs, at=args.at)
    for value in args.value or [None]:
        figure = _draw(args, runs, rows, value)
        words = [args.kind, figure.get_label()]
        name = "_".join(word.replace("/", "_") for word in words if word)
        for path in save(figure, args.out / name):
            print(f"wrote {path}")


def _draw(args: Namespace, runs: Any, rows: Any, value: str | None) -> Figure:
    """Return the figure of one metric."""
    look: dict[str, Any] = {"style": args.style}
    if args.kind == "spectrum":
        return figures.spectrum(runs, args.split, args.by, **look)
    look["value"] = value
    if args.kind == "heatmap":
        return figures.heatmap(runs, args.x, args.y, **look)
    look |= {"by": args.by, "interval": args.interval}
    if args.kind == "curves":
        return figures.curves(runs, rows, **look)
    if args.kind == "sweep":
        return figures.sweep(runs, args.x, **look)
    return figures.compare(runs, **look)
