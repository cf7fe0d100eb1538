"""Datasets of the Hugging Face hub, or local files that its library reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

from stable_ssl.data.fields import (
    IMAGE_NAMES,
    LABEL_NAMES,
    as_class,
    check_class_names,
    number_names,
)
from stable_ssl.data.images import image_file, pil
from stable_ssl.data.images.unreadable import reading
from stable_ssl.data.sources.source import Source
from stable_ssl.schema import ConfigError, described, nearest

KINDS = {".jsonl": "json", ".json": "json", ".csv": "csv"}  # of files, and readers
KINDS |= {".parquet": "parquet", ".arrow": "arrow"}


class HuggingFace(Source):
    """Samples (image, label, {the other columns}) of a map-style dataset.

    Args:
        root: that a local `path` is relative to.
        path: a parquet, arrow, csv or json file; a folder of such, of images, or that
            `save_to_disk` wrote; or else a name on the hub.
        split: of it; a file is one.
        config: of the several that a name on the hub may have.
        image: column of the images, or of other data; None: the usual name, or the only
            one of images.
        label: column of the labels; None: the usual name, or the only one of classes.
        channels: rgb, grey or all; None is RGB, see `pil.with_channels`.
        classes: names of the classes in the order of their numbers; None: those of the
            file, or texts in alphabetical order.
        subset: another word for `split`.

    Raises:
        ConfigError: no such dataset, split or column; labels that are partly names and
            partly numbers.
    """

    def __init__(
        self,
        root: str,
        path: str,
        split: str | None = None,
        config: str | None = None,
        image: str | None = None,
        label: str | None = None,
        channels: str | None = None,
        classes: Sequence[str] | None = None,
        subset: str | None = None,
    ):
        self.path, self.channels = path, pil.check_channels(channels)
        check_class_names(classes)
        try:
            from datasets import Image

            self.table = _load(Path(root, path), path, config, split, subset)
        except ImportError as error:
            raise ConfigError(
                f"the dataset huggingface needs datasets ({error}); pip install"
                " stable-ssl[huggingface]"
            ) from error
        except (OSError, ValueError, LookupError, RuntimeError) as error:
            raise ConfigError(f"dataset.path={path}: {described(error)}") from error
        if isinstance(self.table, dict):
            raise ConfigError(
                f"dataset.path={path} has the splits {', '.join(self.table)}; set split"
                " to one of them"
            )
        kinds = {name: type(f).__name__ for name, f in self.table.features.items()}
        self.image = _column("image", image, kinds, IMAGE_NAMES, "Image")
        self.label = _column("label", label, kinds, LABEL_NAMES, "ClassLabel")
        if self.image is None:
            raise ConfigError(
                f"dataset.path={path} has the columns {', '.join(kinds)}; set image to"
                " that of the images"
            )
        super().__init__(len(self.table), *self._read_labels(classes))
        if kinds[self.image] == "Image":  # decoding would drop bits, and turn some
            self.table = self.table.cast_column(self.image, Image(decode=False))

    def _read_labels(self, given: Sequence[str] | None) -> tuple[Any, dict[str, int]]:
        """Return the labels of all rows, and the numbers of the classes by name."""
        if self.label is None:
            return None, {}
        column = self.table[self.label][:]
        if names := getattr(self.table.features[self.label], "names", ()):
            column = [None if n is None or n < 0 else names[n] for n in column]
        column = [as_class(label) for label in column]
        what = f"dataset.path={self.path}"
        labels, numbers = number_names(column, what, given or names)
        try:
            return torch.tensor(labels), numbers
        except (TypeError, ValueError):
            return labels, numbers

    def read(self, row: int) -> tuple[Any, ...]:
        """Return the image of a row, and a dict of its further columns, if any."""
        name = f"{self.path}[{row}]"
        with reading(name):
            entries = dict(self.table[row])
            entries.pop(self.label, None)
            image = entries.pop(self.image)
            if isinstance(image, dict) and image.keys() == {"bytes", "path"}:
                known = name if image["bytes"] is not None else image["path"]
                image = image_file.read(known, self.channels, image["bytes"])
        if isinstance(image, list):
            image = numpy.asarray(image)
            image = image.astype(numpy.float32) if image.dtype.kind == "f" else image
        return (image, entries) if entries else (image,)


def _load(
    local: Path, name: str, config: str | None, split: str | None, subset: str | None
) -> Any:
    """Return a table of the library `datasets`, or several by split."""
    import datasets

    datasets.disable_progress_bars()
    if local.is_file():  # is one split, whatever a recipe below calls its own
        kind, split = KINDS.get(local.suffix, local.suffix[1:]), split or "train"
        return datasets.load_dataset(kind, data_files=str(local), split=split)
    split = split or subset
    if (local / "state.json").is_file() or (local / "dataset_dict.json").is_file():
        found = datasets.load_from_disk(str(local))
        parts = found if isinstance(found, dict) else {}
        if split and split not in parts:
            there = f"there are: {', '.join(parts)}" if parts else "set split: null"
            raise LookupError(f"it has no split {split} ({there})")
        return found[split] if split else found
    if local.suffix in KINDS:  # or the hub would be asked for it
        raise FileNotFoundError(f"no file at {local}")
    return datasets.load_dataset(
        str(local) if local.is_dir() else name, config, split=split
    )


def _column(
    which: str, given: str | None, kinds: dict[str, str], usual: Sequence, kind: str
) -> str | None:
    """Return a column: as given, by its usual name, or the only one of a kind."""
    if given is not None:
        if given not in kinds:
            raise ConfigError(
                f"{which}={given} of the dataset huggingface: no such column"
                f"{nearest(given, list(kinds))} (there are: {', '.join(kinds)})"
            )
        return given
    if found := next((name for name in usual if name in kinds), None):
        return found
    of_kind = [name for name, k in kinds.items() if k == kind]
    return of_kind[0] if len(of_kind) == 1 else None
