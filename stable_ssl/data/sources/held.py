"""Images in memory as one tensor: of torchvision's arrays, or of files that fit."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import torch
from torch import Tensor
from torch.utils.data import Dataset

from stable_ssl.data.fields import as_classes
from stable_ssl.data.images.decode import Decode
from stable_ssl.data.images.unreadable import Unreadable
from stable_ssl.data.sources.array import Arrays
from stable_ssl.data.sources.folder import ImageFolder
from stable_ssl.data.sources.source import Source, sample_name
from stable_ssl.data.sources.tar import Tar
from stable_ssl.schema import ConfigError

FILES = (ImageFolder, Arrays, Tar)  # datasets whose images are held where they fit


class Images(Source):
    """Images in memory.

    Args:
        images: (N, C, H, W) uint8, or float32 in [0, 1].
        labels: (N,) int64; of other tasks (N, ...).
        num_classes: of the whole dataset; None: as its names or labels say.
        origin: what else they are of, and the number of each there, (N,) int64.
        more: of `Source`.
    """

    left_out = 0  # samples of the files that could not be read

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        num_classes: int | None = None,
        origin: tuple[str | None, Tensor | None] = (None, None),
        **more,
    ):
        super().__init__(len(images), labels, **more)
        self.images, self.stated = images, num_classes
        self.origin, self._origin_rows = origin

    @property
    def origin_rows(self) -> Tensor:
        """The number of each image in `origin`, (N,) int64; its own where none is."""
        return self.rows if self._origin_rows is None else self._origin_rows

    @property
    def num_classes(self) -> int | None:
        """How many classes the whole dataset has; None without."""
        return self.stated or super().num_classes

    def read(self, row: int) -> tuple[Tensor]:
        """Return an image, (C, H, W)."""
        return (self.images[row],)

    def subset(self, index: Tensor) -> Images:
        """Return the images at `index` alone, (M,) int64."""
        return Images(
            self.images[index],
            self.labels[index],
            self.stated,
            origin=(self.origin, self.origin_rows[index]),
            class_to_idx=self.class_to_idx,
        )


def held_in_memory(
    dataset: Dataset, limit: float, skip: bool, decode: Decode
) -> Dataset:
    """Decode a folder, shards or an array once, where all images have one size and fit.

    Whether it is held depends on the files and the limit alone, not on the machine:
    held images of up to 96 pixels are augmented in float from the start, while a worker
    rounds the crop to uint8 first, and views must not differ between machines.

    Args:
        dataset: any dataset; one of another kind is returned as it is.
        limit: in GiB of decoded images; 0 never holds.
        skip: leave unreadable images out with a warning, or raise.
        decode: makes tensors of them.

    Raises:
        Unreadable: an image cannot be read, and `skip` is off.
        ConfigError: images of one size differ in channels or depth.
    """
    if not isinstance(dataset, FILES) or not limit or not len(dataset):
        return dataset
    failures: dict[int, Unreadable] = {}  # by row
    other = Event()  # a row is no image, or of another size

    def decoded(row: int) -> Tensor | None:
        try:
            entry = None if other.is_set() else dataset[row][0]
            if decode.applies(entry, False):
                return decode(entry, sample_name(dataset, row))
            other.set()
        except Unreadable as error:
            failures[row] = error
        return None

    every = range(len(dataset))
    first = next((x for x in map(decoded, every) if x is not None), None)
    if first is None and not other.is_set():
        raise Unreadable(f"no image can be read; such as {failures[0]}")
    if other.is_set() or first.nbytes * len(dataset) > limit * 2**30:
        return dataset
    images = torch.empty(len(dataset), *first.shape, dtype=first.dtype)
    read, unlike = [], []  # rows; those of its size alone
    with ThreadPoolExecutor() as pool:  # PIL decodes without Python's lock
        for row, image in enumerate(pool.map(decoded, every)):
            if image is None:
                continue
            if image.shape[1:] != first.shape[1:]:
                other.set()
            elif (len(image), image.dtype) != (len(first), first.dtype):
                unlike.append((row, image))
            else:
                images[row] = image
                read.append(row)
    if other.is_set():
        return dataset
    for row, image in unlike[:1]:
        kinds = (f"{tuple(x.shape)} of {x.dtype}" for x in (first, image))
        raise ConfigError(
            f"{sample_name(dataset, row)} is unlike the first of its dataset:"
            f" {' and '.join(kinds).replace('torch.', '')}; set channels of the dataset"
            " to rgb or grey, or convert its files to one type"
        )
    for row in sorted(failures):
        if not skip:
            raise failures[row]
        warnings.warn(f"skipped: {failures[row]}", stacklevel=2)
    part = dataset.subset(torch.tensor(read))
    held = Images(
        images if len(read) == len(images) else images[read],
        as_classes(part.labels),
        origin=(part.origin, part.origin_rows),
        class_to_idx=dataset.class_to_idx,
        paths=[*part.files()],
        root=dataset.root,
    )
    held.left_out = len(failures)
    return held
