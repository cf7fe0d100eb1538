"""What a source of samples tells besides them: labels, classes, files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from stable_ssl.data.fields import UNLABELLED, count_classes
from stable_ssl.data.index.paths import Paths
from stable_ssl.data.index.texts import Texts
from stable_ssl.schema import ConfigError, nearest
from stable_ssl.splits import Row


class Source(Dataset):
    """Rows of a folder, a file or of memory; a subclass writes `read`.

    It draws nothing at random and knows nothing of views.

    Args:
        size: how many rows there are.
        labels: of the rows, a tensor (N, ...), negative where there is none; a list of
            what is no tensor; None: there are none.
        class_to_idx: numbers of the classes by name, where they have names.
        paths: of the rows' files, where each has one.
        root: folder that the files are in, whatever part of it this is.
        rows: that the samples are read from, (size,) int64; None: one after the other.
    """

    origin: str | None = None  # of the rows, where other datasets may be of it, too

    def __init__(
        self,
        size: int,
        labels: Tensor | Sequence[Any] | None = None,
        class_to_idx: Mapping[str, int] | None = None,
        paths: Sequence[str] | None = None,
        root: Path | None = None,
        rows: Tensor | None = None,
    ):
        self.rows = torch.arange(size) if rows is None else rows
        self.labels = torch.full((size,), UNLABELLED) if labels is None else labels
        self.class_to_idx = dict(class_to_idx or {})
        self.paths, self.root = paths, root

    def read(self, row: int) -> tuple[Any, ...]:
        """Return the image of a row, and whatever else there is beside its label."""
        raise NotImplementedError

    def file(self, row: int) -> tuple[str, bytes] | None:
        """Return the suffix and the bytes of a row's file; None where it has none."""
        return None

    @property
    def origin_rows(self) -> Tensor:
        """The number of each sample in `origin`, (N,) int64."""
        return self.rows

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the order of their numbers."""
        return sorted(self.class_to_idx, key=self.class_to_idx.get)

    @property
    def num_classes(self) -> int | None:
        """One more than the largest number of a class; None without classes.

        Raises:
            ConfigError: as of `count_classes`.
        """
        if self.class_to_idx:
            return max(self.class_to_idx.values()) + 1
        return count_classes(self.labels)

    @property
    def samples(self) -> list[tuple[Path, int]]:
        """The samples' files and labels, as of torchvision's folders; [] without files.

        Listed anew each time.
        """
        labels = self.labels.tolist() if self.paths else []
        return list(zip(map(Path, self.files()), labels, strict=True))

    def files(self) -> Iterator[str]:
        """Yield the paths of the samples' files; none where they have none."""
        if isinstance(self.paths, (Paths, Texts)):
            return self.paths.at(self.rows.numpy())
        return (
            (self.paths[row] for row in self.rows.tolist()) if self.paths else iter(())
        )

    def files_below_root(self) -> Iterator[str]:
        """Yield these paths relative to the root, those below it, with slashes."""
        if isinstance(self.paths, Paths):
            paths = self.paths.below_at(self.rows.numpy())
        else:
            prefix = os.path.join(self.root or "", "")
            paths = (path.removeprefix(prefix) for path in self.files())
        return paths if os.sep == "/" else (p.replace(os.sep, "/") for p in paths)

    def subset(self, index: Tensor) -> Source:
        """Return the samples at `index` alone, (M,) int64, of labels in a tensor."""
        part = copy(self)
        part.rows, part.labels = self.rows[index], self.labels[index]
        return part

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        label = self.labels[index]
        if isinstance(label, Tensor) and not (label.ndim or label.is_floating_point()):
            label = label.item()
        image, *more = self.read(int(self.rows[index]))
        return image, label, *more


def sample_name(dataset: Dataset, index: int) -> str:
    """Return how messages call a sample: its file, if that is known, or its number."""
    if isinstance(dataset, Source) and dataset.paths:
        return dataset.paths[int(dataset.rows[index])]
    if samples := () if isinstance(dataset, Source) else labelled_files(dataset):
        return str(samples[index][0])
    return f"{type(dataset).__name__}[{index}]"


def files_below_root(dataset: Any) -> list[str] | None:
    """Return the paths of a folder's samples below its root; None of no folder."""
    return [path for path, _ in _below_root(dataset)] or None


def recorded(datasets: Mapping[str, Dataset]) -> Iterator[Row]:
    """Yield the samples of datasets by split that are files of folders."""
    for split, dataset in datasets.items():
        names = class_names(dataset)
        for path, label in _below_root(dataset):
            yield Row(path, names.get(label, ""), str(label), split)


def _below_root(dataset: Any) -> Iterable[tuple[str, int]]:
    """Yield the path below its root and the label of each of a folder's samples."""
    root = getattr(dataset, "root", None)
    if root is None:
        return ()
    if isinstance(dataset, Source):
        if not dataset.paths:
            return ()
        return zip(dataset.files_below_root(), dataset.labels.tolist(), strict=True)
    return (
        ((p.relative_to(root) if p.is_relative_to(root) else p).as_posix(), label)
        for p, label in ((Path(path), label) for path, label in labelled_files(dataset))
    )


def labelled_files(dataset: Any) -> Sequence[tuple[Any, Any]]:
    """Return the `samples` of torchvision's folders, (path, label) each, or ()."""
    samples = getattr(dataset, "samples", None)
    if not isinstance(samples, (list, tuple)) or not samples:
        return ()
    first = samples[0]
    pair = isinstance(first, (list, tuple)) and len(first) == 2
    return samples if pair and isinstance(first[0], (str, PathLike)) else ()


def whole_of(dataset: Any) -> Any:
    """Return the dataset that a torch `Subset` is of; any other as it is."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def known_classes(dataset: Any) -> int | None:
    """Return the number of classes that any dataset states; None without one.

    Raises:
        ConfigError: it states no whole number.
    """
    dataset = whole_of(dataset)
    stated = getattr(dataset, "num_classes", None)
    if stated is None:
        classes = getattr(dataset, "classes", None)
        return None if classes is None else len(classes) or None
    stated = stated() if callable(stated) else stated
    try:
        whole = int(stated)
    except (TypeError, ValueError):
        whole = None
    if whole is None or whole != stated:
        raise ConfigError(
            f"{type(dataset).__name__}.num_classes is {stated!r}; let it be a whole"
            " number, or None"
        )
    return whole


def class_names(dataset: Dataset) -> dict[int, str]:
    """Return any dataset's names of its classes, by number; none where it has none."""
    dataset = whole_of(dataset)
    if class_to_idx := getattr(dataset, "class_to_idx", None):
        return {number: str(name) for name, number in class_to_idx.items()}
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, Mapping):
        return {number: str(name) for number, name in classes.items()}
    return {} if classes is None else dict(enumerate(map(str, classes)))


def subsets(subset: str | Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """Return the asked subsets as a list, all of them for None.

    Raises:
        ConfigError: one is not known.
    """
    names = known if subset is None else [subset] if isinstance(subset, str) else subset
    for name in names:
        if name not in known:
            raise ConfigError(
                f"subset={name} is not one of {', '.join(known)}{nearest(name, known)}"
            )
    return list(names)
