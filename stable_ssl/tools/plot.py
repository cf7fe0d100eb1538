"""The command `stable-ssl plot`: figures of runs, as PDF and PNG."""

from __future__ import annotations

import inspect
from argparse import ArgumentParser, Namespace
from pathlib import Path

from stable_ssl.tools import figures
from stable_ssl.tools.runs import load
from stable_ssl.tools.seed_statistics import INTERVALS
from stable_ssl.tools.style import WIDTHS, save
from stable_ssl.tools.table import Words, add_runs

LONGEST = 200  # bytes of a file's name
KINDS = {  # functions of `figures`, whose arguments are options here
    "curves": "a metric against the epoch, a band over seeds",
    "sweep": "a metric against one key of the config",
    "heatmap": "a metric against two keys",
    "compare": "means beside one another, with their seeds",
    "spectrum": "eigenvalues of the features' covariance",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Describe `stable-ssl plot`."""
    kinds = "".join(f"  {kind:<9} {text}\n" for kind, text in KINDS.items())
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
    option, several = parser.add_argument, {"nargs": "+", "action": Words}
    by = "what makes groups; default: keys that tell the runs apart"
    option("--kind", choices=KINDS, default="curves", help="default: curves")
    value = "a figure each; default: the monitored one"
    option("--value", **several, metavar="METRIC", help=value)
    option("--by", **several, metavar="KEY", help=by)
    option("--x", metavar="KEY", help="across, of a sweep or a heat map")
    option("--y", metavar="KEY", help="upwards, of a heat map")
    option("--split", default="val", help="of a spectrum; default: val")
    option("--interval", choices=INTERVALS, default="std", help="of bands and bars")
    option("--style", choices=WIDTHS, default="neurips", help="whose column is as wide")
    out = {"metavar": "FOLDER", "type": Path, "default": Path("figures")}
    option("--out", **out, help="default: figures")


def run(args: Namespace) -> None:
    """Write the figures that the arguments ask for, and say what they show."""
    runs, rows = load(*args.runs, at=args.at)
    draw = getattr(figures, args.kind)
    takes = inspect.signature(draw).parameters
    for value in args.value or [None]:
        given = vars(args) | {"runs": runs, "rows": rows, "value": value}
        figure = draw(**{name: given[name] for name in takes if name in given})
        parts = [args.kind, figure.get_label()]
        name = _file_name("_".join(part for part in parts if part))
        for path in save(figure, args.out / name):
            print(f"wrote {path}")


def _file_name(text: str) -> str:
    """Return a text as the name of a file: short, and without what is no sign."""
    name = "".join(c if c.isprintable() and c != "/" else "_" for c in text)
    return name.encode()[:LONGEST].decode(errors="ignore")
