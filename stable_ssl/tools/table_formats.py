"""A table of means as plain text, Markdown, CSV and LaTeX.

Names, labels and values come from run folders, which may be a stranger's: in each
format they are text, and never markup, a formula, or a command to a terminal.
"""

from __future__ import annotations

import csv as csv_module
import io
import math
from collections.abc import Callable, Iterable, Sequence
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

Text = tuple[str, bool]  # of a cell, and whether it is bold
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
    header = [*map(axis_label, table.rows), *_joined(table, value_label, axis_label)]
    lines = markdown_lines(len(table.rows), header, _printed(table))
    return f"{lines}\n{in_markdown(explained(table))}\n"


def markdown_lines(
    left: int, header: Sequence[str], lines: Iterable[Sequence[Text]]
) -> str:
    """Return a table of Markdown; the first `left` columns are set left."""
    rows = [
        [*map(in_markdown, header)],
        [":--"] * left + ["--:"] * (len(header) - left),
        *([_bold(in_markdown(t), b, "**{}**") for t, b in line] for line in lines),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


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
    names = [*map(axis_label, table.rows)]
    return latex_lines(names, _levels(table), _printed(table), explained(table))


def latex_lines(
    side: Sequence[str],
    levels: Sequence[Sequence[str]],
    printed: Iterable[Sequence[Text]],
    caption: str,
) -> str:
    r"""Return a `tabular` of the package booktabs, a caption as a comment.

    Args:
        side: names of the columns that are set left.
        levels: lines above the others; of all but the last, equal neighbours share one
            cell and a rule.
        printed: lines of cells.
        caption: one line.
    """

    def line(cells: list[str]) -> str:
        return " & ".join(cells) + r" \\"

    left = len(side)
    lines = [
        f"% {printable(caption).replace('±', '+-')}",
        r"% in the preamble: \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{'l' * left}{'r' * len(levels[-1])}}}",
        r"\toprule",
    ]
    for depth in range(1, len(levels)):
        cells, rules, start = [""] * left, [], left + 1
        for texts, columns in groupby(zip(*levels[:depth], strict=True)):
            n, name = len(list(columns)), in_latex(texts[-1])
            cells.append(rf"\multicolumn{{{n}}}{{c}}{{{name}}}")
            rules.append(rf"\cmidrule(lr){{{start}-{start + n - 1}}}")
            start += n
        lines += [line(cells), " ".join(rules)]
    lines += [line([*map(in_latex, (*side, *levels[-1]))]), r"\midrule"]
    for cells in printed:
        lines.append(line([_bold(in_latex(t), b, r"\textbf{{{}}}") for t, b in cells]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _bold(text: str, bold: bool, pattern: str) -> str:
    return pattern.format(text) if bold else text


def _printed(table: MeanTable) -> list[list[Text]]:
    """Return the lines of a table: values of the keys, then its cells."""
    return [
        [(text, False) for text in map(spelled, table.rows, side)]
        + [(table.text(cell), bool(cell.mark)) for cell in cells]
        for side, cells in table.lines()
    ]


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


def explained(table: MeanTable) -> str:
    """Return the caption, and what is bold where anything is."""
    return f"{table.caption}{bold_note(table)}"


def bold_note(table: MeanTable) -> str:
    """Return a sentence, with a space before it, of what is bold; empty without any."""
    if not any(cell.mark for cell in table.cells.values()):
        return ""
    equal = f", and {EQUAL}" * (max(table.counts) >= TESTED)
    untested = f"; {UNTESTED}" * _untested(table)
    return f" Bold: the best of a column{equal}{untested}."


def _untested(table: MeanTable) -> bool:
    """Return whether some cells are over several runs, and some over too few."""
    return max(table.counts) > 1 and min(table.counts) < TESTED
