"""Tables across runs: means over seeds, the best of a column and its equals."""

from __future__ import annotations

import math
from argparse import Action, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_ssl.loggers.names import NONE, axis_label, is_accuracy
from stable_ssl.schema import ConfigError
from stable_ssl.tools import run_keys, table_formats
from stable_ssl.tools.runs import At, load
from stable_ssl.tools.seed_statistics import INTERVALS, Sample, sample_of, told_apart

if TYPE_CHECKING:
    from pandas import DataFrame

SUFFIXES = {".txt": "text", ".md": "markdown", ".csv": "csv", ".tex": "latex"}
Texts = tuple[str, ...]  # values of the keys of a row, or metric and those of a column


@dataclass
class Cell:
    """One cell of a table."""

    metric: str  # of its values; accuracies are in per cent
    sample: Sample | None = None  # the values of its seeds; None where no run has one
    mark: str = ""  # `best` of its column, `equal` to it by `told_apart`, or empty


@dataclass(frozen=True, repr=False)
class MeanTable:
    """Means over seeds by keys; shows itself, in a notebook too, as text."""

    rows: list[str]  # keys of the config down the side
    columns: list[str]  # keys across the top, below the metric where there are several
    metrics: list[str]
    interval: str  # std or ci95, beside each mean
    when: str  # which values they are, in words; empty of the last ones
    cells: dict[tuple[Texts, Texts], Cell]  # by values of rows, (metric, of columns)

    def __str__(self) -> str:
        return table_formats.text(self)

    __repr__ = __str__

    @property
    def tops(self) -> list[Texts]:
        """Metric and values of the column keys, of each column in order."""
        tops = {top for _, top in self.cells}
        return sorted(tops, key=lambda t: (self.metrics.index(t[0]), _ranks(t[1:])))

    def header(self) -> list[tuple[str, Texts]]:
        """Return the lines above the columns, each with its name and a text a column.

        The metric comes first unless all columns share it, then the column keys.
        """
        shared = len(self.metrics) == 1 and bool(self.columns)
        lines = zip(["", *self.columns], zip(*self.tops, strict=True), strict=True)
        return list(lines)[shared:]

    def lines(self) -> list[tuple[Texts, list[Cell]]]:
        """Return the rows in order: values of the keys, and a cell a column."""
        tops = self.tops
        return [
            (side, [self.cells.get((side, top), Cell(top[0])) for top in tops])
            for side in sorted({side for side, _ in self.cells}, key=_ranks)
        ]

    @property
    def counts(self) -> set[int]:
        """How many runs cells are over; more than one in a cell can be tested."""
        return {cell.sample.n for cell in self.cells.values() if cell.sample}

    @property
    def caption(self) -> str:
        """What the figures are, in a sentence."""
        title = ", ".join(map(axis_label, self.metrics)) + self.when
        if self.counts == {1}:
            return f"{title}; one run a cell."
        n = "n" if len(self.counts) > 1 else max(self.counts, default=0)
        return f"{title}; mean ± {INTERVALS[self.interval]} over {n} seeds."

    def text(self, cell: Cell) -> str:
        """Return a cell: "97.25 ± 0.31", and " (n=3)" where others have other n."""
        if cell.sample is None:
            return NONE
        mean, spread = cell.sample.mean, cell.sample.spread(self.interval)
        digits = self.digits(cell)
        text = f"{mean:.{digits}f}"
        if cell.sample.n > 1:
            text += f" ± {spread:.{digits}f}"
        return f"{text} (n={cell.sample.n})" if len(self.counts) > 1 else text

    def digits(self, cell: Cell) -> int:
        """Return the decimals of a cell that has a sample."""
        mean, spread = cell.sample.mean, cell.sample.spread(self.interval)
        return 2 if is_accuracy(cell.metric) else _decimals(mean, spread)


def table(
    runs: DataFrame,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] = (),
    value: str | Sequence[str] | None = None,
    interval: str = "std",
    prefer: str | None = None,
) -> MeanTable:
    """Return the means of metrics over seeds, by keys of the config.

    In each column the best mean is marked, and every other that Welch's t-test at 5 %
    does not tell from it; a metric that is neither good high nor good low has no best.
    A cell of runs that differ in more than the seed is warned of.

    Args:
        runs: of `load`, all of its rows or some.
        rows: keys down the side; None: those that tell the runs apart.
        columns: keys across the top.
        value: a metric or several; None: the accuracies of test, or of val.
        interval: std, the standard deviation over seeds, or ci95, half the width of the
            95 % t-interval of the mean.
        prefer: high or low, what is good; None: `log.monitor_mode` of the monitored
            metric, the name of others.

    Raises:
        ConfigError: no runs, or a key or metric that none of them has.
    """
    run_keys.require_runs(runs)
    metrics = [value] if isinstance(value, str) else list(value or run_keys.usual(runs))
    run_keys.require_metrics(metrics, runs)
    run_keys.require_keys([*(rows or ()), *columns], runs)
    runs = _of_trainings(runs, metrics)
    rows = list(run_keys.telling(runs, given=columns) if rows is None else rows)
    groups = run_keys.groups(runs, [*rows, *columns])
    run_keys.warn_of_cells(groups.values(), metrics)
    cells = {}
    for metric in metrics:
        by_column: dict[Texts, list[Cell]] = {}
        for texts, group in groups.items():
            side, top = texts[: len(rows)], (metric, *texts[len(rows) :])
            cell = cells[side, top] = Cell(metric, sample_of(group, metric))
            by_column.setdefault(top, []).append(cell)
        for column in by_column.values():
            mark(column, prefer or run_keys.preferred(runs, metric))
    when = run_keys.when(runs)
    return MeanTable(rows, list(columns), metrics, interval, when, cells)


def _of_trainings(runs: DataFrame, metrics: Sequence[str]) -> DataFrame:
    """Leave out what runs that evaluate say of a metric that some that train have."""
    emptied = set()
    for metric in metrics:
        valued = runs[runs[metric].notna()]
        again = set(valued["run"]) - set(run_keys.trainings(valued)["run"])
        runs = runs.assign(**{metric: runs[metric].where(~runs["run"].isin(again))})
        emptied |= again
    return runs[runs[metrics].notna().any(axis=1) | ~runs["run"].isin(emptied)]


def _ranks(texts: Texts) -> list[tuple]:
    """Return a key to sort by: numbers by their value, before words."""
    return [run_keys.rank(text) for text in texts]


def mark(cells: Sequence[Cell], prefer: str | None) -> None:
    """Mark the best of several cells, and those that are not told from it."""
    filled = [cell for cell in cells if cell.sample]
    if prefer is None or len(filled) < 2:
        return
    best = (max if prefer == "high" else min)(filled, key=lambda c: c.sample.mean)
    for cell in filled:
        if not told_apart(cell.sample, best.sample):
            cell.mark = "equal"
    best.mark = "best"


def _decimals(mean: float, spread: float) -> int:
    """Return the decimals for two digits of the spread, or four of the mean."""
    size, digits = (spread, 2) if spread > 0 else (abs(mean), 4)
    return min(max(digits - 1 - math.floor(math.log10(size)), 0), 6) if size else 0


# --- the command ----------------------------------------------------------------------


def add_arguments(parser: ArgumentParser) -> None:
    """Describe `stable-ssl table`."""
    parser.description = (
        "Means over seeds of the runs below some folders, by keys of their config.\n"
        "`*` marks the best of a column, `=` what Welch's t-test at 5 % does not tell\n"
        "from it; Markdown and LaTeX set both in bold. Accuracies are in per cent."
    )
    parser.epilog = (
        "examples:\n"
        "  stable-ssl table logs/runs\n"
        "  stable-ssl table logs/runs --rows model.name --columns optim.lr \\\n"
        "    --value test/knn_acc1 --interval ci95 --out table.tex\n\n"
        "Without --rows, --columns and --value, what there is to choose from is listed."
    )
    add_runs(parser)
    option, several = parser.add_argument, {"nargs": "+", "action": Words}
    option("--rows", **several, metavar="KEY", help="down the side: model.name")
    option("--columns", **several, metavar="KEY", default=[], help="across the top")
    option("--value", **several, metavar="METRIC", help="one or more: test/knn_acc1")
    option("--interval", choices=INTERVALS, default="std", help="beside each mean")
    option("--prefer", choices=("high", "low"), help="which values are the good ones")
    option("--format", choices=SUFFIXES.values(), help="default: as FILE ends, or text")
    option("--out", metavar="FILE", type=Path, help="write it here instead")


def add_runs(parser: ArgumentParser) -> None:
    """Add the folders of runs, and the step that counts."""
    folders = "run folders, or folders that hold some"
    parser.add_argument("runs", nargs="+", metavar="RUNS", help=folders)
    at = (
        "last: the last values (default); best: those at the step where log.monitor"
        " was best on validation; or a step"
    )
    parser.add_argument("--at", type=_at, default="last", metavar="WHEN", help=at)


def run(args: Namespace) -> None:
    """Print or write the table that the arguments ask for."""
    runs, _ = load(*args.runs, at=args.at)
    means = table(runs, args.rows, args.columns, args.value, args.interval, args.prefer)
    kind = args.format or _format(args.out)
    text = getattr(table_formats, kind)(means)
    if args.out is None:
        print(text)
    else:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        print(f"wrote {args.out}")
    if kind == "text" and not (args.rows or args.columns or args.value):
        print(f"\n{run_keys.offer(runs)}")


class Words(Action):
    """Take several words, with spaces or commas between them."""

    def __call__(
        self, parser: Any, args: Namespace, values: Any, option: str | None = None
    ) -> None:
        """Keep the words."""
        words = [word for value in values for word in value.split(",") if word]
        setattr(args, self.dest, words)


def _format(file: Path | None) -> str:
    """Return the format that a file's name asks for; text where there is no file."""
    if file is not None and file.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"--out {file}: a table is written as {', '.join(SUFFIXES)}; give --format"
            " for another name"
        )
    return SUFFIXES[file.suffix.lower()] if file else "text"


def _at(text: str) -> At:
    """Read a step, `last` or `best`."""
    if text in ("last", "best"):
        return text
    if text.isdecimal():
        return int(text)
    raise ArgumentTypeError(f"found {text}; give last, best or a step such as 1000")
