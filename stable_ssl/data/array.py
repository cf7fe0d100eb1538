"""Samples in numpy files, read from the disk as they are asked for."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stable_ssl.data.decode import as_given
from stable_ssl.data.fields import UNLABELLED, as_classes, count_classes
from stable_ssl.schema import ConfigError, described


class Arrays(Dataset):
    """Rows of `images.npy` (N, ...), with labels of `labels.npy` (N, ...).

    Args:
        root: that the paths are relative to.
        images: path of an array of images, or of any other data.
        labels: path of theirs; None: there are none.
        subset: ignored: the files are one split, whatever a recipe below says.

    Raises:
        ConfigError: no such files, or of different lengths.
    """

    def __init__(
        self, root: str, images: str, labels: str | None = None, subset: Any = None
    ):
        self.path = Path(root, images)
        self.images = _load(self.path)
        self.y = None if labels is None else numpy.array(_load(Path(root, labels)))
        self.rows = numpy.arange(len(self.images))
        if self.y is not None and len(self.y) != len(self.images):
            raise ConfigError(
                f"{images} has {len(self.images)} rows, and {labels} has {len(self.y)}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker needs to open the file itself."""
        return {**self.__dict__, "images": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, images=_load(state["path"]))

    @property
    def labels(self) -> Tensor:
        """Labels of the rows, (N, ...); -1 without."""
        if self.y is None:
            return torch.full((len(self),), UNLABELLED)
        return as_classes(as_given(self.y[self.rows]))

    @property
    def num_classes(self) -> int | None:
        """One more than the largest label; None of what numbers no classes."""
        return count_classes(self.labels)

    def subset(self, index: Tensor) -> Arrays:
        """Return the rows at `index` alone, (M,) int64."""
        part = copy(self)
        part.rows = self.rows[index.numpy()]
        return part

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        row = self.rows[index]
        return numpy.array(self.images[row]), None if self.y is None else self.y[row]


def _load(path: Path) -> numpy.ndarray:
    """Open a file of numpy without reading it."""
    try:
        array = numpy.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no file of numpy: {described(error)}") from error
    if not isinstance(array, numpy.ndarray) or not array.ndim:
        raise ConfigError(f"{path} holds no array of rows; save one by numpy.save")
    return array
