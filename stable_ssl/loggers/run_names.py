"""Names of runs: which are right, where their folders lie, and those of new ones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stable_ssl.schema import ConfigError

LONGEST = 255  # bytes of a folder's name, of most file systems


def run_path(log: Any, run: str | None = None) -> Path:
    """Return `<log.folder>/runs/<experiment>/<run>`; log is the config's group.

    Raises:
        ConfigError: as of `check_names`.
    """
    run = str(log.run if run is None else run)
    experiment = str(log.experiment)
    check_names(log.folder, experiment, run)
    return Path(log.folder) / "runs" / experiment / run


def check_names(folder: str | Path, experiment: str, run: str | None) -> None:
    """Refuse names that lead elsewhere than to a folder of the run's own below `runs`.

    Args:
        folder: `log.folder`, anywhere.
        experiment: one folder, or several in one another: "ablation/lr".
        run: one folder; None is named later.

    Raises:
        ConfigError: a name that is no folder's, or of one that tables leave out.
    """
    if not str(folder).strip() or "\0" in str(folder):
        raise ConfigError(f"log.folder={str(folder)!r} is no folder; ./logs is one")
    named = [("experiment", part, "ablation/lr") for part in experiment.split("/")]
    named += [] if run is None else [("run", run, "second_try")]
    for key, name, example in named:
        if fault := _fault(name):
            given = repr(experiment if key == "experiment" else run)
            given = given if len(given) < 50 else f"{given[:47]}..."
            raise ConfigError(f"log.{key}={given}: {fault}; a right one is {example}")


def _fault(name: str) -> str:
    """Return what keeps a text from being the name of a run's folder, if anything."""
    if not name.strip():
        return "it is empty, or one of its parts is"
    if name.startswith("."):
        return "what starts with a dot leads elsewhere, or is hidden"
    if "/" in name:
        return "it is the name of one folder, and no path"
    if not name.isprintable():
        return "it has characters that cannot be printed"
    if (length := len(name.encode())) > LONGEST:
        return f"it is {length} bytes long, and may be {LONGEST}"
    return ""


def reserve(logs: Sequence[Any]) -> str:
    """Make the folders `<time>_<number>` of new runs; return the time.

    Of each there is the group `log`, None of one that keeps nothing.
    """
    while True:
        stamp = time.strftime("%Y%m%d_%H%M%S")
        try:
            for number, log in enumerate(logs):
                if log is not None:
                    run_path(log, f"{stamp}_{number}").mkdir(parents=True)
            return stamp
        except FileExistsError:  # of runs that were started in the same second
            time.sleep(1)
        except OSError:
            return stamp  # the run says it in words
