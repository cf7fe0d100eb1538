"""Tables of one run and of many, as plain text that any terminal or log can hold."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from stable_ssl.report.reader import Run, distinct_names, last_values, read_run

FEW = re.compile(r"few([\d.]+)(pct)?_")
ACCURACY = re.compile(r"acc\d*$")
NONE = "-"  # a cell without a value
NAMES_OF_A_RUN = {"log.run", "log.folder", "log.experiment", "log.resume", "log.tags"}
LONGEST = 24  # characters of a value that nobody asked to see


@dataclass(frozen=True, repr=False)
class Table:
    """Cells of text; shows itself, in a notebook too, as `render` does.

    Args:
        title: lines above the table.
        columns: names; numbers are set right, and text and the first column left.
        rows: one cell a column.
        spare: columns to leave out, the last first, where the table is too wide.
        notes: lines below the table.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    spare: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        return render(self)

    __repr__ = __str__

    def without(self, column: str) -> Table:
        """Return the table less a column."""
        keep = [i for i, name in enumerate(self.columns) if name != column]
        return Table(
            self.title,
            [self.columns[i] for i in keep],
            [[row[i] for i in keep] for row in self.rows],
            [name for name in self.spare if name != column],
            self.notes,
        )


def render(table: Table, width: int = 120) -> str:
    """Return a table as lines of plain text, `width` characters each where it can be.

    Of a table that is too wide the spare columns go first, and are named below it; then
    the first column is cut, to 8 characters at least.
    """
    left_out: list[str] = []
    while table.spare and sum(_widths(table)) > width:
        left_out.insert(0, table.spare[-1])
        table = table.without(table.spare[-1])
    widths = _widths(table)
    widths[0] = max(min(8, widths[0]), widths[0] - max(0, sum(widths) - width))
    left = [i == 0 or not _numeric(column) for i, column in enumerate(_columns(table))]

    def line(cells: Sequence[str]) -> str:
        first = (
            cells[0] if len(cells[0]) <= widths[0] else f"{cells[0][: widths[0] - 2]}.."
        )
        rest = zip(cells[1:], widths[1:], left[1:], strict=True)
        placed = [
            f"  {cell}".ljust(room) if to_left else cell.rjust(room)
            for cell, room, to_left in rest
        ]
        return "".join([first.ljust(widths[0]), *placed]).rstrip()

    notes = [*table.notes]
    if left_out:
        notes.append(f"not shown for lack of room: {', '.join(left_out)}")
    body = [line(table.columns), "-" * sum(widths), *(line(row) for row in table.rows)]
    parts = [_wrapped(table.title, width), body if table.rows else []]
    parts.append([part for note in notes for part in _wrapped(note, width)])
    return "\n\n".join("\n".join(part) for part in parts if part)


def summary(run_dir: str | Path) -> Table:
    """Return what a run learned: its test accuracies, or val's where test has none.

    The last row that holds a metric counts, never the best one. Top-5 accuracies are
    shown from 100 classes on; all metrics are in metrics.jsonl.

    Raises:
        ValueError: no run folder.
    """
    run = read_run(run_dir)
    split = next(
        split
        for rows, split in (
            (run.trained, "test"),
            (run.trained, "val"),
            (run.untrained, "test"),
            ([{"val/": 0}], "val"),
        )
        if any(name.startswith(f"{split}/") for row in rows for name in row)
    )
    before, after = last_values(run.untrained), last_values(run.trained)
    names = [n for n in before | after if n.startswith(f"{split}/") and _shown(n, run)]
    rows = [
        (
            describe(name, run),
            as_text(name, before.get(name)),
            as_text(name, after.get(name)),
        )
        for name in sorted(names, key=order)
    ]
    title = "/".join(run.folder.resolve().parts[-2:])
    return Table(
        f"{title}: {_data(split, run)}\n{_protocol(names, run)}",
        ("", _start(run), "trained"),
        rows,
        notes=() if rows else ("no val or test metrics in this run",),
    )


def sweep(run_dirs: Iterable[str | Path]) -> Table:
    """Return one row a run: name, status, the keys that differ, the last metrics.

    Where the table is too wide, keys that no command line gave go first, then metrics
    but the first. A folder that is no run is named in a warning and left out.

    Args:
        run_dirs: run folders.
    """
    runs = []
    for folder in run_dirs:
        try:
            runs.append(read_run(folder))
        except (ValueError, OSError) as error:
            warnings.warn(f"skipped: {error}", stacklevel=2)
    given, derived = _differing(runs)
    values = [last_values(run.trained) for run in runs]
    metrics = _watched(runs, values)
    rows = [
        (
            name,
            run.status,
            *(_cell(run.flat.get(key)) for key in given),
            *(as_text(metric, found.get(metric)) for metric in metrics),
            *(_cell(run.flat.get(key)) for key in derived),
        )
        for name, run, found in zip(distinct_names(runs), runs, values, strict=True)
    ]
    return Table(
        f"{len(runs)} run{'s' * (len(runs) != 1)}, last values",
        ("run", "status", *given, *metrics, *derived),
        rows,
        spare=(*given, *metrics[1:], *derived),
    )


# --- words ----------------------------------------------------------------------------


def is_accuracy(metric: str) -> bool:
    """Return whether a metric is a share in [0, 1]: val/acc1, test/few2_acc1."""
    return ACCURACY.search(metric) is not None


def as_text(metric: str, value: Any, digits: int = 2) -> str:
    """Return a value for a reader: an accuracy in per cent, four digits of another."""
    if value is None:
        return NONE
    if not isinstance(value, int | float):
        return str(value)
    return f"{100 * value:.{digits}f} %" if is_accuracy(metric) else f"{value:.4g}"


def describe(metric: str, run: Run) -> str:
    """Return a metric of a split in words: "kNN (k=20)", "linear probe (online)"."""
    name = metric.partition("/")[2]
    stem, _, end = name.rpartition("acc")
    few = FEW.fullmatch(stem)
    if not is_accuracy(metric):
        return name
    if few and few[2]:
        words = f"linear, {few[1]} % of the labels"
    elif few:
        words = f"linear, {few[1]} label{'s' * (few[1] != '1')} a class"
    elif stem == "knn_":
        words = f"kNN (k={run.get('log.eval.knn.k', '?')})"
    elif stem == "linear_":
        words = "linear (offline)"
    elif stem == "logistic_":
        words = "logistic regression (offline)"
    elif stem == "":
        words = "linear probe (online)" if _probed(run) else "accuracy"
    else:
        words = stem.strip("_")
    return words if end in ("", "1") else f"{words}, top {end}"


def _probed(run: Run) -> bool:
    """Return whether the accuracy of a split is the online probe's."""
    return run.get("log.eval.linear") is not None


def _protocol(names: Sequence[str], run: Run) -> str:
    """Return what was measured on what, in which epoch, with which seed."""
    own = any(re.search(r"/acc\d*$", name) for name in names) and not _probed(run)
    facts = []
    if any(is_accuracy(name) for name in names):
        facts.append("top-1 accuracy" + " on frozen features" * (not own))
    rows = [row for row in run.rows if any(name in row for name in names)]
    if rows:
        facts.append(_when(rows[-1], run))
    if run.get("hardware.seed") is not None:
        facts.append(f"seed {run.get('hardware.seed')}")
    return ", ".join(facts)


def _data(split: str, run: Run) -> str:
    """Return "digits, test split", or the subset where it is called otherwise."""
    name = run.get(f"data.{split}.dataset.name") or run.get("data.train.dataset.name")
    subset = run.get(f"data.{split}.dataset.subset", split)
    words = f"{split} split" if subset == split else f"{split} split (subset {subset})"
    return f"{name}, {words}" if name else words


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
    if run.fits and run.get("log.load_from"):
        return "loaded"
    return "pretrained" if run.get("model.backbone.pretrained") else "untrained"


def _shown(metric: str, run: Run) -> bool:
    return not metric.endswith("acc5") or run.get("data.num_classes", 0) >= 100


def order(metric: str) -> tuple:
    """Return the place of a metric in a table: kNN, accuracy, few labels, others."""
    name = metric.rpartition("/")[2]
    few = FEW.match(name)
    places = ("knn_acc", "acc", "few", "linear_acc", "logistic_acc")
    place = next((i for i, start in enumerate(places) if name.startswith(start)), 9)
    return place, (few[2] or "", float(few[1])) if few else (), name


# --- sweeps ---------------------------------------------------------------------------


def _differing(runs: Sequence[Run]) -> tuple[list[str], list[str]]:
    """Return the keys that differ: those a command line gave, and short others."""
    overrides = [str(override) for run in runs for override in run.overrides]
    by_hand = {override.lstrip("+~").partition("=")[0] for override in overrides}
    given, derived = [], []
    for key in dict.fromkeys(key for run in runs for key in run.flat):
        cells = {_cell(run.flat.get(key)) for run in runs}
        if len(cells) > 1 and key not in NAMES_OF_A_RUN:
            if key in by_hand:
                given.append(key)
            elif max(map(len, cells)) <= LONGEST:
                derived.append(key)
    return given, derived


def _watched(runs: Sequence[Run], values: Sequence[dict[str, Any]]) -> list[str]:
    """Return the metrics of a sweep's columns: the monitored, then val, then test."""
    found = {name for some in values for name in some}
    wanted = [run.get("log.monitor") for run in runs] + ["val/knn_acc1", "val/acc1"]
    tested = [n for n in found if n.startswith("test/") and n.endswith("acc1")]
    wanted += sorted(tested, key=order)
    return [name for name in dict.fromkeys(wanted) if name in found]


def _cell(value: Any) -> str:
    return NONE if value is None else str(value)


# --- layout ---------------------------------------------------------------------------


def _columns(table: Table) -> list[tuple[str, ...]]:
    """Return the cells of each column, below its name."""
    return [column[1:] for column in zip(table.columns, *table.rows, strict=True)]


def _widths(table: Table) -> list[int]:
    """Return the width of each column, two spaces before all but the first."""
    return [
        max(map(len, [name, *cells])) + 2 * (i > 0)
        for i, (name, cells) in enumerate(
            zip(table.columns, _columns(table), strict=True)
        )
    ]


def _numeric(cells: Iterable[str]) -> bool:
    return all(cell[:1] in "+-.0123456789" or cell in ("nan", "inf") for cell in cells)


def _wrapped(text: str, width: int) -> list[str]:
    return [part for line in text.splitlines() for part in wrap(line, width)]
