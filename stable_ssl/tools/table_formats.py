"""A table of means as plain text, Markdown, CSV and LaTeX.

Names, labels and values come from run folders, which may be a stranger's: in each
format they are text, and never markup, a formula, or a command to a terminal.
"""

from __future__ import annotations

import csv as csv_module
import io
import math
from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING

from stable_ssl.loggers.names import (
    NONE,
    axis_label,
    is_accuracy,
    is_number,
    spelled,
    value_label,
)
from stable_ssl.loggers.table import Table, printable, render
from stable_ssl.tools import run_keys
from stable_ssl.tools.seed_statistics import TESTED

if TYPE_CHECKING:
    from stable_ssl.tools.table import Cell, MeanTable

MARKS = {"best": "*", "equal": "=", "": " "}
EQUAL = "what Welch's t-test at 5 % does not tell from it"
UNTESTED = f"a cell of fewer than {TESTED} runs is not tested"
MARKDOWN = str.maketrans(
    {c: rf"\{c}" for c in r"\`*[]|$#~"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
)
FORMULA = tuple("=+-@＝＋－＠")  # what a cell begins with that a spreadsheet computes
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
    legend += [UNTESTED] * ("best" in marks and _untested(table))
    columns = [*table.rows, *_joined(table, lambda key, text: f"{key}={text}", str)]
    body = [[*side, *map(marked, cells)] for side, cells in table.lines()]
    caption, notes = printable(table.caption), ["; ".join(legend)]
    return render(Table(caption, columns, body, notes=notes), width)


def markdown(table: MeanTable) -> str:
    """Return a table and its caption; the best of a column and its equals in bold."""
    header = _joined(table, value_label, axis_label)
    lines = [
        [in_markdown(text) for text in (*map(axis_label, table.rows), *header)],
        [":--"] * len(table.rows) + ["--:"] * len(header),
    ]
    for side, cells in table.lines():
        texts = map(in_markdown, map(spelled, table.rows, side))
        values = (table.text(c) for c in cells)
        bold = [f"**{t}**" if c.mark else t for c, t in zip(cells, values, strict=True)]
        lines.append([*texts, *bold])
    rows = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{rows}\n{in_markdown(_explained(table))}\n"


def csv(table: MeanTable) -> str:
    """Return a line a cell: the keys, metric, unit, mean, std, ci95, n, mark."""
    file = io.StringIO()
    writer = csv_module.writer(file, lineterminator="\n")
    facts = ("metric", "unit", "mean", "std", "ci95", "n", "mark")
    writer.writerow([*map(in_csv, (*table.rows, *table.columns)), *facts])
    for side, cells in table.lines():
        for (metric, *top), cell in zip(table.tops, cells, strict=True):
            if (sample := cell.sample) is None:
                continue
            values = (sample.mean, sample.std, sample.ci95)
            numbers = ("" if math.isnan(x) else f"{x:.6g}" for x in values)
            unit = "%" if is_accuracy(metric) else ""
            texts = map(in_csv, (*side, *top, metric))
            writer.writerow([*texts, unit, *numbers, sample.n, cell.mark])
    return file.getvalue()


def latex(table: MeanTable) -> str:
    r"""Return a `tabular` of the package booktabs, its caption as a comment."""

    def line(cells: list[str]) -> str:
        return " & ".join(cells) + r" \\"

    left, levels = len(table.rows), _levels(table)
    lines = [
        f"% {printable(_explained(table)).replace('±', '+-')}",
        r"% in the preamble: \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{'l' * left}{'r' * len(table.tops)}}}",
        r"\toprule",
    ]
    for depth in range(1, len(levels)):  # equal neighbours share a cell and a rule
        cells, rules, start = [""] * left, [], left + 1
        for texts, columns in groupby(zip(*levels[:depth], strict=True)):
            n, name = len(list(columns)), in_latex(texts[-1])
            cells.append(rf"\multicolumn{{{n}}}{{c}}{{{name}}}")
            rules.append(rf"\cmidrule(lr){{{start}-{start + n - 1}}}")
            start += n
        lines += [line(cells), " ".join(rules)]
    names = [*map(axis_label, table.rows), *levels[-1]]
    lines += [line([*map(in_latex, names)]), r"\midrule"]
    for side, cells in table.lines():
        texts = [*map(in_latex, map(spelled, table.rows, side))]
        for cell in cells:
            value = in_latex(table.text(cell))
            texts.append(rf"\textbf{{{value}}}" if cell.mark else value)
        lines.append(line(texts))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def in_markdown(text: str) -> str:
    """Return a text of one line that Markdown shows as it is."""
    return printable(text).translate(MARKDOWN)


def in_csv(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula; numbers stay numbers."""
    text = printable(text, kept="\n")
    computed = text.lstrip().startswith(FORMULA) and text != NONE
    return f"'{text}" if computed and not is_number(text) else text


def in_latex(text: str) -> str:
    """Return a text of one line that LaTeX sets as it is."""
    return printable(text).translate(LATEX)


def _joined(
    table: MeanTable, value: Callable[[str, str], str], metric: Callable[[str], str]
) -> list[str]:
    """Return a text a column: "optim.lr=0.1", or "learning rate 0.1" for print.

    It is made of lines of metrics, and lines of the values of a key.
    """
    lines = [
        [value(key, text) if key else metric(text) for text in texts]
        for key, texts in table.header()
    ]
    return [", ".join(texts) for texts in zip(*lines, strict=True)]


def _levels(table: MeanTable) -> list[list[str]]:
    """Return the lines above the columns, a key's name above values of numbers."""
    levels = []
    for key, texts in table.header():
        if not key:
            levels.append([axis_label(metric) for metric in texts])
        elif run_keys.numeric(texts):
            levels += [[axis_label(key)] * len(texts), list(texts)]
        else:
            levels.append([value_label(key, text) for text in texts])
    return levels


def _explained(table: MeanTable) -> str:
    """Return the caption, and what is bold where anything is."""
    if not any(cell.mark for cell in table.cells.values()):
        return table.caption
    equal = f", and {EQUAL}" * (max(table.counts) >= TESTED)
    untested = f"; {UNTESTED}" * _untested(table)
    return f"{table.caption} Bold: the best of a column{equal}{untested}."


def _untested(table: MeanTable) -> bool:
    """Return whether some cells are over several runs, and some over too few."""
    return max(table.counts) > 1 and min(table.counts) < TESTED
