"""Images in one folder a class; split by sub-folders, text files or shares."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from stable_ssl import seeding
from stable_ssl.data import image_file, pil, splits
from stable_ssl.data.fields import UNLABELLED
from stable_ssl.schema import ConfigError, nearest

SUBSETS = ("train", "val", "test")

Sample = tuple[Path, int]


class ImageFolder(Dataset):
    """`root/[subset/]class/any/where/image.png`, decoded when asked for.

    A subset is, whichever is there first: a folder `root/subset`; the lines of
    `root/subset.txt`, paths relative to the root, each with an optional `,class`; or a
    share of each class, drawn by `seed`. Classes are the names of the class folders of
    the whole root in alphabetical order, so that a class has one number in all subsets.
    Hidden files and folders are left out.

    Args:
        root: the folder.
        subset: one, several, or None for all there is.
        val_size: share of each class that is the subset val, where shares decide.
        test_size: likewise; what is left is train.
        seed: of the shares.
        include_filter: pattern such as "*.png", or several, one of which a path below
            the root must match.
        exclude_filter: pattern that it must not match, or several.
        class_to_idx: number of each class; classes that it leaves out are left out.
        labelled: False for images without classes, anywhere below the root.
        split_file: a run's `data/splits.csv`, whose subsets and class numbers replace
            those of folders, text files and shares.
        channels: rgb, grey or all; None is RGB of 8 bits, which refuses what has more
            bits or channels (see `pil.with_channels`).
        allow_empty: whether a class folder may have no images.

    Raises:
        ConfigError: folders, listed files or classes that are not there.
    """

    def __init__(
        self,
        root: str,
        subset: str | Sequence[str] | None = None,
        val_size: float = 0.0,
        test_size: float = 0.0,
        seed: int = 0,
        include_filter: str | Sequence[str] | None = None,
        exclude_filter: str | Sequence[str] | None = None,
        class_to_idx: Mapping[str, int] | None = None,
        labelled: bool = True,
        split_file: str | None = None,
        channels: str | None = None,
        allow_empty: bool = False,
    ):
        self.root = Path(root)
        self.channels, self.allow_empty = pil.check_channels(channels), allow_empty
        if not self.root.is_dir():
            raise ConfigError(
                f"no image folder at {self.root}; set data.root or dataset.root"
            )
        subsets = _strings("subset", subset)
        shares = {"val": val_size, "test": test_size}
        self.include = _strings("include_filter", include_filter) or ["*"]
        self.exclude = _strings("exclude_filter", exclude_filter)
        _check_arguments(seed, shares, class_to_idx)
        self.labelled = labelled
        if split_file is not None:
            recorded = splits.load(Path(split_file), subsets, self.root)
            self.samples, self.class_to_idx = recorded
            self.labelled = labelled and bool(self.class_to_idx)
            return
        present = sorted({*SUBSETS, *subsets} & {*_folders(self.root)})
        roots = [self.root / name for name in present] or [self.root]
        names = sorted({name for top in roots for name in _folders(top)})
        if labelled and not allow_empty:
            _refuse_empty([top / name for top in roots for name in names], class_to_idx)
        self.class_to_idx = dict(class_to_idx or {n: i for i, n in enumerate(names)})
        if absent := [name for name in self.class_to_idx if name not in names]:
            raise ConfigError(
                f"class_to_idx names {absent[0]}, and {self.root} has no such class"
                f"{nearest(absent[0], names)}"
            )
        if labelled and not self.class_to_idx:
            raise ConfigError(
                f"{roots[0]} has no class folders; set labelled: false for images"
                " without classes"
            )
        files = [self.root / f"{name}.txt" for name in subsets]
        if present:
            if missing := [name for name in subsets if name not in present]:
                raise ConfigError(
                    f"no subset folder {self.root / missing[0]}"
                    f"{nearest(missing[0], present)} (there are: {', '.join(present)})"
                )
            chosen = [self.root / name for name in subsets or present]
            self.samples = [sample for top in chosen for sample in self._below(top)]
        elif subsets and all(path.is_file() for path in files):
            self.samples = [
                sample for path in files for sample in self._read_list(path)
            ]
        else:
            self.samples = self._split_by_shares(subsets, shares, seed)
        if not self.samples:
            raise ConfigError(f"no images in {', '.join(map(str, roots))}: {subset=}")

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the order of their numbers."""
        return sorted(self.class_to_idx, key=self.class_to_idx.get)

    @property
    def num_classes(self) -> int | None:
        """One more than the largest number of a class, None without labels."""
        return max(self.class_to_idx.values()) + 1 if self.labelled else None

    @property
    def labels(self) -> Tensor:
        """Numbers of the images' classes, (N,) int64; -1 without."""
        return torch.tensor([label for _, label in self.samples])

    def subset(self, index: Tensor) -> ImageFolder:
        """Return the folder with the images at `index` alone, (M,) int64."""
        part = copy(self)
        part.samples = [self.samples[i] for i in index.tolist()]
        return part

    def _below(self, top: Path) -> list[Sample]:
        """Return the images below a folder that pass the filters, in order."""
        if not self.labelled:
            return [(path, UNLABELLED) for path in self._chosen(top)]
        samples = []
        for name, label in sorted(self.class_to_idx.items(), key=lambda pair: pair[1]):
            if (top / name).is_dir():  # and not only in another subset
                samples += [(path, label) for path in self._chosen(top / name)]
        return samples

    def _chosen(self, top: Path) -> list[Path]:
        """Return the images below a folder that pass the filters."""
        paths = []
        for path in sorted(filter(_is_image, _files(top))):
            name = path.relative_to(self.root).as_posix()
            if any(fnmatch(name, pattern) for pattern in self.include) and not any(
                fnmatch(name, pattern) for pattern in self.exclude
            ):
                paths.append(path)
        return paths

    def _read_list(self, file: Path) -> list[Sample]:
        """Return the images that the lines of a list name.

        A line is a path; or path and class, or its number, as two fields of a CSV file
        or with a space between them.
        """
        samples = []
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
        for number, line in enumerate(text.splitlines(), 1):
            if not (line := line.strip()):
                continue
            readings = _readings(line)
            found = [pair for pair in readings if (self.root / pair[0]).is_file()]
            name, given = (found or readings)[0]
            path = self.root / name
            if not found:
                raise ConfigError(f"{file}, line {number}: no image at {path}")
            class_name = given or _below(path, self.root).parts[0]
            if class_name not in self.class_to_idx and given.isdigit():
                numbers = {str(n): name for name, n in self.class_to_idx.items()}
                class_name = numbers.get(given, given)
            if self.labelled and class_name not in self.class_to_idx:
                raise ConfigError(
                    f"{file}, line {number}: no class {class_name}"
                    f"{nearest(class_name, self.classes)}"
                )
            label = self.class_to_idx[class_name] if self.labelled else UNLABELLED
            samples.append((self.root / _below(path, self.root), label))
        return samples

    def _split_by_shares(
        self, subsets: Sequence[str], shares: Mapping[str, float], seed: int
    ) -> list[Sample]:
        """Return subsets whose shares of the images are the same in every class."""
        samples = self._below(self.root)
        if not subsets:
            return samples
        if unknown := [name for name in subsets if name not in SUBSETS]:
            raise ConfigError(
                f"subset={unknown[0]}: {self.root} has no such folder, no"
                f" {unknown[0]}.txt, and shares make {', '.join(SUBSETS)} only"
            )
        if empty := [name for name in subsets if name != "train" and not shares[name]]:
            raise ConfigError(
                f"subset={empty[0]}: {self.root} has no folder {empty[0]}, no"
                f" {empty[0]}.txt, and {empty[0]}_size is 0; set one of them"
            )
        if sum(shares.values()) >= 1:
            raise ConfigError(f"val_size + test_size = {sum(shares.values())} of 1")
        labels = torch.tensor([label for _, label in samples])
        chosen, left_out = [], []
        for label in labels.unique().tolist():
            index = (labels == label).nonzero().flatten()
            index = index[seeding.permutation(len(index), seed, label)]
            val, test = (round(share * len(index)) for share in shares.values())
            parts = index.split([len(index) - val - test, val, test])
            split = dict(zip(SUBSETS, parts, strict=True))
            left_out += [label for name in subsets if not len(split[name])][:1]
            chosen += [split[name] for name in subsets]
        if left_out and self.labelled:
            named = {number: name for name, number in self.class_to_idx.items()}
            warnings.warn(
                f"{self.root}: shares of so few images leave {len(left_out)} of"
                f" {len(named)} classes out of {', '.join(subsets)},"
                f" {named[left_out[0]]} among them; choose other shares",
                stacklevel=3,
            )
        return [samples[i] for i in torch.cat(chosen).sort().values.tolist()]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.samples[index]
        return image_file.read(path, self.channels), label


def _strings(name: str, value: Any) -> list[str]:
    """Return an argument that is a string, several of them, or None, as a list."""
    values = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(values, Sequence) or not all(isinstance(v, str) for v in values):
        raise ConfigError(f"{name}={value} of an image folder: use a text or a list")
    return list(values)


def _check_arguments(seed: Any, shares: Mapping[str, Any], class_to_idx: Any) -> None:
    """Refuse arguments of a wrong type or value."""
    if not isinstance(seed, int):
        raise ConfigError(f"seed={seed} of an image folder: use an integer")
    for name, share in shares.items():
        if not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise ConfigError(
                f"{name}_size={share} of an image folder: use a number from 0 to"
                " below 1"
            )
    if class_to_idx is not None and not (
        isinstance(class_to_idx, Mapping)
        and all(isinstance(n, int) and n >= 0 for n in class_to_idx.values())
    ):
        raise ConfigError(
            f"class_to_idx={class_to_idx} of an image folder: use {{class: number}},"
            " numbers from 0 on"
        )


def _readings(line: str) -> list[tuple[str, str]]:
    """Return what a line of a list may be: (path, class), the class "" where none is.

    The first whose path exists is meant.
    """
    fields = [
        field.strip() for field in next(csv.reader([line], skipinitialspace=True))
    ]
    before, last = [*line.rsplit(maxsplit=1), ""][:2]  # also at a tab
    name, _, after = line.rpartition(",")
    readings = [(line, ""), (before, last), (name.strip(), after.strip())]
    return [*readings, (fields[0], fields[1] if len(fields) > 1 else "")]


def _below(path: Path, root: Path) -> Path:
    """Return a path relative to a folder; as it is where it is not below that."""
    path, root = Path(os.path.abspath(path)), Path(os.path.abspath(root))
    return path.relative_to(root) if path.is_relative_to(root) else path


def _folders(top: Path) -> list[str]:
    """Return the names of the folders in a folder, in order; hidden ones are said."""
    names = sorted(p.name for p in top.iterdir() if p.is_dir())
    if hidden := [name for name in names if _is_hidden(name)]:
        warnings.warn(
            f"{top}: ignored the hidden folders {', '.join(hidden)}", stacklevel=3
        )
    return [name for name in names if not _is_hidden(name)]


def _refuse_empty(folders: Sequence[Path], known: Mapping[str, int] | None) -> None:
    """Refuse class folders that are there and have no image of a kind that is read."""
    for folder in folders:
        if known is not None and folder.name not in known or not folder.is_dir():
            continue
        if not any(map(_is_image, _files(folder))):
            kinds = sorted(
                {path.suffix.lower() or path.name for path in _files(folder)}
            )
            found = (
                f"files of the kinds {', '.join(kinds[:4])}" if kinds else "no files"
            )
            raise ConfigError(
                f"the class folder {folder} has {found}, and no image that is read;"
                " fill or remove it, or set allow_empty: true of its dataset"
            )


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in image_file.EXTENSIONS


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder that are not hidden.

    Links to folders are followed, to each folder once.

    Raises:
        ConfigError: a link leads to a folder that it is in.
    """
    seen: set[tuple[int, int]] = set()
    for top, folders, files in os.walk(folder, followlinks=True):
        below = [Path(top, name) for name in folders if not _is_hidden(name)]
        folders.clear()
        for path in sorted(below, key=lambda path: (path.is_symlink(), path)):
            if path.is_symlink() and Path(top).resolve().is_relative_to(path.resolve()):
                raise ConfigError(
                    f"{path} is a link to a folder that it is in; remove it"
                )
            target = path.stat()
            if (place := (target.st_dev, target.st_ino)) not in seen:
                seen.add(place)
                folders.append(path.name)
        yield from (Path(top, name) for name in files if not _is_hidden(name))
