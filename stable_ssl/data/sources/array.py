"""Samples in numpy files, read from the disk as they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy

from stable_ssl.data.fields import as_classes
from stable_ssl.data.images.decode import as_given
from stable_ssl.data.sources.source import Source
from stable_ssl.schema import ConfigError, described


class Arrays(Source):
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
        self.file = Path(root, images)
        self.images = _load(self.file)
        y = None if labels is None else as_classes(as_given(_load(Path(root, labels))))
        if y is not None and len(y) != len(self.images):
            raise ConfigError(
                f"{images} has {len(self.images)} rows, and {labels} has {len(y)}"
            )
        super().__init__(len(self.images), y)

    @property
    def origin(self) -> str:
        """The file that rows are numbers in."""
        return str(self.file.resolve())

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker needs to open the file itself."""
        return {**self.__dict__, "images": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, images=_load(state["file"]))

    def read(self, row: int) -> tuple[numpy.ndarray]:
        """Return a copy of a row."""
        return (numpy.array(self.images[row]),)


def _load(path: Path) -> numpy.ndarray:
    """Open a file of numpy without reading it."""
    try:
        array = numpy.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no file of numpy: {described(error)}") from error
    if not isinstance(array, numpy.ndarray) or not array.ndim:
        raise ConfigError(f"{path} holds no array of rows; save one by numpy.save")
    return array
