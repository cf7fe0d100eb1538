"""A table of text, laid out for any terminal or log."""

from __future__ import annotations

from collections.abc import Sequence
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


def render(table: Table, width: int = 120) -> str:
    """Return a table as lines of plain text, `width` characters each where it can be.

    Of a table that is too wide the spare columns go first, and are named below it; then
    the first column is cut, to 8 characters at least and no two names to the same.
    """
    columns = list(zip(table.columns, *table.rows, strict=True))  # a name, its cells
    spare, left_out = list(table.spare), []
    while spare and sum(_widths(columns)) > width:
        left_out.insert(0, spare.pop())
        columns = [column for column in columns if column[0] != left_out[0]]
    first, *others = columns
    room, *widths = _widths(columns)
    least = next(n for n in count(min(8, room)) if _told_apart(first, n))
    room = max(least, room - max(0, room + sum(widths) - width))
    texts = [[_cut(cell, room).ljust(room) for cell in first]]
    for column, size in zip(others, widths, strict=True):
        right = all(map(_is_number, column[1:]))
        texts.append(
            [cell.rjust(size) if right else f"  {cell}".ljust(size) for cell in column]
        )
    head, *body = ["".join(cells).rstrip() for cells in zip(*texts, strict=True)]
    notes = [*table.notes]
    if left_out:
        notes.append(f"not shown for lack of room: {', '.join(left_out)}")
    parts = [
        _wrapped(table.title, width),
        [head, "-" * (room + sum(widths)), *body] if body else [],
        [line for note in notes for line in _wrapped(note, width)],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 2]}.."


def _told_apart(texts: Sequence[str], room: int) -> bool:
    """Return whether texts that differ still do when they are cut."""
    return len({_cut(text, room) for text in texts}) == len(set(texts))


def _widths(columns: Sequence[Sequence[str]]) -> list[int]:
    """Return the width of each column, two spaces before all but the first."""
    return [max(map(len, cells)) + 2 * (i > 0) for i, cells in enumerate(columns)]


def _is_number(cell: str) -> bool:
    return cell[:1] in "+-.0123456789" or cell in ("nan", "inf")


def _wrapped(text: str, width: int) -> list[str]:
    return [part for line in text.splitlines() for part in wrap(line, width)]
