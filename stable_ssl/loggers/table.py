"""A table of text, laid out for any terminal or log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from textwrap import wrap


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
    the first column is cut, to 8 characters at least and no two names to the same.
    """
    left_out: list[str] = []
    while table.spare and sum(_widths(table)) > width:
        left_out.insert(0, table.spare[-1])
        table = table.without(table.spare[-1])
    widths = _widths(table)
    first = [table.columns[0], *(row[0] for row in table.rows)]
    least = next(n for n in count(min(8, widths[0])) if _told_apart(first, n))
    widths[0] = max(least, widths[0] - max(0, sum(widths) - width))
    left = [i == 0 or not _numeric(column) for i, column in enumerate(_columns(table))]

    def line(cells: Sequence[str]) -> str:
        rest = zip(cells[1:], widths[1:], left[1:], strict=True)
        placed = [
            f"  {cell}".ljust(room) if to_left else cell.rjust(room)
            for cell, room, to_left in rest
        ]
        return "".join([_cut(cells[0], widths[0]).ljust(widths[0]), *placed]).rstrip()

    notes = [*table.notes]
    if left_out:
        notes.append(f"not shown for lack of room: {', '.join(left_out)}")
    body = [line(table.columns), "-" * sum(widths), *(line(row) for row in table.rows)]
    parts = [_wrapped(table.title, width), body if table.rows else []]
    parts.append([part for note in notes for part in _wrapped(note, width)])
    return "\n\n".join("\n".join(part) for part in parts if part)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 2]}.."


def _told_apart(texts: Sequence[str], room: int) -> bool:
    """Return whether texts that differ still do when they are cut."""
    return len({_cut(text, room) for text in texts}) == len(set(texts))


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
