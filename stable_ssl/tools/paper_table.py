"""What a paper's table comes to: its runs, beside what others published.

Each figure can be traced: to the hash of its configuration, of the code and of the last
checkpoint of each of its runs.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_ssl.files import write_atomically
from stable_ssl.loggers import own_code
from stable_ssl.loggers.names import NONE, better, is_accuracy
from stable_ssl.loggers.table import Table, render
from stable_ssl.recorded import is_run_folder
from stable_ssl.tools import figures, table_formats
from stable_ssl.tools.page import page
from stable_ssl.tools.paper_file import Column, Paper, Row
from stable_ssl.tools.runs import Run, last_values, launches, load, read_run
from stable_ssl.tools.seed_statistics import INTERVALS, Sample, sample
from stable_ssl.tools.style import save
from stable_ssl.tools.table import Cell, MeanTable, mark

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MINUTES = "minutes"  # a column that is no metric
IN_SHORT = ("method", "data", "seed", "status", "config", "code", "own", "checkpoint")
KINDS = ("measured", "published", "difference")
BLOCK = 2**24  # bytes of a checkpoint that are read at once


@dataclass(frozen=True)
class Planned:
    """One run of a table, whether it is there or not."""

    row: str  # its title
    data: str  # title of the data set; empty where the table names none
    seed: int
    config: str  # hash of what it does
    line: tuple[str, ...]  # its command line
    folder: Path


@dataclass
class Figures(Cell):
    """A cell of the table: what was measured, and what others published."""

    published: float | None = None

    @property
    def difference(self) -> float | None:
        """Our mean less what was published."""
        if self.sample is None or self.published is None:
            return None
        return self.sample.mean - self.published


class PaperTable:
    """A table and its runs; without a run a cell is empty.

    Args:
        paper: its statement.
        planned: all of its runs.
        command: that made them.
        interval: std or ci95, beside each mean.
    """

    def __init__(
        self,
        paper: Paper,
        planned: Sequence[Planned],
        command: str,
        interval: str = "std",
    ):
        self.paper, self.planned, self.command = paper, planned, command
        there = [one for one in planned if is_run_folder(one.folder)]
        self.there = {one.folder: read_run(one.folder) for one in there}
        self.runs = {
            f: run for f, run in self.there.items() if run.status == "finished"
        }
        self.columns = [(data, c) for data in paper.data for c in paper.columns]
        self.rows = [[self._cell(row, *c) for c in self.columns] for row in paper.rows]
        for (_, column), cells in zip(self.columns, self._by_column(), strict=True):
            if column.at != "untrained":
                mark(cells, better(column.value))
        cells = {
            ((row.title,), (str(i),)): cell
            for row, line in zip(paper.rows, self.rows, strict=True)
            for i, cell in enumerate(line)
        }
        self.means = MeanTable(["method"], ["column"], [], interval, "", cells)

    def _cell(self, row: Row, data: str, column: Column) -> Figures:
        """Return a cell: the values of its runs, accuracies in per cent."""
        values = [
            value_of(self.runs[one.folder], column)
            for one in self.planned
            if (one.row, one.data) == (row.title, data) and one.folder in self.runs
        ]
        scale = 100 if is_accuracy(column.value) else 1
        found = sample([scale * v for v in values if isinstance(v, int | float)])
        published = self.paper.published(row, data, column)
        return Figures(column.value, found, published=published)

    # --- as text ----------------------------------------------------------------------

    def _levels(self) -> list[list[str]]:
        """Return the lines above the columns: data, metric, measured or published."""
        heads = [
            (data, column.title, kind)
            for (data, column), kinds in zip(self.columns, self._kinds(), strict=True)
            for kind in kinds
        ]
        lines = [list(line) for line in zip(*heads, strict=True)]
        return [line for line in lines if any(line)]

    def _kinds(self) -> list[tuple[str, ...]]:
        """Return what stands of each column: more where something was published."""
        return [
            KINDS if any(c.published is not None for c in cells) else ("",)
            for cells in self._by_column()
        ]

    def _by_column(self) -> list[tuple[Figures, ...]]:
        return list(zip(*self.rows, strict=True))

    def _lines(self) -> list[list[table_formats.Text]]:
        """Return the rows: title, then of each column what `_levels` names."""
        lines = []
        for row, cells in zip(self.paper.rows, self.rows, strict=True):
            line = [(row.title, False)]
            for cell, kinds in zip(cells, self._kinds(), strict=True):
                line.append((self.means.text(cell), bool(cell.mark)))
                if kinds == KINDS:
                    said, apart = cell.published, cell.difference
                    line.append((NONE if said is None else f"{said:g}", False))
                    line.append((NONE if apart is None else f"{apart:+.2f}", False))
            lines.append(line)
        return lines

    @property
    def caption(self) -> str:
        """What the figures are, in a sentence or two."""
        counts = self.means.counts
        n = "n" if len(counts) > 1 else max(counts, default=0)
        spread = f"Mean ± {INTERVALS[self.means.interval]} over {n} seeds"
        about = "One run a cell" if counts == {1} else spread
        left_out = len(self.planned) - len(self.runs)
        unfinished = f" {left_out} of {len(self.planned)} runs are missing or diverged."
        return (
            f"{about}; accuracies in per cent.{unfinished * bool(left_out)}"
            f"{table_formats.bold_note(self.means)}"
        )

    def _heads(self) -> list[str]:
        """Return a text a column."""
        levels = zip(*self._levels(), strict=True)
        return ["method", *(", ".join(filter(None, parts)) for parts in levels)]

    def text(self, width: int = 120) -> str:
        """Return the table for a terminal."""
        body = [[text for text, _ in line] for line in self._lines()]
        title = f"{self.paper.title}\n{self.caption}"
        return render(Table(title, self._heads(), body), width)

    def latex(self) -> str:
        """Return a `tabular`; its caption and command are comments."""
        caption = f"{self.paper.title}. {self.caption} Made by: {self.command}"
        levels, lines = self._levels(), self._lines()
        return table_formats.latex_lines(["method"], levels, lines, caption)

    def markdown(self, figure: str | None) -> str:
        """Return the table, its figure, sources of what was published, the runs."""
        say = table_formats.in_markdown
        lines = table_formats.markdown_lines(1, self._heads(), self._lines())
        sources = [
            f"- {say(row.title)}: {say(row.source)}\n"
            for row in self.paper.rows
            if row.source
        ]
        runs = [[(text, False) for text in texts] for texts in self._in_short()]
        parts = [
            f"# {say(self.paper.title)}\n",
            f"```console\n{self.command}\n```\n",
            lines,
            f"{say(self.caption)}\n",
            *([f"![{say(self.caption)}]({figure})\n"] if figure else []),
            *(["Published:\n", "".join(sources)] if sources else []),
            "The runs; a hash stands for each configuration, for the library's code and"
            " for the last checkpoint.\n",
            table_formats.markdown_lines(len(IN_SHORT), IN_SHORT, runs),
        ]
        return "\n".join(parts)

    def _in_short(self) -> Iterator[list[str]]:
        """Yield a line of texts for each run, its hashes shortened."""
        for one in self.provenance:
            texts = {k: NONE if v is None else str(v) for k, v in one.items()}
            texts["checkpoint"] = texts["checkpoint"][:8]
            yield [texts[name] for name in IN_SHORT]

    # --- as data ----------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """Return all figures with their values, and all runs, as plain types."""
        rows = [
            {
                "title": row.title,
                "recipe": row.recipe,
                "overrides": row.overrides,
                "source": row.source,
                "cells": [
                    _facts(data, column, cell)
                    for (data, column), cell in zip(self.columns, cells, strict=True)
                ],
            }
            for row, cells in zip(self.paper.rows, self.rows, strict=True)
        ]
        return {
            "title": self.paper.title,
            "command": self.command,
            "overrides": self.paper.overrides,
            "data": self.paper.data,
            "rows": rows,
            "runs": self.provenance,
        }

    @cached_property
    def provenance(self) -> list[dict[str, Any]]:
        """What each run was; a checkpoint is read once."""
        return [self._provenance(one) for one in self.planned]

    def _provenance(self, one: Planned) -> dict[str, Any]:
        """Return what a run was: its name, status and hashes; None of what is not."""
        run = self.there.get(one.folder)
        versions = {str(launch.get("library")) for launch in launches(one.folder)}
        return {
            "method": one.row,
            "data": one.data,
            "seed": one.seed,
            "run": one.folder.name,
            "status": run.status if run else "not begun",
            "config": one.config,
            "code": "+".join(sorted(versions)) or None,
            "own": run.code if run else None,  # of modules of the user's
            "checkpoint": _hash_of(one.folder / "ckpts" / "last.ckpt"),
        }

    def of_other_code(self) -> list[str]:
        """Return the names of runs by other code than that of now."""
        folders = {one.folder.name: one.folder for one in self.planned}
        return [
            one["run"]
            for one in self.provenance
            if one["code"] not in (None, own_code.library())
            or own_code.changes(folders[one["run"]])
        ]

    # --- as a figure and a page -------------------------------------------------------

    def _drawn(self) -> Column | None:
        """Return the column that the figure shows: the first metric of training."""
        for (_, column), cells in zip(self.columns, self._by_column(), strict=True):
            trained = column.at != "untrained" and column.value != MINUTES
            if trained and any(cell.sample for cell in cells):
                return column
        return None

    def figure(self, column: Column) -> Figure:
        """Draw a metric: means, seeds, and what was published as diamonds.

        These are of a table of one data set, where a row is one mean.
        """
        at = int(column.at) if column.at.isdecimal() else column.at
        runs, _ = load(*self.runs, at=at)
        named = {str(one.folder): one for one in self.planned}
        of = [named[folder] for folder in runs["folder"]]
        runs = runs.assign(method=[o.row for o in of], data=[o.data for o in of])
        by = ["method", *["data"] * (len(self.paper.data) > 1)]
        published: dict[str, list[float]] = {}
        for row in self.paper.rows if len(by) == 1 else ():
            said = self.paper.published(row, *self.paper.data, column)
            if said is not None and row.title in set(runs["method"]):
                published[row.title] = [said]
        spread = self.means.interval
        return figures.compare(runs, column.value, by, spread, published=published)

    def write(self, out: str | Path) -> Iterator[Path]:
        """Write all forms of the table to `out`, each with its suffix; yield them."""
        drawn = self._drawn()
        texts = {
            "md": self.markdown(f"{Path(out).name}.png" if drawn else None),
            "tex": self.latex(),
            "json": json.dumps(self.as_json(), indent=1) + "\n",
        }
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        for suffix, text in texts.items():
            write_atomically(Path(f"{out}.{suffix}"), text)
            yield Path(f"{out}.{suffix}")
        if drawn:
            with warnings.catch_warnings():  # the table has said it
                warnings.simplefilter("ignore")
                yield from save(self.figure(drawn), out)
                yield page(*self.there, out=f"{out}.html")


def value_of(run: Run, column: Column) -> Any:
    """Return a run's value of a column; None where it has none."""
    if column.value == MINUTES:
        return minutes(run)
    if column.at == "untrained":
        return last_values(run.untrained).get(column.value)
    at = int(column.at) if column.at.isdecimal() else column.at
    return run.values(at).get(column.value)


def minutes(run: Run) -> float | None:
    """Return how long a run took: from each launch to its last row before the next.

    Launches are written to the second.
    """
    rows = [row["time"] for row in run.rows if isinstance(row.get("time"), float)]
    began = [
        datetime.strptime(launch["time"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
        for launch in launches(run.folder)
    ]
    seconds = 0.0
    for start, end in zip(began, [*began[1:], math.inf], strict=True):
        seconds += max((row - start for row in rows if start < row <= end), default=0)
    return seconds / 60 if seconds else None


def _facts(data: str, column: Column, cell: Figures) -> dict[str, Any]:
    """Return a cell as plain types."""
    found: Sample | None = cell.sample
    several = found is not None and found.n > 1
    return {
        "data": data,
        "column": column.title,
        "value": column.value,
        "at": column.at,
        "mean": found.mean if found else None,
        "std": found.std if several else None,
        "ci95": found.ci95 if several else None,
        "n": found.n if found else 0,
        "values": list(found.values) if found else [],
        "published": cell.published,
        "difference": cell.difference,
    }


def _hash_of(file: Path) -> str | None:
    """Return the SHA-256 of a file's content; None where there is no file."""
    if not file.is_file():
        return None
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
