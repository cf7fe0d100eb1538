"""The split that a run was made on, in its folder: `data/splits.csv`.

One row an image: path below the dataset's root, class, number of the class, subset.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch.utils.data import Dataset

from stable_ssl.data.class_names import class_names, source
from stable_ssl.files import write_atomically
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
    folder: Path, datasets: Mapping[str, Dataset], data: Mapping[str, Any]
) -> None:
    """Write the splits of a run's image folders, and its group `data`, once.

    Args:
        folder: `data` in the run folder.
        datasets: by split; what is no image folder has nothing to record.
        data: resolved group `data`.

    Raises:
        ConfigError: a split differs from the one recorded by an earlier launch.
    """
    path, current = folder / FILE, _rows(datasets)
    if not current:
        return
    earlier = _read(path) if path.exists() else []
    recorded = {row.split for row in earlier}
    for split in sorted(recorded & {row.split for row in current}):
        old = {row for row in earlier if row.split == split}
        new = {row for row in current if row.split == split}
        if old != new:
            example = min(old ^ new).path
            raise ConfigError(
                f"the split {split} is not the one this run was made on: {len(new)}"
                f" images instead of {len(old)}, {example} among those that differ; if"
                f" the images are those of then, {path} is damaged: delete it;"
                " otherwise keep its split by dataset.split_file=, or choose another"
                " log.run"
            )
    rows = [*earlier, *(row for row in current if row.split not in recorded)]
    table = io.StringIO()
    csv.writer(table).writerows([FIELDS, *rows])
    params = yaml.safe_dump(dict(data), sort_keys=False)
    for file, text in ((path, table.getvalue()), (folder / "params.yaml", params)):
        try:
            write_atomically(file, text)
        except OSError as error:
            raise unwritable(file, error) from error


def _rows(datasets: Mapping[str, Dataset]) -> list[Row]:
    rows: dict[Row, None] = {}  # each once, in order
    for split, dataset in datasets.items():
        folder = source(dataset)
        if hasattr(folder, "class_to_idx") and hasattr(folder, "root"):
            classes = class_names(folder)
            for path, label in folder.samples:
                path = Path(path)
                if path.is_relative_to(folder.root):
                    path = path.relative_to(folder.root)
                path = path.as_posix()
                rows[Row(path, classes.get(label, ""), str(label), split)] = None
    return list(rows)


def _read(path: Path) -> list[Row]:
    try:
        with open(path, newline="", encoding="utf-8", errors=ESCAPED) as file:
            table = csv.DictReader(file, restval="", strict=True)
            return [Row(*(line[field] for field in FIELDS)) for line in table]
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise ConfigError(
            f"{path} is no split file of a run: {error!r}; give a whole one, or move it"
            " away if it is of this very run, which then writes it anew"
        ) from error


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
    recorded = sorted({row.split for row in rows})
    for name in subsets:
        if name not in recorded:
            raise ConfigError(
                f"{path} has no subset {name}{nearest(name, recorded)}"
                f" (it has: {', '.join(recorded)})"
            )
    samples = []
    for row in rows:
        if not subsets or row.split in subsets:
            if not (root / row.path).is_file():
                raise ConfigError(
                    f"{path} names {row.path}, and it is not below {root}"
                )
            samples.append((root / row.path, int(row.label)))
    return samples, {row.class_name: int(row.label) for row in rows if row.class_name}
