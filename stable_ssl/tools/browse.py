"""The command `stable-ssl runs`: list, show, compare, watch and delete run folders."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stable_ssl.lock import is_held
from stable_ssl.loggers.names import as_text
from stable_ssl.loggers.table import Table, printable
from stable_ssl.recorded import is_run_folder
from stable_ssl.schema import ConfigError
from stable_ssl.tools.run_keys import cell, differing
from stable_ssl.tools.runs import Run, distinct_names, launches, read_run, read_runs
from stable_ssl.tools.summary import listed, summary

ROOT = Path("logs/runs")
CLEAR = "\x1b[H\x1b[2J"  # of a terminal


def add_arguments(parser: ArgumentParser) -> None:
    """Describe `stable-ssl runs`."""
    parser.description = (
        "Look at run folders: `list` (what `stable-ssl runs` alone does), `show` one,\n"
        "`diff` two, `watch` a list that renews itself, `rm` some for good."
    )
    parser.epilog = (
        "examples:\n"
        "  stable-ssl runs\n"
        "  stable-ssl runs list logs/runs/simclr\n"
        "  stable-ssl runs show logs/runs/simclr/20261120_154400_2\n"
        "  stable-ssl runs diff logs/runs/simclr/20261120_154400_2"
        " logs/runs/simclr/20261120_154400_3\n"
        "  stable-ssl runs rm logs/runs/simclr/20261120_154400_2"
    )
    parser.set_defaults(action="list", runs=[ROOT])
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    for name, text in (("list", "one row a run"), ("watch", "that, again and again")):
        action = actions.add_parser(name, help=text)
        usual = {"type": Path, "default": [ROOT]}
        action.add_argument("runs", nargs="*", metavar="RUNS", **usual)
    seconds = {"type": float, "default": 5.0, "metavar": "SECONDS"}
    action.add_argument("--every", **seconds, help="5, unless said")
    for name, count, text in (
        ("show", 1, "what started it, how it ended, what it reached"),
        ("diff", 2, "keys, figures and versions that differ"),
        ("rm", "+", "delete, after a question"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("runs", nargs=count, metavar="RUN", type=Path)
    action.add_argument("--yes", action="store_true", help="do not ask")


def run(args: Namespace) -> int | None:
    """Do what the arguments ask for; return an exit code other than 0, if there is."""
    if args.action == "watch":
        return watch(args.runs, args.every)
    if args.action == "rm":
        return remove(args.runs, args.yes)
    asked = {
        "list": lambda: listed(list(read_runs(*args.runs))),
        "show": lambda: show(args.runs[0]),
        "diff": lambda: compare(*args.runs),
    }
    print(asked[args.action or "list"]())
    return None


def show(folder: Path) -> str:
    """Return what started a run, how it ended, and its closing table."""
    run, launched = read_run(folder), launches(folder)
    facts = {"status": f"{run.status} {run.reason}".strip()}
    if launched:
        first, last = launched[0], launched[-1]
        facts["command"] = shlex.join(last["argv"])
        number = f"{len(launched)} launch{'es' * (len(launched) > 1)}"
        facts["started"] = f"{first.get('time', '')}, {number}"
        facts["machine"] = f"{last.get('host')}, {last.get('device_name')}"
    facts["given"] = " ".join(map(str, run.overrides)) or "nothing"
    facts["last row"] = _position(run)
    facts["size"] = f"{_size(folder) / 2**20:,.1f} MiB"
    lines = [f"{name:10}{printable(text)}" for name, text in facts.items()]
    return "\n".join([*lines, "", str(summary(folder))])


def compare(a: Path, b: Path) -> Table:
    """Return what differs between two runs: keys, last values, versions, code."""
    runs, facts = [read_run(a), read_run(b)], [_facts(a), _facts(b)]
    keys = differing([run.flat for run in runs])
    rows = [(key, *(cell(run.flat.get(key)) for run in runs)) for key in keys]
    last = [run.values() for run in runs]
    for name in dict.fromkeys([*last[0], *last[1]]):
        values = [values.get(name) for values in last]
        if "/" in name and values[0] != values[1]:
            rows.append((name, *(as_text(name, value) for value in values)))
    for name in dict.fromkeys([*facts[0], *facts[1]]):
        found = [str(fact.get(name, "-")) for fact in facts]
        if found[0] != found[1]:
            rows.append((name, *found))
    names = distinct_names([run.folder for run in runs])
    notes = [] if rows else ["nothing differs: keys, last values, versions and code"]
    return Table(" and ".join(names), ("", *names), rows, notes=notes)


def watch(roots: Sequence[Path], every: float) -> int:
    """Print the list of runs every few seconds, until none is running or Ctrl-C."""
    while True:
        runs = list(read_runs(*roots))
        clear = CLEAR if sys.stdout.isatty() else ""
        print(f"{clear}{listed(runs)}", flush=True)
        if not any(run.status == "running" for run in runs):
            return 0
        time.sleep(every)


def remove(folders: Sequence[Path], yes: bool) -> int:
    """Delete run folders, once a person has agreed; return the exit code.

    Raises:
        ConfigError: one of them is no run folder, or its run goes on.
    """
    for folder in folders:
        if folder.is_symlink() or not is_run_folder(folder):
            raise ConfigError(f"{folder} is no run folder; `rm` takes these alone")
        if is_held(folder):
            raise ConfigError(f"{folder} is running; stop it first")
    print(listed([read_run(folder) for folder in folders]))
    print(f"\n{sum(map(_size, folders)) / 2**20:,.1f} MiB of {len(folders)} runs")
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("deleting asks in a terminal; give --yes elsewhere")
        if input("delete them for good? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was deleted")
            return 1
    for folder in folders:
        shutil.rmtree(folder)
        print(f"deleted {folder}")
    return 0


# --- facts of a folder ----------------------------------------------------------------


def _facts(folder: Path) -> dict[str, Any]:
    """Return machine, versions and code of a run's last launch, by name."""
    launch = (launches(folder) or [{"git": {}, "packages": {}}])[-1]
    git, packages = launch["git"], launch["packages"]
    names = ("host", "device_name", "python", "processes", "threads", "trainer")
    facts = {name: launch.get(name, "-") for name in names}
    facts |= {f"version of {name}": number for name, number in packages.items()}
    facts["code of stable-ssl"] = str(launch.get("library", "-"))[:10]
    facts["git commit"] = str(git.get("commit"))[:10]
    facts["lines not committed"] = len(str(git.get("diff") or "").splitlines())
    return facts


def _position(run: Run) -> str:
    """Return "epoch 12, step 108"."""
    row = run.rows[-1] if run.rows else {}
    return f"epoch {row.get('epoch', 0):g}, step {row.get('step', 0):,}"


def _size(folder: Path) -> int:
    """Return the bytes of a folder's files; links count nothing."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
