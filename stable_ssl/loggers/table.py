"""A table of text, laid out for any terminal or log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from textwrap import wrap
from unicodedata import category


@dataclass(frozen=True, repr=False)
class Table:
    """Cells of text; shows itself, in a notebook too, as `render` does."""

    title: str  # lines above the table
    columns: Sequence[str]  # names; numbers are set right, and text and the first left
    rows: Sequence[Sequence[str]]  # one cell a column
    spare: Sequence[str] = ()  # columns to leave out, the last first, for lack of room
    notes: Sequence[str] = ()  # lines below the table

    def __str__(self) -> str:
        return render(self)

    __repr__ = __str__


def printable(text: str, kept: str = "") -> str:
    r"""Return a text in which what would steer a terminal is spelled out: \x1b[2K.

    Line breaks are spelled out too, and all but letters, signs and spaces; except those
    that are `kept`.
    """
    return "".join(
        c
        if c.isprintable() or c in kept or category(c) == "Zs"
        else c.encode("unicode_escape").decode()
        for c in text
    )


def render(table: Table, width: int = 120) -> str:
    """Return a table as lines of plain text, `width` characters each where it can be.

    Of a table that is too wide the spare columns go first, and are named below it; then
    the first column is cut, to 8 characters at least and no two names to the same.
    """
    lines = [[*map(printable, line)] for line in (table.columns, *table.rows)]
    columns = list(zip(*lines, strict=True))  # a name, its cells
    spare, left_out = [*map(printable, table.spare)], []
    while spare and sum(map(_width, columns)) + 2 * len(columns) - 2 > width:
        left_out.insert(0, spare.pop())
        columns = [column for column in columns if column[0] != left_out[0]]
    first, *others = columns
    room = width - sum(_width(column) + 2 for column in others)
    full = _width(first)
    least = next(n for n in count(min(8, full)) if _distinct(first, n))
    full = max(least, min(full, room))
    texts = [[_cut(cell, full).ljust(full) for cell in first]]
    for column in others:
        right = all(map(_is_number, column[1:]))
        size = _width(column)
        texts.append(
            [f"  {cell.rjust(size) if right else cell.ljust(size)}" for cell in column]
        )
    head, *body = ["".join(cells) for cells in zip(*texts, strict=True)]
    rule = "-" * len(head)
    notes = [*table.notes]
    if left_out:
        notes.append(f"not shown for lack of room: {', '.join(left_out)}")
    parts = [
        _wrapped(table.title, width),
        [line.rstrip() for line in (head, rule, *body)] if body else [],
        [line for note in notes for line in _wrapped(note, width)],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 2]}.."


def _distinct(texts: Sequence[str], room: int) -> bool:
    """Return whether texts that differ still do when they are cut."""
    return len({_cut(text, room) for text in texts}) == len(set(texts))


def _width(column: Sequence[str]) -> int:
    return max(map(len, column))


def _is_number(cell: str) -> bool:
    return cell[:1] in "+-.0123456789" or cell in ("nan", "inf")


def _wrapped(text: str, width: int) -> list[str]:
    lines = printable(text, kept="\n").split("\n")
    return [part for line in lines for part in wrap(line, width)]
