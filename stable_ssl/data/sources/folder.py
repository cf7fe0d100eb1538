"""Images in one folder a class; split by sub-folders, text files or shares."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from stable_ssl import seeding, splits
from stable_ssl.data.fields import UNLABELLED
from stable_ssl.data.images import image_file, pil
from stable_ssl.data.index.listing import Listing, is_hidden
from stable_ssl.data.index.texts import Texts
from stable_ssl.data.sources.list_file import listed
from stable_ssl.data.sources.source import Source
from stable_ssl.schema import ConfigError, nearest

SUBSETS = ("train", "val", "test")

Samples = tuple[Tensor, Tensor, Sequence[str]]  # rows among paths, labels, paths
EMPTY = torch.empty(0, dtype=torch.int64)


class ImageFolder(Source):
    """`root/[subset/]class/any/where/image.png`, decoded when asked for.

    A subset is, whichever is there first: a folder `root/subset`; the lines of
    `root/subset.txt`, paths relative to the root, each with an optional `,class`; or a
    share of each class, drawn by `seed`. Classes are the names of the class folders of
    the whole root in alphabetical order, so that a class has one number in all subsets.
    Hidden files and folders are left out. Folders called train, val and test are
    subsets, unless `class_to_idx` names one of them and else folders of the root.

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
            Says that a folder called train is a class, or a lone folder the only one.
        labelled: False for images without classes, anywhere below the root.
        split_file: a run's `data/splits.csv`, whose subsets and class numbers replace
            those of folders, text files and shares.
        channels: rgb, grey or all; None is RGB of 8 bits, which refuses what has more
            bits or channels (see `pil.with_channels`).
        allow_empty: whether a class folder may have no images.

    Raises:
        ConfigError: folders, listed files or classes that are not there; folders that
            may be subsets or classes, where no argument says which.
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
        self.root, self.channels = Path(root), pil.check_channels(channels)
        if not self.root.is_dir():
            raise ConfigError(
                f"no image folder at {self.root}; set data.root or dataset.root"
            )
        subsets = _texts("subset", subset)
        shares = {"val": val_size, "test": test_size}
        self.include = _texts("include_filter", include_filter)
        self.exclude = _texts("exclude_filter", exclude_filter)
        _check_arguments(seed, shares, class_to_idx)
        self.labelled = labelled
        if split_file is not None:
            file = Path(split_file)
            samples, classes = splits.load(file, subsets, self.root)
            rows, labels, paths = _packed(samples)
        else:
            present = _present(self.root, subsets, class_to_idx)
            listing = Listing(self.root, present, by_class=labelled)
            classes = _numbered(listing, class_to_idx)
            if labelled:
                asked = [name for name in subsets or present if name in present]
                _refuse_without_classes(listing, asked if present else [""], present)
                if not allow_empty:
                    _refuse_empty(listing, classes)
                if class_to_idx is None:
                    _refuse_lone(listing)
            rows, labels, paths = self._samples(
                listing, classes, subsets, present, shares, seed
            )
            if not len(rows):
                tops = (str(self.root / name) for name in present or [""])
                raise ConfigError(f"no images in {', '.join(tops)}: {subset=}")
        classes = classes if labelled else {}
        super().__init__(len(rows), labels, classes, paths, self.root, rows)

    def _samples(
        self,
        listing: Listing,
        classes: Mapping[str, int],
        subsets: Sequence[str],
        present: Sequence[str],
        shares: Mapping[str, float],
        seed: int,
    ) -> Samples:
        """Return the images of subsets: by their folders, by lists, or by shares."""
        files = [self.root / f"{name}.txt" for name in subsets]
        if present:
            if missing := [name for name in subsets if name not in present]:
                raise ConfigError(
                    f"no subset folder {self.root / missing[0]}"
                    f"{nearest(missing[0], present)} (there are: {', '.join(present)})"
                )
            return self._below(listing, subsets or present, classes)
        if subsets and all(path.is_file() for path in files):
            lists = (listed(f, self.root, classes, self.labelled) for f in files)
            return _packed(sample for samples in lists for sample in samples)
        rows, labels, paths = self._below(listing, [""], classes)
        if subsets:
            chosen = self._shared(labels, classes, subsets, shares, seed)
            rows, labels = rows[chosen], labels[chosen]
        return rows, labels, paths

    def _below(
        self, listing: Listing, tops: Sequence[str], classes: Mapping[str, int]
    ) -> Samples:
        """Return the images in some tops that pass the filters, by class."""
        starts = listing.starts
        if self.labelled:
            numbers = sorted(classes.items(), key=lambda pair: pair[1])
        else:
            numbers = [("", UNLABELLED)]
        chosen = [
            (starts[top, name], label)
            for top in tops
            for name, label in numbers
            if (top, name) in starts
        ]
        counts = torch.tensor([len(part) for part, _ in chosen], dtype=torch.int64)
        first = torch.tensor([part.start for part, _ in chosen], dtype=torch.int64)
        labels = torch.tensor([label for _, label in chosen], dtype=torch.int64)
        labels = labels.repeat_interleave(counts)
        rows = (first - counts.cumsum(0) + counts).repeat_interleave(counts)
        rows += torch.arange(len(rows))
        if self.include or self.exclude:
            passing = map(self._passes, listing.below_at(rows.numpy()))
            passing = torch.tensor([*passing], dtype=torch.bool)
            rows, labels = rows[passing], labels[passing]
        return rows, labels, listing

    def _passes(self, path: str) -> bool:
        """Return whether a path below the root passes the filters."""
        name = path.replace(os.sep, "/")
        if self.include and not any(fnmatch(name, p) for p in self.include):
            return False
        return not any(fnmatch(name, pattern) for pattern in self.exclude)

    def _shared(
        self,
        labels: Tensor,
        classes: Mapping[str, int],
        subsets: Sequence[str],
        shares: Mapping[str, float],
        seed: int,
    ) -> Tensor:
        """Return which images are of subsets, of every class in the same shares."""
        for name in subsets:
            neither = f"subset={name}: {self.root} has no folder {name}, no {name}.txt"
            if name not in SUBSETS:
                raise ConfigError(
                    f"{neither}, and shares make {', '.join(SUBSETS)} only"
                )
            if name != "train" and not shares[name]:
                raise ConfigError(f"{neither}, and {name}_size is 0; set one of them")
        if sum(shares.values()) >= 1:
            raise ConfigError(f"val_size + test_size = {sum(shares.values())} of 1")
        chosen, left_out = [], []
        present, counts = labels.unique(return_counts=True)
        by_class = labels.argsort(stable=True).split(counts.tolist())
        for label, index in zip(present.tolist(), by_class, strict=True):
            index = index[seeding.permutation(len(index), seed, label)]
            val, test = (round(share * len(index)) for share in shares.values())
            parts = index.split([len(index) - val - test, val, test])
            split = dict(zip(SUBSETS, parts, strict=True))
            left_out += [label for name in subsets if not len(split[name])][:1]
            chosen += [split[name] for name in subsets]
        if left_out and self.labelled:
            named = {number: name for name, number in classes.items()}
            warnings.warn(
                f"{self.root}: shares of so few images leave {len(left_out)} of"
                f" {len(named)} classes out of {', '.join(subsets)},"
                f" {named[left_out[0]]} among them; choose other shares",
                stacklevel=3,
            )
        return torch.cat([EMPTY, *chosen]).sort().values

    def read(self, row: int) -> tuple[Any]:
        """Return the image of a file, as `image_file.read` does."""
        return (image_file.read(self.paths[row], self.channels),)

    def file(self, row: int) -> tuple[str, bytes]:
        """Return the suffix and the bytes of a file."""
        path = Path(self.paths[row])
        return path.suffix.lower(), path.read_bytes()


def _packed(samples: Iterable[tuple[str, int]]) -> Samples:
    """Return (path, label) of images as three sequences."""
    labels: list[int] = []

    def paths() -> Iterator[str]:
        for path, label in samples:
            labels.append(label)
            yield path

    packed = Texts.of(paths())
    return torch.arange(len(packed)), torch.tensor(labels, dtype=torch.int64), packed


def _present(
    root: Path, subsets: Sequence[str], class_to_idx: Mapping[str, int] | None
) -> list[str]:
    """Return the folders of the root that are subsets.

    Raises:
        ConfigError: there are others beside them, which may be subsets or classes, and
            no argument says so.
    """
    found = [s for s in sorted({*SUBSETS, *subsets}) if _is_folder(root, s)]
    numbered = class_to_idx or {}
    if any(s in numbered for s in found):
        if all(_is_folder(root, name) for name in numbered):
            return []
    if subsets or not found:
        return found
    if beside := folders_beside(root, found):
        raise ConfigError(
            f"{root} has {', '.join(found)}, which is what subsets are called, and"
            f" beside that {_some(beside)}; set subset to the folders that are"
            f" subsets, such as [{', '.join(found)}], or, if they are the classes, give"
            " each a number in class_to_idx"
        )
    return found


def folders_beside(root: Path, subsets: Sequence[str]) -> list[str]:
    """Return the folders of the root that are no subsets."""
    names = sorted(os.listdir(root))
    return [n for n in names if n not in subsets and _is_folder(root, n)]


def _some(names: Sequence[str]) -> str:
    """Return the first of several names, and that there are more."""
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _is_folder(root: Path, name: str) -> bool:
    """Return whether a name is that of a folder in the root that is not hidden."""
    inner = name and os.sep not in name and not is_hidden(name)
    return bool(inner) and os.path.isdir(root / name)


def _numbered(listing: Listing, given: Mapping[str, int] | None) -> dict[str, int]:
    """Return the number of each class that has a folder in any top."""
    names = sorted({name for inside in listing.classes.values() for name in inside})
    numbers = dict(given or {name: i for i, name in enumerate(names)})
    if absent := [name for name in numbers if name not in names]:
        raise ConfigError(
            f"class_to_idx names {absent[0]}, and {listing.root} has no such class"
            f"{nearest(absent[0], names)}"
        )
    return numbers


def _refuse_without_classes(
    listing: Listing, tops: Sequence[str], subsets: Sequence[str]
) -> None:
    """Refuse a folder that has none of classes: its images would be left out."""
    root = Path(listing.root)
    for top in tops:
        if listing.classes[top]:
            continue
        remedy = "set labelled: false for images without classes"
        if beside := top and folders_beside(root, subsets):
            remedy += (
                f"; or, if it is a class itself, as {_some(beside)} beside it may be,"
                " give each class a number in class_to_idx"
            )
        elif tops[1:]:
            remedy += ", or leave it out of subset"
        raise ConfigError(f"{root / top} has no class folders; {remedy}")


def _refuse_lone(listing: Listing) -> None:
    """Refuse a single class whose folder is that of the classes, rather."""
    names = {name for inside in listing.classes.values() for name in inside}
    if len(names) > 1:
        return
    inner = set()  # the folders in it
    for (top, name), rows in listing.starts.items():
        start = os.path.join(top, name)
        for number in numpy.unique(listing.folder_of[rows.start : rows.stop]):
            below = os.path.relpath(listing.folders[number], start)
            inner.add(below.partition(os.sep)[0])
    if inner and os.curdir not in inner:
        name = names.pop()
        remedy = f"set root to {Path(listing.root, name)}"
        if "" not in listing.classes:
            remedy = f"move them up, out of {name}"
        raise ConfigError(
            f"{listing.root} has one class, the folder {name}, whose images are all in"
            f" folders in it: {_some(sorted(inner))}; if those are the classes,"
            f" {remedy}, else set class_to_idx: {{{name}: 0}}"
        )


def _refuse_empty(listing: Listing, classes: Mapping[str, int]) -> None:
    """Refuse a class folder that is there and has no image of a kind that is read."""
    for (top, name), rows in listing.starts.items():
        if name in classes and not rows:
            folder = Path(listing.root, top, name)
            files = (file for _, _, files in os.walk(folder) for file in files)
            paths = (Path(name) for name in files if not is_hidden(name))
            kinds = {path.suffix.lower() or path.name for path in paths}
            raise ConfigError(
                f"the class folder {folder} has no image that is read, but"
                f" {', '.join(sorted(kinds)[:4]) or 'no files at all'}; fill or remove"
                " it, or set allow_empty: true of its dataset"
            )


def _texts(name: str, value: Any) -> list[str]:
    """Return an argument that is a text, several of them, or None, as a list."""
    values = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(values, Sequence) or not all(isinstance(v, str) for v in values):
        raise ConfigError(f"{name}={value} of an image folder: use a text or a list")
    return list(values)


def _check_arguments(seed: Any, shares: Mapping[str, Any], class_to_idx: Any) -> None:
    """Refuse arguments of a wrong type or value."""
    numbers = class_to_idx.values() if isinstance(class_to_idx, Mapping) else [None]
    checks = [
        ("seed", seed, isinstance(seed, int), "an integer"),
        (
            "class_to_idx",
            class_to_idx,
            class_to_idx is None or all(isinstance(n, int) and n >= 0 for n in numbers),
            "{class: number}, numbers from 0 on",
        ),
    ]
    for name, share in shares.items():
        fits = isinstance(share, (int, float)) and 0 <= share < 1
        checks.append((f"{name}_size", share, fits, "a number from 0 to below 1"))
    for name, value, fits, expected in checks:
        if not fits:
            raise ConfigError(f"{name}={value} of an image folder: use {expected}")
