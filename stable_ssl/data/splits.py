"""The split that a run was made on, in its folder: `data/splits.csv`.

One row an image: path below the dataset's root, class, number of the class, subset.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from stable_ssl.data.facts import source
from stable_ssl.files import write_atomically
from stable_ssl.schema import ConfigError, nearest, unwritable

FILE = "splits.csv"
FIELDS = ("path", "class", "label", "split")

Row = tuple[str, str, str, str]


def record(folder: Path, loaders: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Write the splits of a run's image folders, and its group `data`, once.

    Args:
        folder: `data` in the run folder.
        loaders: by split; those that read no image folder have nothing to record.
        data: resolved group `data`.

    Raises:
        ConfigError: a split differs from the one recorded by an earlier launch.
    """
    path, now = folder / FILE, _rows(loaders)
    if not now:
        return
    before = _read(path) if path.exists() else []
    for split in sorted({row[3] for row in now} & {row[3] for row in before}):
        old = {row for row in before if row[3] == split}
        new = {row for row in now if row[3] == split}
        if old != new:
            example = min(old ^ new)[0]
            raise ConfigError(
                f"the split {split} is not the one this run was made on: {len(new)}"
                f" images instead of {len(old)}, {example} among those that differ; if"
                f" the images are those of then, {path} is damaged: delete it;"
                " otherwise keep its split by dataset.split_file=, or choose another"
                " log.run"
            )
    known = {row[3] for row in before}
    rows = [*before, *(row for row in now if row[3] not in known)]
    table = io.StringIO()
    csv.writer(table).writerows([FIELDS, *rows])
    params = yaml.safe_dump(dict(data), sort_keys=False)
    for file, text in ((path, table.getvalue()), (folder / "params.yaml", params)):
        try:
            write_atomically(file, text)
        except OSError as error:
            raise unwritable(file, error) from error


def _rows(loaders: Mapping[str, Any]) -> list[Row]:
    """Return the rows of all splits; bank and predict are none of the run's own."""
    rows: dict[Row, None] = {}
    for split, loader in loaders.items():
        if split in ("bank", "predict"):
            continue
        parts = getattr(loader, "loaders", {split: loader})  # of a Combined
        for name, part in parts.items():
            folder = source(part.dataset)
            if not hasattr(folder, "class_to_idx") or not hasattr(folder, "root"):
                continue
            names = {number: name for name, number in folder.class_to_idx.items()}
            own = split if name == split else f"{split}_{name}"
            for image, label in folder.samples:
                place = Path(image).relative_to(folder.root).as_posix()
                rows[place, names.get(label, ""), str(label), own] = None
    return list(rows)


def _read(path: Path) -> list[Row]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            table = csv.DictReader(file, restval="", strict=True)
            rows = [tuple(row[field] for field in FIELDS) for row in table]
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise ConfigError(
            f"{path} is no split file of a run: {error!r}; give a whole one, or move it"
            " away if it is of this very run, which then writes it anew"
        ) from error
    return rows


def load(
    path: Path, subsets: Sequence[str], root: Path
) -> tuple[list[tuple[Path, int]], dict[str, int]]:
    """Return the samples of some subsets, and the number of each class.

    Args:
        path: of a `splits.csv`.
        subsets: names in its column `split`; none stands for all.
        root: that the paths are relative to.

    Raises:
        ConfigError: no such file, subset or image.
    """
    rows = _read(path)
    known = sorted({row[3] for row in rows})
    for name in subsets:
        if name not in known:
            raise ConfigError(
                f"{path} has no subset {name}{nearest(name, known)}"
                f" (it has: {', '.join(known)})"
            )
    samples = []
    for place, _, label, split in rows:
        if not subsets or split in subsets:
            if not (root / place).is_file():
                raise ConfigError(f"{path} names {place}, and it is not below {root}")
            samples.append((root / place, int(label)))
    classes = {row[1]: int(row[2]) for row in rows if row[1]}
    return samples, classes
