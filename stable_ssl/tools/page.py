"""One HTML page of many runs: table, curves, pictures and how to reproduce them.

The page is one file that needs no network: what `assets` holds, and the runs as JSON.
What a run says reaches the document as text, never as markup.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import math
import re
import shlex
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import stable_ssl
from stable_ssl.files import write_atomically
from stable_ssl.loggers.names import better, describe, in_order, is_accuracy
from stable_ssl.loggers.table import printable
from stable_ssl.tools.page_images import embedded
from stable_ssl.tools.run_keys import FIRST, NAMES, SEED, cell, differing
from stable_ssl.tools.runs import Run, distinct_names, launches, read_runs
from stable_ssl.tools.style import COLOURS
from stable_ssl.tools.thinning import Curves, metrics_of

POINTS = 300  # of a curve
ALL_POINTS = 600_000  # of all curves together, some 12 MB
FEWEST = 20  # points of a curve, whatever their number
DIFF = 20_000  # characters of a git diff
SCRIPTS = ("pieces", "table", "curves", "charts", "details", "start")
EXACT = 2**53  # integers beyond it are not exact in JavaScript
OF_A_LAUNCH = {"time", "argv", "cwd", "pid", "slurm"}  # many share the rest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command `stable-ssl report`."""
    parser.description = "Write one HTML page of runs, which needs no network."
    option, folders = parser.add_argument, "run folders, or folders that hold some"
    option("runs", nargs="+", metavar="RUNS", help=folders)
    option("--out", default="report.html", metavar="FILE", help="default: %(default)s")
    live = "instead, show it live at http://127.0.0.1:PORT (8000)"
    option("--serve", nargs="?", type=int, const=8000, metavar="PORT", help=live)


def run(args: argparse.Namespace) -> None:
    """Run the command `stable-ssl report`."""
    if args.serve is not None:
        from stable_ssl.tools.serve import serve

        return serve(args.runs, args.serve)
    path = page(*args.runs, out=args.out)
    print(f"{path.absolute().as_uri()}  {path.stat().st_size / 1e6:.1f} MB")


def page(*roots: str | Path, out: str | Path = "report.html") -> Path:
    """Write one self-contained HTML file of all runs at or below `roots`; return it.

    Of a curve some 300 points are kept, the least and the greatest of each part among
    them; of each picture the newest, those of the best runs first, up to 6 MB. A folder
    that is no whole run is left out, and named in a warning and in the page.

    Raises:
        ValueError: no run at or below the roots, or a file that cannot be written.
    """
    out = Path(out)
    if out.is_dir():
        raise ValueError(f"{out} is a folder; give a file: {out / 'report.html'}")
    text = document(roots)
    try:
        write_atomically(out, text)
    except OSError as error:
        raise ValueError(
            f"cannot write {out}: {error.strerror}; give another place with --out"
        ) from error
    return out


class _Shown:
    """What the page keeps of a run, its rows thinned."""

    def __init__(self, run: Run):
        first, last = (run.rows[0], run.rows[-1]) if run.rows else ({}, {})
        self.run = replace(run, folder=run.folder.resolve(), rows=[])
        self.curves = Curves(run.rows, POINTS)
        self.titles = {name: describe(name, run.metrics) for name in self.curves.points}
        self.last, self.best = metrics_of(run.values()), metrics_of(run.values("best"))
        self.facts = {
            "folder": str(self.run.folder),
            "rerun": _typed(["stable-ssl", "rerun", str(self.run.folder)]),
            "status": run.status,
            "reason": run.reason,
            "overrides": [str(override) for override in run.overrides],
            "step": last.get("step"),
            "epoch": last.get("epoch"),
            "start": first.get("time"),  # unix seconds
            "seconds": [None, *self.curves.seconds()][-1],
            "last": self.last,
        }


def document(roots: Sequence[str | Path]) -> str:
    """Return the page of all runs at or below `roots`; errors are those of `page`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runs = [_Shown(run) for run in read_runs(*roots)]
    messages = [str(warning.message) for warning in caught]
    if not runs:
        why = "; ".join(messages) or "no folder was given"
        raise ValueError(
            f"{why}; give run folders, <log.folder>/runs/<experiment>/<run>, or a"
            " folder that holds some"
        )
    for message in messages:
        warnings.warn(message, stacklevel=3)
    return _document(runs, [str(root) for root in roots], messages)


# --- the document ---------------------------------------------------------------------


def _document(runs: Sequence[_Shown], roots: list[str], messages: list[str]) -> str:
    """Return the page."""
    main, mode = _main(runs)
    runs = sorted(runs, key=lambda run: _badness(run.last.get(main), mode))
    points = POINTS
    while sum(len(run.curves) for run in runs) > ALL_POINTS and points > FEWEST:
        points = points * 2 // 3
        for run in runs:
            run.curves.thin(points)
    pictures, notes = embedded([run.run.folder for run in runs])
    report = {
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "version": stable_ssl.__version__,
        "roots": roots,
        "said": messages,
        "notes": notes,
        "pictured": any(pictures),
        "points": points,
        "thinned": any(run.curves.longest > points for run in runs),
        "colours": COLOURS,
        "main": main,
        "mode": mode,
        **_table(runs, main),
    }
    data = [_script("report", _plain(report))]
    for i, (run, of_run) in enumerate(zip(runs, pictures, strict=True)):
        data.append(_script(f"run-{i}", run.curves.as_json() | {"pictures": of_run}))
    code = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    fill = {
        "title": escape(f"{len(runs)} run{'s' * (len(runs) != 1)}, stable-SSL"),
        "hash": base64.b64encode(hashlib.sha256(code.encode()).digest()).decode(),
        "style": _asset("page.css"),
        "data": "\n".join(data),
        "code": code,
    }
    return re.sub(r"{{(\w+)}}", lambda match: fill[match[1]], _asset("page.html"))


def _badness(value: float | None, mode: str) -> float:
    """Return what sorts runs by a value: the best first, those without one last."""
    if value is None or not math.isfinite(value):
        return math.inf
    return -value if mode == "max" else value


def _table(runs: Sequence[_Shown], main: str | None) -> dict[str, Any]:
    """Return what the page knows of the runs before it looks at their curves."""
    environments: dict[str, tuple[int, Any]] = {}  # what many launches share, once
    same, differ = _keys([run.run for run in runs])
    rows = []
    names = distinct_names([run.run.folder for run in runs])
    labels = _labels(names, differ)
    for name, label, run in zip(names, labels, runs, strict=True):
        best = run.best.get(main) if run.run.get("log.monitor") == main else None
        described = _launches(run.run.folder, environments)
        facts = {"name": name, "label": label, **run.facts}
        rows.append(facts | {"best": best, "launches": described})
    return {
        "metrics": _metrics(runs),
        "same": same,
        "differing": differ,
        "runs": rows,
        "environments": [environment for _, environment in environments.values()],
    }


def _labels(names: Sequence[str], differ: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what tells each run from the others: "lr=0.3 seed=1", or else its name.

    Args:
        names: of the folders.
        differ: the keys that differ, as of `_keys`.
    """
    told = [k for k in differ if not k["named"] and (k["given"] or k["name"] == SEED)]
    labels = [
        " ".join(f"{key['short']}={cell(key['values'][i])}" for key in told)
        for i in range(len(names))
    ]
    return labels if told and len({*labels}) == len(labels) else [*names]


def _main(runs: Sequence[_Shown]) -> tuple[str | None, str]:
    """Return the metric that ranks the runs, and whether `max` or `min` is best."""
    known = {name for run in runs for name in run.last}
    ranking = [
        (run.run.get("log.monitor"), run.run.get("log.monitor_mode", "max"))
        for run in runs
    ]
    accuracies = in_order(filter(is_accuracy, known), ["val", "test"])
    ranking += [(name, "max") for name in accuracies]
    ranking += [(name, "min") for name in ("val/loss", "train/loss")]
    return next((pair for pair in ranking if pair[0] in known), (None, "max"))


def _metrics(runs: Sequence[_Shown]) -> list[dict[str, Any]]:
    """Return the metrics, val and test before train and all else, with their titles."""
    titles: dict[str, set[str]] = {}
    for run in runs:
        for name, title in run.titles.items():
            titles.setdefault(name, set()).add(title)
    return [
        {
            "name": name,
            "share": is_accuracy(name),
            "better": better(name) or "high",
            "words": min(titles[name]) if len(titles[name]) == 1 else "",
        }
        for name in in_order(titles, ["val", "test", "train"])
    ]


def _keys(runs: Sequence[Run]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the config that all runs share, and the keys that differ.

    Those that a command line gave come first. Of each: its name, its shortest end that
    no other key has, whether a command line gave it, whether it only names the run, and
    its value in each run.
    """
    configs = [run.flat for run in runs]
    first = {name: config[name] for config in configs[::-1] for name in config}
    names = list(dict.fromkeys(name for config in configs for name in config))
    given = {name for run in runs for name in run.given}
    apart = {*differing(configs), *NAMES} & {*names}
    ends = Counter(end for name in names for end in _ends(name))
    differ = [name for name in dict.fromkeys([*FIRST, *names]) if name in apart]
    differ.sort(key=lambda name: name not in given)
    return {name: first[name] for name in names if name not in apart}, [
        {
            "name": name,
            "short": next(e for e in _ends(name) if ends[e] == 1 or e == name),
            "given": name in given,
            "named": name in NAMES,
            "values": [config.get(name) for config in configs],
        }
        for name in differ
    ]


def _ends(name: str) -> list[str]:
    """Return the ends of a dotted name, the shortest first: c, b.c, a.b.c."""
    parts = name.split(".")
    return [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]


def _script(name: str, value: Any) -> str:
    """Return an element of JSON; nothing in the JSON can end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.encode(errors="replace").decode().replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _plain(value: Any) -> Any:
    """Return types of JSON that JavaScript reads as they are; nan becomes "nan"."""
    if isinstance(value, Mapping):
        return {str(name): _plain(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, int) and abs(value) <= EXACT else str(value)


def _asset(name: str) -> str:
    return files("stable_ssl.tools").joinpath("assets", name).read_text("utf-8")


# --- what it ran on -------------------------------------------------------------------


def _launches(
    folder: Path, environments: dict[str, tuple[int, Any]]
) -> list[dict[str, Any]]:
    """Return the launches of environment.json; none where it cannot be read.

    They refer by number to environments, whose keys are JSON; new ones are added.
    """

    def number(environment: Any) -> int:
        text = json.dumps(environment, sort_keys=True, default=str)
        return environments.setdefault(text, (len(environments), environment))[0]

    described = []
    for launch in launches(folder):
        argv = launch["argv"]
        python = ["python"] * any(argument.endswith(".py") for argument in argv[:1])
        machine = {name: v for name, v in launch.items() if name not in OF_A_LAUNCH}
        packages = machine.pop("packages")
        git = {name: str(value or "") for name, value in machine["git"].items()}
        diff = git.get("diff", "")
        if len(diff) > DIFF:
            diff = f"{diff[:DIFF]}\n... and {len(diff) - DIFF:,} characters"
        described.append(
            {
                "time": str(launch.get("time", "")),
                "cwd": str(launch.get("cwd", "")),
                "command": _typed([*python, *argv]),
                "sweep": any(argument in ("-m", "--multirun") for argument in argv),
                "slurm": launch.get("slurm") or {},
                "machine": number(machine | {"git": {**git, "diff": diff}}),
                "packages": number(packages),
            }
        )
    return described


def _typed(words: Sequence[str]) -> str:
    """Return a command that can be pasted into a terminal, and no more than that."""
    return printable(shlex.join(words))
