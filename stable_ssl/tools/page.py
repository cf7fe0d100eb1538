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
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

from stable_ssl.files import write_atomically
from stable_ssl.loggers.names import better, describe, in_order, is_accuracy
from stable_ssl.tools.keys import FIRST, NAMES, differing
from stable_ssl.tools.pictures import embedded
from stable_ssl.tools.runs import Run, distinct_names, read_runs
from stable_ssl.tools.style import COLOURS
from stable_ssl.tools.thinning import CLOCK, Curves, is_number

POINTS = 300  # of a curve
ALL_POINTS = 600_000  # of all curves together, some 12 MB
FEWEST = 20  # points of a curve, whatever their number
DIFF = 20_000  # characters of a git diff
SCRIPTS = ("pieces", "table", "curves", "charts", "details", "start")
EXACT = 2**53  # integers beyond it are not exact in JavaScript
OWN = {"time", "argv", "cwd", "pid", "slurm"}  # of a launch; the rest is shared by many


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command `stable-ssl report`."""
    parser.description = "Write one HTML page of runs, which needs no network."
    parser.add_argument(
        "runs", nargs="+", metavar="RUNS", help="run folders, or folders that hold some"
    )
    parser.add_argument(
        "--out", default="report.html", metavar="FILE", help="default: %(default)s"
    )


def run(args: argparse.Namespace) -> None:
    """Run the command `stable-ssl report`."""
    path = page(*args.runs, out=args.out)
    print(f"{path.absolute().as_uri()}  {path.stat().st_size / 1e6:.1f} MB")


def page(*roots: str | Path, out: str | Path = "report.html") -> Path:
    """Write one self-contained HTML file of all runs at or below `roots`.

    Of a curve some 300 points are kept, the least and the greatest of each part among
    them; of each picture the newest, those of the best runs first, up to 6 MB.

    Args:
        roots: run folders, or folders that hold some at any depth.
        out: file to write; its folder is made.

    Returns:
        The path of the file.

    Raises:
        ValueError: no run at or below the roots, or a file that cannot be written.

    A folder that is no whole run is left out, and named in a warning and in the page.
    """
    out = Path(out)
    if out.is_dir():
        raise ValueError(f"{out} is a folder; give a file: {out / 'report.html'}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runs = [_Facts(run) for run in read_runs(*roots)]
    said = [str(warning.message) for warning in caught]
    if not runs:
        found = "; ".join(said) or "no folder was given"
        raise ValueError(
            f"{found}; give run folders, <log.folder>/runs/<experiment>/<run>, or a"
            " folder that holds some"
        )
    for text in said:
        warnings.warn(text, stacklevel=2)
    text = _document(runs, [str(root) for root in roots], said)
    try:
        write_atomically(out, text)
    except OSError as error:
        raise ValueError(
            f"cannot write {out}: {error.strerror}; give another place with --out"
        ) from error
    return out


class _Facts:
    """What the page keeps of a run, its rows thinned."""

    def __init__(self, run: Run):
        self.folder = run.folder.resolve()
        self.config = run.flat
        self.overrides = [str(override) for override in run.overrides]
        self.status, self.reason = run.status, run.reason
        self.last, self.best = _numbers(run.values()), _numbers(run.values("best"))
        self.monitor: str | None = run.get("log.monitor")
        self.mode: str = run.get("log.monitor_mode", "max")
        self.curves = Curves(run.rows, POINTS)
        self.words = {name: describe(name, run.metrics) for name in self.curves.of}
        self.start = run.rows[0].get("time") if run.rows else None
        self.seconds = self.curves.clocks["time"][-1] if self.curves.of else None
        self.step = run.rows[-1]["step"] if run.rows else None
        self.epoch = run.rows[-1].get("epoch") if run.rows else None
        self.launches = _launches(run.folder)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are numbers."""
    return {k: v for k, v in values.items() if k not in CLOCK and is_number(v)}


# --- the document ---------------------------------------------------------------------


def _document(runs: Sequence[_Facts], roots: list[str], said: list[str]) -> str:
    """Return the page."""
    main, mode = _main(runs)
    runs = sorted(runs, key=lambda run: _place(run, main, mode))
    points = POINTS
    while sum(len(run.curves) for run in runs) > ALL_POINTS and points > FEWEST:
        points = points * 2 // 3
        for run in runs:
            run.curves.thin(points)
    pictures = embedded([run.folder for run in runs])
    report = {
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "version": _version(),
        "roots": roots,
        "said": said,
        "notes": pictures.notes,
        "pictured": any(pictures.of),
        "points": points,
        "thinned": any(run.curves.longest > points for run in runs),
        "colours": COLOURS,
        "main": main,
        "mode": mode,
        **_table(runs, main),
    }
    data = [_script("report", _plain(report))]
    for i, (run, own) in enumerate(zip(runs, pictures.of, strict=True)):
        data.append(_script(f"run-{i}", run.curves.as_json() | {"pictures": own}))
    code = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    fill = {
        "title": escape(f"{len(runs)} run{'s' * (len(runs) != 1)}, stable-SSL"),
        "hash": base64.b64encode(hashlib.sha256(code.encode()).digest()).decode(),
        "style": _asset("page.css"),
        "data": "\n".join(data),
        "code": code,
    }
    return re.sub(r"{{(\w+)}}", lambda found: fill[found[1]], _asset("page.html"))


def _place(run: _Facts, main: str | None, mode: str) -> float:
    """Return what sorts the runs: the best first, those without a value last."""
    value = run.last.get(main, math.nan)
    value = -value if mode == "max" else value
    return value if math.isfinite(value) else math.inf


def _table(runs: Sequence[_Facts], main: str | None) -> dict[str, Any]:
    """Return what the page knows of the runs before it looks at their curves."""
    pool = _Pool()
    same, keys = _keys(runs)
    names = distinct_names([run.folder for run in runs])
    described = [
        {
            "name": name,
            "folder": str(run.folder),
            "rerun": f"stable-ssl rerun {shlex.quote(str(run.folder))}",
            "status": run.status,
            "reason": run.reason,
            "overrides": run.overrides,
            "step": run.step,
            "epoch": run.epoch,
            "start": run.start,  # unix seconds
            "seconds": run.seconds,
            "last": run.last,
            "best": run.best.get(main) if run.monitor == main else None,
            "launches": [_shared(launch, pool) for launch in run.launches],
        }
        for name, run in zip(names, runs, strict=True)
    ]
    return {
        "metrics": _metrics(runs),
        "same": same,
        "differing": keys,
        "runs": described,
        "environments": pool.values,
    }


def _main(runs: Sequence[_Facts]) -> tuple[str | None, str]:
    """Return the metric that ranks the runs, and whether `max` or `min` is best."""
    found = {name for run in runs for name in run.last}
    accuracies = in_order(filter(is_accuracy, found), ["val", "test"])
    wanted = [(run.monitor, run.mode) for run in runs]
    wanted += [(n, "max") for n in accuracies]
    wanted += [(n, "min") for n in ("val/loss", "train/loss")]
    return next((some for some in wanted if some[0] in found), (None, "max"))


def _metrics(runs: Sequence[_Facts]) -> list[dict[str, Any]]:
    """Return the metrics, val and test before train and all else, with their words."""
    words: dict[str, set[str]] = {}
    for run in runs:
        for name, text in run.words.items():
            words.setdefault(name, set()).add(text)
    return [
        {
            "name": name,
            "share": is_accuracy(name),
            "better": better(name) or "high",
            "words": min(words[name]) if len(words[name]) == 1 else "",
        }
        for name in in_order(words, ["val", "test", "train"])
    ]


def _keys(runs: Sequence[_Facts]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the config that all runs share, and the keys that differ.

    Those that a command line gave come first. Of each: its name, its shortest end that
    no other key has, whether a command line gave it, whether it only names the run, and
    its value in each run.
    """
    configs = [run.config for run in runs]
    names = list(dict.fromkeys(name for config in configs for name in config))
    apart = {*differing(configs), *NAMES}
    ends: dict[str, int] = {}
    for end in (end for name in names for end in _ends(name)):
        ends[end] = ends.get(end, 0) + 1
    overrides = [override for run in runs for override in run.overrides]
    given = {override.lstrip("+~").partition("=")[0] for override in overrides}
    same = {
        name: next(config[name] for config in configs if name in config)
        for name in names
        if name not in apart
    }
    ranks = {name: i for i, name in enumerate(dict.fromkeys([*FIRST, *names]))}
    told = sorted(apart & {*names}, key=lambda n: (n not in given, ranks[n]))
    return same, [
        {
            "name": name,
            "short": next(e for e in _ends(name) if ends[e] == 1 or e == name),
            "given": name in given,
            "named": name in NAMES,
            "values": [config.get(name) for config in configs],
        }
        for name in told
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


def _version() -> str:
    try:
        return version("stable-ssl")
    except PackageNotFoundError:
        return ""


# --- what it ran on -------------------------------------------------------------------


class _Pool:
    """Values that many runs share, each kept once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any) -> int:
        """Return the place of a value among `values`."""
        text = json.dumps(value, sort_keys=True, default=str)
        if text not in self._places:
            self._places[text] = len(self.values)
            self.values.append(value)
        return self._places[text]


def _launches(folder: Path) -> list[dict[str, Any]]:
    """Return the launches of environment.json; none where it cannot be read."""
    try:
        found = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    found = found if isinstance(found, list) else []
    return [launch for launch in found if isinstance(launch, dict)]


def _shared(launch: Mapping[str, Any], pool: _Pool) -> dict[str, Any]:
    """Return a launch's command and time, and the place of its environment."""
    argv = [str(argument) for argument in launch.get("argv") or []]
    common = {name: value for name, value in launch.items() if name not in OWN}
    git = common.get("git")
    git = git if isinstance(git, dict) else {}
    diff = str(git.get("diff") or "")
    if len(diff) > DIFF:
        diff = f"{diff[:DIFF]}\n... and {len(diff) - DIFF:,} characters"
    packages = common.pop("packages", None)
    python = ["python"] * any(argument.endswith(".py") for argument in argv[:1])
    return {
        "time": str(launch.get("time", "")),
        "cwd": str(launch.get("cwd", "")),
        "command": shlex.join([*python, *argv]),
        "sweep": any(argument in ("-m", "--multirun") for argument in argv),
        "slurm": launch.get("slurm") or {},
        "machine": pool.place(common | {"git": {**git, "diff": diff}}),
        "packages": pool.place(packages if isinstance(packages, dict) else {}),
    }
