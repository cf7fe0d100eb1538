"""The tables that end a run and a sweep."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stable_ssl.loggers.names import as_text, describe, in_order, is_accuracy, order
from stable_ssl.loggers.table import Table, printable
from stable_ssl.tools import learning_curves
from stable_ssl.tools.run_keys import cell, differing
from stable_ssl.tools.runs import (
    Run,
    distinct_names,
    last_values,
    read_folders,
    read_run,
)

LONGEST = 24  # characters of a value that nobody asked to see


def end_of_run(run: Any) -> None:
    """Show the closing table of a trainer, and draw its learning curves."""
    run.records.console.stop()
    run.records.console.table(summary(run.run_dir))
    try:
        paths = learning_curves.learning_curves(run.run_dir)
        run.say(f"figures: {', '.join(map(str, paths))}")
    except Exception as error:  # the table was shown all the same
        warnings.warn(f"no figure was drawn: {error!r}", stacklevel=2)


def summary(run_dir: str | Path) -> Table:
    """Return what a run learned: its test accuracies, or val's where test has none.

    The last row that holds a metric counts, never the best one. Top-5 accuracies are
    shown from 100 classes on; all metrics are in metrics.jsonl.

    Raises:
        ValueError: no run folder.
    """
    run = read_run(run_dir)
    before, after = last_values(run.untrained), run.values()
    shown = [(after, "test"), (after, "val"), (before, "test")]  # the first there is
    split = next((s for v, s in shown if any(n.startswith(f"{s}/") for n in v)), "val")
    metrics = [n for n in {**before, **after} if n.startswith(f"{split}/")]
    if run.get("data.num_classes", 0) < 100:
        metrics = [name for name in metrics if not name.endswith("acc5")]
    rows = [
        (describe(n, run.metrics), as_text(n, before.get(n)), as_text(n, after.get(n)))
        for n in sorted(metrics, key=order)
    ]
    title = "/".join(run.folder.resolve().parts[-2:])
    above = f"{title}: {_data(split, run)}", _protocol(metrics, run)
    return Table(
        "\n".join(map(printable, above)),
        ("", _start(run), "trained"),
        rows,
        notes=() if rows else ("no val or test metrics in this run",),
    )


def overview(run_dirs: Iterable[str | Path]) -> Table:
    """Return `listed` of run folders; one that is none is named in a warning."""
    return listed(list(read_folders(run_dirs)))


def listed(runs: Sequence[Run]) -> Table:
    """Return one row a run: name, status, epoch, keys that differ, the last metrics.

    Where the table is too wide, keys that no command line gave go first, then metrics
    but the first.
    """
    given, derived = _differing(runs)
    values = [run.values() for run in runs]
    metrics = _watched(runs, values)
    names = distinct_names([run.folder for run in runs])
    rows = [
        (
            name,
            run.status,
            f"{last['epoch']:.4g}" if "epoch" in last else "-",
            *(cell(run.flat.get(key)) for key in given),
            *(as_text(metric, last.get(metric)) for metric in metrics),
            *(cell(run.flat.get(key)) for key in derived),
        )
        for name, run, last in zip(names, runs, values, strict=True)
    ]
    return Table(
        f"{len(runs)} run{'s' * (len(runs) != 1)}, last values",
        ("run", "status", "epoch", *given, *metrics, *derived),
        rows,
        spare=(*given, *metrics[1:], *derived),
    )


def _protocol(metrics: Sequence[str], run: Run) -> str:
    """Return what was measured on what, in which epoch, with which seed."""
    predicts = any(re.search(r"/acc\d*$", name) for name in metrics)
    facts = []
    if any(map(is_accuracy, metrics)):
        frozen = not predicts or run.get("log.eval.linear")
        facts.append("top-1 accuracy" + " on frozen features" * bool(frozen))
    rows = [row for row in run.rows if any(name in row for name in metrics)]
    if rows:
        facts.append(_when(rows[-1], run))
    if run.get("hardware.seed") is not None:
        facts.append(f"seed {run.get('hardware.seed')}")
    return ", ".join(facts)


def _data(split: str, run: Run) -> str:
    """Return "digits, test split", or the subset where it is called otherwise."""
    name = run.get(f"data.{split}.dataset.name") or run.get("data.train.dataset.name")
    subset = run.get(f"data.{split}.dataset.subset", split)
    images = f"{split} split" + f" (subset {subset})" * (subset != split)
    return f"{name}, {images}" if name else images


def _when(row: dict[str, Any], run: Run) -> str:
    """Return where in training a row was written."""
    step, epoch = row["step"], row.get("epoch", math.nan)
    steps, epochs = run.get("optim.steps"), run.get("optim.epochs")
    now, end, unit = (step, steps, "step") if steps else (epoch, epochs, "epoch")
    if not run.fits or end is None:
        return f"epoch {epoch:g}"
    return f"epoch {epoch:g} (last)" if now >= end else f"{unit} {now:g} of {end:g}"


def _start(run: Run) -> str:
    """Return what the weights are before the first step."""
    if (run.fits and run.get("log.load_from")) or run.get("model.backbone.weights"):
        return "loaded"
    return "pretrained" if run.get("model.backbone.pretrained") else "untrained"


def _differing(runs: Sequence[Run]) -> tuple[list[str], list[str]]:
    """Return the keys that differ: those a command line gave, and short others."""
    by_hand = {key for run in runs for key in run.given}
    given, derived = [], []
    for key in differing([run.flat for run in runs]):
        if key in by_hand:
            given.append(key)
        elif max(len(cell(run.flat.get(key))) for run in runs) <= LONGEST:
            derived.append(key)
    return given, derived


def _watched(runs: Sequence[Run], values: Sequence[dict[str, Any]]) -> list[str]:
    """Return the metrics of a sweep's columns: the monitored, then val, then test."""
    known = {name for last in values for name in last}
    monitored = [run.get("log.monitor") for run in runs]
    accuracies = in_order((n for n in known if n.endswith("acc1")), ["val", "test"])
    return [n for n in dict.fromkeys([*monitored, *accuracies]) if n in known]
