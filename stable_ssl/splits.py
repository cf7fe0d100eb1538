"""The split that a run was made on, in its folder: `data/splits.csv`.

One row an image: path below the dataset's root, class, number of the class, subset.
"""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import yaml

from stable_ssl.files import replacing, write_atomically
from stable_ssl.schema import ConfigError, nearest, unwritable

FILE = "splits.csv"
FIELDS = ("path", "class", "label", "split")
ESCAPED = "surrogateescape"  # bytes of a name that are not UTF-8


class Row(NamedTuple):
    """One image: its `FIELDS`, as texts."""

    path: str
    class_name: str
    label: str
    split: str


def record(
    folder: Path, current: Callable[[], Iterable[Row]], data: Mapping[str, Any]
) -> None:
    """Write the splits of a run's image folders, and its group `data`, once.

    Args:
        folder: `data` in the run folder.
        current: returns the images of all splits, one after the other, and is asked
            again; none where no dataset is an image folder.
        data: resolved group `data`.

    Raises:
        ConfigError: a split differs from the one recorded by an earlier launch.
    """
    path, now = folder / FILE, _hashes(current())
    if not now:
        return
    earlier = _hashes(_read(path)) if path.exists() else {}
    for split in sorted(earlier.keys() & now.keys()):
        old, new = earlier[split], now[split]
        if not numpy.array_equal(old, new):
            either = set(numpy.setxor1d(old, new).tolist())
            rows = (row for row in chain(_read(path), current()) if row.split == split)
            example = min(row.path for row in rows if hash(row) in either)
            raise ConfigError(
                f"the split {split} is not the one this run was made on: {len(new)}"
                f" images instead of {len(old)}, {example} among those that differ; if"
                f" the images are those of then, {path} is damaged: delete it;"
                " otherwise keep its split by dataset.split_file=, or choose another"
                " log.run"
            )
    params = folder / "params.yaml"
    try:
        if now.keys() - earlier.keys():
            added = (row for row in current() if row.split not in earlier)
            _write(path, chain(_read(path) if earlier else (), added))
        write_atomically(params, yaml.safe_dump(dict(data), sort_keys=False))
    except OSError as error:
        raise unwritable(folder, error) from error


def _hashes(rows: Iterable[Row]) -> dict[str, numpy.ndarray]:
    """Return a number of each row by split, each once and sorted: 8 bytes an image."""
    found: dict[str, array] = {}
    for row in rows:
        found.setdefault(row.split, array("q")).append(hash(row))
    return {split: numpy.unique(numbers) for split, numbers in found.items()}


def _write(path: Path, rows: Iterable[Row]) -> None:
    """Write a split file."""
    with replacing(path) as new:
        with open(new, "w", newline="", encoding="utf-8", errors=ESCAPED) as file:
            csv.writer(file).writerows(chain([FIELDS], rows))


def _read(path: Path) -> Iterator[Row]:
    """Yield the rows of a split file; one that was emptied has none."""
    try:
        with open(path, newline="", encoding="utf-8", errors=ESCAPED) as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, FIELDS)
            places = [header.index(field) for field in FIELDS]
            for line in filter(None, lines):
                line += [""] * (len(header) - len(line))
                yield Row(*(line[place] for place in places))
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(
            f"{path} is no split file of a run: {error!r}; give a whole one, or move it"
            " away if it is of this very run, which then writes it anew"
        ) from error


def load(
    path: Path, subsets: Sequence[str], root: Path
) -> tuple[Iterator[tuple[str, int]], dict[str, int]]:
    """Return the samples of some subsets, as they are asked for, and the classes.

    Args:
        path: of a `splits.csv`.
        subsets: names in its column `split`; none stands for all.
        root: that the paths are relative to.

    Returns:
        (path, label) of each image, and the number of each class by name.

    Raises:
        ConfigError: no such file, subset or image.
    """
    recorded, classes = set(), {}
    for row in _read(path):
        recorded.add(row.split)
        if row.class_name:
            classes[row.class_name] = int(row.label)
    for name in subsets:
        if name not in recorded:
            raise ConfigError(
                f"{path} has no subset {name}{nearest(name, sorted(recorded))}"
                f" (it has: {', '.join(sorted(recorded))})"
            )
    return _samples(path, subsets, root), classes


def _samples(
    path: Path, subsets: Sequence[str], root: Path
) -> Iterator[tuple[str, int]]:
    for row in _read(path):
        if not subsets or row.split in subsets:
            image = os.path.join(root, row.path)
            if not os.path.isfile(image):
                raise ConfigError(
                    f"{path} names {row.path}, and it is not below {root}"
                )
            yield image, int(row.label)
