"""Run folders as data: rows of one run, frames of many."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stable_ssl.lock import is_held
from stable_ssl.loggers import own_code
from stable_ssl.loggers.jsonl import FORMAT, read_rows
from stable_ssl.loggers.names import STATED, Metric, stated_metrics
from stable_ssl.recorded import FILES, is_within

if TYPE_CHECKING:
    from pandas import DataFrame

READ = (*FILES, "overrides.yaml", "status.json", "metrics.json", "environment.json")
READ += (str(own_code.FILE),)
MANY = 50  # runs whose reading shows a bar
At = int | Literal["last", "best"]  # which value of a metric counts


@dataclass(frozen=True)
class Run:
    """One run folder, read once."""

    folder: Path  # <log.folder>/runs/<experiment>/<run>
    config: dict[str, Any]  # nested, resolved
    overrides: list[str]  # as given on the command line: "optim.lr=0.3"
    status: str  # running, finished, preempted, diverged, failed, lost or unknown
    reason: str  # of the status; may be empty
    rows: list[dict[str, Any]]  # of metrics.jsonl, in order
    metrics: Mapping[str, Metric]  # what evaluators stated, by name without the split
    code: str | None  # stands for the user's own modules, a+b where they changed
    versions: str  # of the library, a hash, and of torch; empty where none is known

    def values(self, at: At = "last") -> dict[str, Any]:
        """Return a value of everything the rows hold after the first step.

        The last one; the last up to a step, where the run came so far; or the last up
        to the step where `log.monitor` was best, if there is one.
        """
        rows = self.trained
        if at == "best":
            monitor, lowest, at = self.get("log.monitor"), math.inf, -1
            sign = -1 if self.get("log.monitor_mode", "max") == "max" else 1
            for row in rows:
                if sign * row.get(monitor, math.nan) < lowest:
                    lowest, at = sign * row[monitor], row["step"]
        if at != "last":
            reached = rows and rows[-1]["step"] >= at
            rows = [row for row in rows if row["step"] <= at] if reached else []
        return last_values(rows)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a dotted key, `default` where it is absent or null."""
        value = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return default if value is None else value

    @cached_property
    def flat(self) -> dict[str, Any]:
        """The config with dotted keys; lists stay lists. `code` stands for own modules.

        It is there where a run used modules of the user's own.
        """
        return flat(self.config) | ({} if self.code is None else {"code": self.code})

    @property
    def given(self) -> set[str]:
        """The keys that the command line gave."""
        return {str(text).lstrip("+~").partition("=")[0] for text in self.overrides}

    @cached_property
    def untrained(self) -> list[dict[str, Any]]:
        """The rows of a training run before its first step."""
        return [row for row in self.rows if row["step"] == 0 and self.fits]

    @cached_property
    def trained(self) -> list[dict[str, Any]]:
        """The rows after the first step; all rows of a run that only evaluates."""
        return [row for row in self.rows if row["step"] > 0 or not self.fits]

    @property
    def fits(self) -> bool:
        """Whether the run trains."""
        return self.get("mode", "fit") == "fit"


def read_run(run_dir: str | Path) -> Run:
    """Return a run folder's configuration, status and rows.

    Raises:
        ValueError: no run folder, or a file of it cannot be read; says which.
    """
    folder = Path(run_dir)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} is no run folder: it lacks {' and '.join(missing)}")
    for path in map(folder.joinpath, READ):
        if not is_within(path, folder):  # what is elsewhere is nobody's to show
            raise ValueError(f"{path} is a link out of the run folder; remove it")
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ValueError(f"{path} is no file; remove it")
    config = _read_yaml(folder / "config.yaml")
    if not isinstance(config, dict):
        raise ValueError(f"{folder}/config.yaml holds no keys")
    try:
        json.dumps(config, default=str, skipkeys=True)
    except (ValueError, RecursionError) as error:  # of an alias within itself
        raise ValueError(f"{folder}/config.yaml nests without an end") from error
    overrides = _read_yaml(folder / "overrides.yaml") or []
    if not isinstance(overrides, list):
        raise ValueError(f"{folder}/overrides.yaml holds no list")
    status, reason = _read_status(folder / "status.json")
    if status == "running" and not is_held(folder):
        status, reason = "lost", "its process is gone, and could not say why"
    metrics = stated_metrics(folder)
    STATED.update(metrics)
    rows, made = read_rows(folder), makers(folder)
    known = [launch["own"] for launch in made if "own" in launch]
    code = joined(known or [own_code.code_of(folder)], without="none")
    made_by = code, _versions(made)
    return Run(folder, config, overrides, status, reason, rows, metrics, *made_by)


def makers(folder: Path) -> list[dict[str, Any]]:
    """Return the launches that made a run's figures: those of the mode of its first."""
    made = launches(folder)
    return [one for one in made if one.get("mode", "fit") == made[0].get("mode", "fit")]


def joined(hashes: Iterable[str | None], without: str) -> str | None:
    """Return different hashes as one text, None where there is none.

    Args:
        hashes: of the launches of a run.
        without: what stands for None beside others.
    """
    texts = {without if one is None else str(one) for one in hashes}
    return "+".join(sorted(texts)) if texts - {without} else None


def _versions(made: Iterable[Mapping[str, Any]]) -> str:
    """Return which library and torch launches had."""
    found = []
    for launch in made:
        torch = launch["packages"].get("torch")
        library = str(launch.get("library") or "")[:8]
        found += [library] * bool(library) + [f"torch {torch}"] * bool(torch)
    return ", ".join(dict.fromkeys(found))


def launches(folder: Path) -> list[dict[str, Any]]:
    """Return the launches of environment.json; none where it cannot be read.

    Of each, `argv` is a list of texts, `git` and `packages` are mappings.
    """
    try:
        found = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    kept = []
    for launch in found if isinstance(found, list) else []:
        if isinstance(launch, dict):
            argv = launch.get("argv")
            words = map(str, argv if isinstance(argv, list) else [])
            mappings = {name: launch.get(name) for name in ("git", "packages")}
            mappings = {
                n: m if isinstance(m, dict) else {} for n, m in mappings.items()
            }
            kept.append({**launch, "argv": [*words], **mappings})
    return kept


def load(*roots: str | Path, at: At = "last") -> tuple[DataFrame, DataFrame]:
    """Read runs into two frames that share the column `run`.

    Args:
        roots: run folders, or folders that hold some at any depth; links below them
            are not followed.
        at: which value of a metric counts: the `last`; that at a step; or `best`, that
            at the step where `log.monitor` was best, of which there is none in a run
            without a monitor. At a step is the last value up to it, provided that the
            run came so far.

    Returns:
        runs: one row a run: run (the end of its path that tells it apart), folder,
            status, reason, versions, the config by dotted keys, and a value of each
            metric (`<split>/<name>`), step and epoch, after the first step (accuracies
            as fractions; nan where there is none).
        curves: the rows of all runs, step 0 included: run, step, epoch, time in unix
            seconds, and the metrics.

    A folder that is no whole run is named in a warning and left out.

    Raises:
        ValueError: `at` is none of these.
    """
    import pandas as pd

    if at not in ("last", "best") and not isinstance(at, int):
        raise ValueError(f"at={at}; give last, best or a step such as 1000")
    folders, table, rows = [], [], []
    for run in read_runs(*roots):
        if not run.rows:
            yet = " yet" * (run.status == "running")
            warnings.warn(f"skipped {run.folder}: no rows in it{yet}", stacklevel=2)
            continue
        facts = {"folder": str(run.folder), "status": run.status, "reason": run.reason}
        facts["versions"] = run.versions
        folders.append(run.folder)
        table.append({"run": ""} | facts | run.flat | run.values(at) | facts)
        rows.append(pd.DataFrame.from_records(run.rows))
    if not folders:
        return pd.DataFrame(), pd.DataFrame()
    names = distinct_names(folders)
    runs = pd.DataFrame(table, dtype=object).assign(run=names)
    whole = [name for name in runs if "/" in name or runs[name].notna().all()]
    runs = runs.astype(runs[whole].infer_objects().dtypes)  # 5 beside null stays 5
    runs.attrs["at"] = at
    curves = pd.concat(rows, keys=names, names=["run"])
    return runs, curves.reset_index("run").reset_index(drop=True)


def read_runs(*roots: str | Path) -> Iterator[Run]:
    """Yield each run at or below `roots` once; warn of folders that are none.

    Many take a progress bar where the standard error is a terminal.
    """
    folders = [folder for root in roots for folder in _run_folders(Path(root))]
    folders = list({folder.resolve(): folder for folder in folders}.values())
    if len(folders) >= MANY and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        folders = track(folders, "reading runs", console=console, transient=True)
    yield from read_folders(folders)


def read_folders(folders: Iterable[str | Path]) -> Iterator[Run]:
    """Yield the run of each folder; warn of those that are none."""
    for folder in folders:
        try:
            yield read_run(folder)
        except (ValueError, OSError) as error:
            warnings.warn(f"skipped: {error}", stacklevel=4)


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the folders' paths that tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth = 1
    while len({path[-depth:] for path in parts}) < len(set(parts)):
        depth += 1
    return ["/".join(path[-depth:]) for path in parts]


def last_values(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the last value of everything that the rows hold."""
    return {name: value for row in rows for name, value in row.items()}


def _run_folders(folder: Path, root: bool = True) -> list[Path]:
    """Return the run folders at or below a folder; warn of folders without any."""
    if any((folder / name).exists() for name in FILES):
        return [folder]
    try:
        below = sorted(
            child
            for child in folder.iterdir()
            if child.is_dir() and not child.is_symlink() and child.name[0] != "."
        )
    except OSError as error:
        warnings.warn(f"skipped {folder}: {error.strerror}", stacklevel=4)
        return []
    runs_of = {child: _run_folders(child, root=False) for child in below}
    runs = [run for inside in runs_of.values() for run in inside]
    empty = [child for child in below if not runs_of[child]] if runs else [folder]
    for path in empty if runs or root else ():  # name the topmost one alone
        warnings.warn(f"skipped {path}: no {' and '.join(FILES)} in it", stacklevel=4)
    return runs


def _read_yaml(path: Path) -> Any:
    """Return what a YAML file holds, None where there is no file."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C: ten times as fast
    try:
        return yaml.load(path.read_text(encoding="utf-8"), loader)
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML") from error


def _read_status(path: Path) -> tuple[str, str]:
    """Return status and reason; unknown where the file cannot be read.

    Raises:
        ValueError: the run's rows are of a later format.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        number = int(record.get("format", 1))
        status, reason = str(record["status"]), str(record.get("reason", ""))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return "unknown", ""
    if number > FORMAT:
        raise ValueError(
            f"{path.parent} has rows of format {number}, and this version reads up to"
            f" {FORMAT}; install a newer stable-SSL"
        )
    return status, reason


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one with dotted keys; lists stay lists."""
    dotted: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping) and value
        name = f"{prefix}{key}"
        dotted |= flat(value, f"{name}.") if nested else {name: value}
    return dotted
