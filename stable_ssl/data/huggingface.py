"""Datasets of the Hugging Face hub, or local files that its library reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stable_ssl.data import pil
from stable_ssl.data.fields import (
    IMAGE_NAMES,
    LABEL_NAMES,
    UNLABELLED,
    as_class,
    count_classes,
)
from stable_ssl.data.unreadable import reading
from stable_ssl.schema import ConfigError, described, nearest

KINDS = {".jsonl": "json", ".json": "json", ".csv": "csv"}  # of files, and readers
KINDS |= {".parquet": "parquet", ".arrow": "arrow"}


class HuggingFace(Dataset):
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
        ConfigError: no such dataset, split or column.
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
        try:
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
        self._name_classes(classes)
        if kinds[self.image] == "Image":  # which would drop bits, and turn some
            self.table = self.table.cast_column(self.image, _undecoded())

    def _name_classes(self, classes: Sequence[str] | None) -> None:
        """Number labels that are texts, in an order that is given or alphabetical."""
        texts = self.label and getattr(self.table.features[self.label], "dtype", "")
        if classes is not None and self.label:
            from datasets import ClassLabel

            names = ClassLabel(names=list(classes))
            if known := self.classes:  # by name, not by their numbers here
                column = [known[label] for label in self.table[self.label]]
                table = self.table.remove_columns(self.label)
                self.table = table.add_column(self.label, column)
            self.table = self.table.cast_column(self.label, names)
        elif texts == "string":
            self.table = self.table.class_encode_column(self.label)

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes, where they are known."""
        return getattr(self.table.features.get(self.label), "names", ())

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Numbers of the classes by name, where they have names."""
        return {name: number for number, name in enumerate(self.classes)}

    @property
    def num_classes(self) -> int | None:
        """How many there are, None without labels."""
        return len(self.classes) or (self.label and count_classes(self.labels)) or None

    @cached_property
    def labels(self) -> Tensor | list[Any]:
        """Labels of all samples, (N, ...), -1 without; a list of what is no tensor."""
        if self.label is None:
            return torch.full((len(self),), UNLABELLED)
        labels = [as_class(label) for label in self.table[self.label][:]]
        try:
            return torch.tensor(labels)
        except (TypeError, ValueError):
            return labels

    def subset(self, index: Tensor) -> HuggingFace:
        """Return the samples at `index` alone, (M,) int64."""
        part = object.__new__(HuggingFace)
        state = {k: v for k, v in self.__dict__.items() if k != "labels"}
        part.__dict__ = {**state, "table": self.table.select(index.tolist())}
        return part

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        name = f"{self.path}[{index}]"
        with reading(name):
            row = dict(self.table[index])
        image = row.pop(self.image)
        label = row.pop(self.label) if self.label else None
        if isinstance(image, dict) and image.keys() == {"bytes", "path"}:
            with reading(name), _opened(**image) as opened:
                image = pil.with_channels(opened, self.channels, name)
        elif isinstance(image, list):
            image = numpy.asarray(image)
            image = image.astype(numpy.float32) if image.dtype.kind == "f" else image
        return (image, label, row) if row else (image, label)


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


def _opened(bytes: bytes | None, path: str | None) -> Any:
    """Open an image of a table by PIL."""
    from PIL import Image

    return Image.open(path if bytes is None else BytesIO(bytes))


def _undecoded() -> Any:
    from datasets import Image

    return Image(decode=False)
