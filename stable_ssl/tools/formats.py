"""A table of means as plain text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv as csv_module
import io
import math
from itertools import groupby
from typing import TYPE_CHECKING

from stable_ssl.loggers.names import axis_label, is_accuracy, spelled, value_label
from stable_ssl.loggers.table import Table, render
from stable_ssl.tools import keys

if TYPE_CHECKING:
    from stable_ssl.tools.table import Cell, MeanTable

MARKS = {"best": "*", "equal": "=", "": " "}
EQUAL = "what Welch's t-test at 5 % does not tell from it"
UNTESTED = "a cell of one run is not tested"
LATEX = str.maketrans(
    {c: rf"\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    | {"±": r"$\pm$", "[": "{[}", "*": "{*}"}  # \\ would take [ and * as its own
)


def text(table: MeanTable, width: int = 120) -> str:
    """Return lines of at most `width`; `*` is the best of a column, `=` its equals."""
    marks = {cell.mark for cell in table.cells.values()}

    def marked(cell: Cell) -> str:
        return table.text(cell) + f" {MARKS[cell.mark]}" * any(marks)

    legend = ["* best of its column"] * ("best" in marks)
    legend += [f"= {EQUAL}"] * ("equal" in marks)
    legend += [UNTESTED] * ("best" in marks and table.untested)
    header = _joined(table, printed=False)
    body = [[*side, *map(marked, cells)] for side, cells in table.lines()]
    columns = [*table.rows, *header]
    return render(Table(table.caption, columns, body, notes=["; ".join(legend)]), width)


def markdown(table: MeanTable) -> str:
    """Return a table and its caption; the best of a column and its equals in bold."""
    header = _joined(table, printed=True)
    lines = [
        [*map(axis_label, table.rows), *header],
        [":--"] * len(table.rows) + ["--:"] * len(header),
    ]
    for side, cells in table.lines():
        bold = [_bold(table, cell, "**{}**") for cell in cells]
        lines.append([*map(spelled, table.rows, side), *bold])
    escaped = ([text.replace("|", r"\|") for text in line] for line in lines)
    rows = "".join(f"| {' | '.join(line)} |\n" for line in escaped)
    return f"{rows}\n{_explained(table)}\n"


def csv(table: MeanTable) -> str:
    """Return a line a cell: the keys, metric, unit, mean, std, ci95, n, mark."""
    file = io.StringIO()
    writer = csv_module.writer(file, lineterminator="\n")
    facts = ("metric", "unit", "mean", "std", "ci95", "n", "mark")
    writer.writerow([*table.rows, *table.columns, *facts])
    for side, cells in table.lines():
        for (metric, *top), cell in zip(table.tops, cells, strict=True):
            if (sample := cell.sample) is None:
                continue
            spread = (sample.mean, sample.std, sample.ci95)
            numbers = ("" if math.isnan(x) else f"{x:.6g}" for x in spread)
            unit = "%" if is_accuracy(metric) else ""
            writer.writerow([*side, *top, metric, unit, *numbers, sample.n, cell.mark])
    return file.getvalue()


def latex(table: MeanTable) -> str:
    r"""Return a `tabular` of the package booktabs, its caption as a comment."""
    left, right = len(table.rows), len(table.tops)
    lines = [
        f"% {_explained(table).replace('±', '+-')}",
        r"% in the preamble: \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{'l' * left}{'r' * right}}}",
        r"\toprule",
    ]
    header = _levels(table)
    for depth in range(1, len(header)):
        lines += _spanning(list(zip(*header[:depth], strict=True)), left)
    names = [t.translate(LATEX) for t in (*map(axis_label, table.rows), *header[-1])]
    lines += [" & ".join(names) + r" \\", r"\midrule"]
    for side, cells in table.lines():
        bold = [_bold(table, cell, r"\textbf{{{}}}", LATEX) for cell in cells]
        names = [t.translate(LATEX) for t in map(spelled, table.rows, side)]
        lines.append(" & ".join([*names, *bold]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _joined(table: MeanTable, printed: bool) -> list[str]:
    """Return a text a column: "optim.lr=0.1", "learning rate 0.1" if printed."""
    lines = []
    for key, texts in table.header():
        if printed:
            lines.append(
                [value_label(key, text) if key else axis_label(text) for text in texts]
            )
        else:
            lines.append([f"{key}={text}" if key else text for text in texts])
    return [", ".join(texts) for texts in zip(*lines, strict=True)]


def _levels(table: MeanTable) -> list[list[str]]:
    """Return the lines above the columns, a key's name above values of numbers."""
    levels = []
    for key, texts in table.header():
        if not key:
            levels.append([axis_label(metric) for metric in texts])
        elif keys.numeric(texts):
            levels += [[axis_label(key)] * len(texts), list(texts)]
        else:
            levels.append([value_label(key, text) for text in texts])
    return levels


def _spanning(columns: list[tuple[str, ...]], left: int) -> list[str]:
    """Return the last level; equal neighbours share a cell with a rule below it.

    Args:
        columns: of each column, its levels so far.
        left: columns of row keys before them.
    """
    cells, rules, start = [""] * left, [], left + 1
    for levels, group in groupby(columns):
        n, text = len(list(group)), levels[-1].translate(LATEX)
        cells.append(rf"\multicolumn{{{n}}}{{c}}{{{text}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + n - 1}}}")
        start += n
    return [" & ".join(cells) + r" \\", " ".join(rules)]


def _bold(table: MeanTable, cell: Cell, face: str, escape: dict | None = None) -> str:
    """Return a cell, in a bold face where it is the best or equals it."""
    text = table.text(cell).translate(escape or {})
    return face.format(text) if cell.mark else text


def _explained(table: MeanTable) -> str:
    """Return the caption, and what is bold where anything is."""
    if not any(cell.mark for cell in table.cells.values()):
        return table.caption
    tested = f", and {EQUAL}" * table.tested
    untested = f"; {UNTESTED}" * table.untested
    return f"{table.caption} Bold: the best of a column{tested}{untested}."
