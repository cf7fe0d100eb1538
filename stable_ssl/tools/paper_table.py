"""What a paper's table comes to: its runs, beside what others published.

What its runs are is in paper_results.py.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_ssl.files import write_atomically
from stable_ssl.loggers.names import NONE, better, is_accuracy
from stable_ssl.loggers.table import Table, render
from stable_ssl.recorded import is_run_folder
from stable_ssl.schema import ConfigError, nearest
from stable_ssl.tools import figures, run_keys, table_formats
from stable_ssl.tools.page import page
from stable_ssl.tools.paper_file import Column, Paper, Row
from stable_ssl.tools.paper_results import (
    MINUTES,
    Planned,
    Result,
    is_refused,
    name_of,
)
from stable_ssl.tools.paper_store import Entry, earlier, entry_of, stored
from stable_ssl.tools.seed_statistics import INTERVALS, Sample, sample
from stable_ssl.tools.style import save
from stable_ssl.tools.table import Cell, MeanTable, mark

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IN_SHORT = ("method", "data", "seed", "status", "config", "code", "own", "checkpoint")
KINDS = ("measured", "published", "difference")


@dataclass
class Figures(Cell):
    """A cell of the table: what was measured, and what others published."""

    published: float | None = None
    without: int = 0  # finished runs that have no value
    versions: Sequence[str] = ()  # of its runs, where there is more than one of a kind

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
        results: what each of its runs came to.
        command: that made them.
        interval: std or ci95, beside each mean.
    """

    def __init__(
        self,
        paper: Paper,
        results: Mapping[Planned, Result],
        command: str,
        interval: str = "std",
    ):
        self.paper, self.results, self.command = paper, results, command
        self.finished = {
            one: result
            for one, result in results.items()
            if result.status == "finished"
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
        runs = [
            result
            for one, result in self.finished.items()
            if (one.row, one.data) == (row.title, data)
        ]
        found = sample([result.values.get(name_of(column)) for result in runs])
        return Figures(
            column.value,
            found,
            published=self.paper.published(row, data, column),
            without=len(runs) - (found.n if found else 0),
            versions=run_keys.several(result.made_by for result in runs),
        )

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
                    digits = 0 if apart is None else self.means.digits(cell)
                    text = NONE if apart is None else f"{apart:+.{digits}f}"
                    line.append((text, False))
            lines.append(line)
        return lines

    @property
    def caption(self) -> str:
        """What the figures are, in a sentence or two."""
        counts = self.means.counts
        n = "n" if len(counts) > 1 else max(counts, default=0)
        spread = f"Mean ± {INTERVALS[self.means.interval]} over {n} seeds"
        about = "One run a cell" if counts == {1} else spread
        return (
            f"{about}; accuracies in per cent.{self._left_out()}"
            f"{self._without_value()}{self._mixed()}{table_formats.bold_note(self.means)}"
        )

    def _left_out(self) -> str:
        """Return a sentence, with a space before it, of runs that count in no mean."""
        others = [result.status for result in self.results.values()]
        others = [how.partition(" (")[0] for how in others if how != "finished"]
        if not others:
            return ""
        counts = ", ".join(f"{n} {how}" for how, n in sorted(Counter(others).items()))
        return f" {len(others)} of {len(self.results)} runs do not count: {counts}."

    def _without_value(self) -> str:
        """Return a sentence, with a space before it, for each column with gaps."""
        said, known = "", {name for r in self.finished.values() for name in r.metrics}
        for (data, column), cells in zip(self.columns, self._by_column(), strict=True):
            without = sum(cell.without for cell in cells)
            finished = without + sum(cell.sample.n for cell in cells if cell.sample)
            if without:
                unknown = column.value not in known
                near = nearest(column.value, known) if unknown else ""
                title = ", ".join(filter(None, [data, column.title]))
                said += f" {title}: {without} of {finished} finished runs have none"
                said += near or "."
        return said

    def _mixed(self) -> str:
        """Return a sentence, with a space before it, of means over several codes."""
        titles = [
            row.title
            for row, cells in zip(self.paper.rows, self.rows, strict=True)
            if any(cell.versions for cell in cells)
        ]
        said = " Rows whose runs are of several versions of the code: "
        return f"{said}{', '.join(titles)}." if titles else ""

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
        for one in self.runs():
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
            "caption": self.caption,
            "command": self.command,
            "overrides": self.paper.overrides,
            "data": self.paper.data,
            "rows": rows,
            "runs": self.runs(),
        }

    def runs(self) -> list[Entry]:
        """Return all runs as plain types."""
        return [entry_of(*each) for each in self.results.items()]

    # --- as a figure and a page -------------------------------------------------------

    def _drawn(self) -> Figure | None:
        """Return the figure of the first metric of training; warn if it has none."""
        for (_, column), cells in zip(self.columns, self._by_column(), strict=True):
            trained = column.at != "untrained" and column.value != MINUTES
            if trained and any(cell.sample for cell in cells):
                try:
                    with warnings.catch_warnings():  # the table has said it
                        warnings.simplefilter("ignore")
                        return self.figure(column)
                except ConfigError as error:
                    warnings.warn(f"no figure is drawn: {error}", stacklevel=3)
                    return None
        return None

    def figure(self, column: Column) -> Figure:
        """Draw a metric: means, seeds, and what was published as diamonds.

        These are of a table of one data set, where a row is one mean.
        """
        import pandas as pd

        scale = 100 if is_accuracy(column.value) else 1
        runs = pd.DataFrame(
            {
                "run": one.folder.name,
                "status": result.status,
                "method": one.row,
                "data": one.data,
                run_keys.SEED: one.seed,
                column.value: result.values[name_of(column)] / scale,
            }
            for one, result in self.finished.items()
            if result.values.get(name_of(column)) is not None
        )
        by = ["method", *["data"] * (len(self.paper.data) > 1)]
        published: dict[str, list[float]] = {}
        for row in self.paper.rows if len(by) == 1 else ():
            said = self.paper.published(row, *self.paper.data, column)
            if said is not None and row.title in set(runs["method"]):
                published[row.title] = [said]
        spread = self.means.interval
        return figures.compare(runs, column.value, by, spread, published=published)

    def write(self, out: str | Path) -> Iterator[Path]:
        """Write all forms of the table to `out`, each with its suffix; yield them.

        Runs and values that an earlier JSON had are kept in it.

        Raises:
            ConfigError: there is a JSON that is of no table.
        """
        drawn = self._drawn()
        before = stored(Path(f"{out}.json"))
        facts = {**self.as_json(), "earlier": earlier(before, self.runs())}
        texts = {
            "md": self.markdown(f"{Path(out).name}.png" if drawn else None),
            "tex": self.latex(),
            "json": json.dumps(facts, indent=1, allow_nan=False) + "\n",
        }
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        for suffix, text in texts.items():
            write_atomically(Path(f"{out}.{suffix}"), text)
            yield Path(f"{out}.{suffix}")
        if drawn:
            yield from save(drawn, out)
        kept = [one for one, r in self.results.items() if not is_refused(r.status)]
        if there := [one.folder for one in kept if is_run_folder(one.folder)]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                written = page(*there, out=f"{out}.html")
            yield written


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
        "without": cell.without,
        "versions": list(cell.versions),
        "values": list(found.values) if found else [],
        "published": cell.published,
        "difference": cell.difference,
    }
