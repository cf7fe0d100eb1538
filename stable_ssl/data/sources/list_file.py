"""Text files that list the images of a subset, one a line."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from stable_ssl.data.fields import UNLABELLED
from stable_ssl.schema import ConfigError, nearest


def listed(
    file: Path, root: Path, class_to_idx: Mapping[str, int], labelled: bool
) -> Iterator[tuple[str, int]]:
    """Yield (path, label) of the images that the lines of a list name.

    A line is a path; or path and class, or its number, as two fields of a CSV file or
    with a space between them.

    Args:
        file: the list.
        root: that its paths are relative to.
        class_to_idx: numbers of the classes by name.
        labelled: whether the images have classes.

    Raises:
        ConfigError: names the line whose image or class is not there.
    """
    numbers = {str(number): name for name, number in class_to_idx.items()}
    text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line:
            continue
        readings, at = _readings(line), f"{file}, line {number}"
        found = (pair for pair in readings if os.path.isfile(root / pair[0]))
        name, given = next(found, (None, ""))
        if name is None:
            raise ConfigError(f"{at}: no image at {root / line}")
        inner = _below(root / name, root)
        label = given or inner.parts[0]
        if label not in class_to_idx:
            label = numbers.get(given, label)
        if labelled and label not in class_to_idx:
            raise ConfigError(f"{at}: no class {label}{nearest(label, class_to_idx)}")
        yield str(root / inner), class_to_idx[label] if labelled else UNLABELLED


def _readings(line: str) -> list[tuple[str, str]]:
    """Return what a line of a list may be: (path, class), the class "" where none is.

    The first whose path exists is meant.
    """
    before, last = [*line.rsplit(maxsplit=1), ""][:2]  # also at a tab
    name, _, after = line.rpartition(",")
    path, *rest = map(str.strip, next(csv.reader([line], skipinitialspace=True)))
    comma, fields = (name.strip(), after.strip()), (path, *(rest or [""])[:1])
    return [(line, ""), (before, last), comma, fields]


def _below(path: Path, root: Path) -> Path:
    """Return a path relative to a folder; as it is where it is not below that."""
    path, root = Path(os.path.abspath(path)), Path(os.path.abspath(root))
    return path.relative_to(root) if path.is_relative_to(root) else path
