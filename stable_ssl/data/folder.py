"""Images in one folder a class; split by sub-folders, text files or shares."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from stable_ssl import seeding
from stable_ssl.data import splits
from stable_ssl.schema import ConfigError, nearest

EXTENSIONS = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
SUBSETS = ("train", "val", "test")
UNLABELLED = -1

Sample = tuple[Path, int]


class Unreadable(ConfigError):
    """An image that cannot be read; the text names it."""


class ImageFolder(Dataset):
    """`root/[subset/]class/any/where/image.png`, decoded to RGB when asked for.

    A subset is, whichever is there first: a folder `root/subset`; the lines of
    `root/subset.txt`, paths relative to the root, each with an optional `,class`; or a
    share of each class, drawn by `seed`. Classes are the names of the class folders of
    the whole root in alphabetical order, so that a class has one number in all subsets.

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
    ):
        self.root = Path(root)
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
            return [(path, UNLABELLED) for path in self._images(top)]
        return [
            (path, self.class_to_idx[name])
            for name in self.classes
            for path in self._images(top / name)
        ]

    def _images(self, folder: Path) -> Iterator[Path]:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(self.root).as_posix()
            if (
                path.suffix.lower() in EXTENSIONS
                and any(fnmatch(name, pattern) for pattern in self.include)
                and not any(fnmatch(name, pattern) for pattern in self.exclude)
            ):
                yield path

    def _read_list(self, file: Path) -> list[Sample]:
        """Return the images that the lines of a text file name."""
        samples = []
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if not line.strip():
                continue
            name, _, class_name = (part.strip() for part in line.partition(","))
            path = self.root / name
            if not path.is_file():
                raise ConfigError(f"{file}, line {number}: no image at {path}")
            class_name = class_name or Path(name).parts[0]
            if self.labelled and class_name not in self.class_to_idx:
                raise ConfigError(
                    f"{file}, line {number}: no class {class_name}"
                    f"{nearest(class_name, self.classes)}"
                )
            label = self.class_to_idx[class_name] if self.labelled else UNLABELLED
            samples.append((path, label))
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

    def size(self, index: int) -> tuple[int, int]:
        """Return the (height, width) of an image, read from the head of its file."""
        with self._opened(index) as image:
            return image.size[::-1]

    def __getitem__(self, index: int) -> tuple[Any, int]:
        with self._opened(index) as image:
            return image.convert("RGB"), self.samples[index][1]

    @contextmanager
    def _opened(self, index: int) -> Iterator[Any]:
        from PIL import Image

        path = self.samples[index][0]
        try:
            with Image.open(path) as image:
                yield image
        except (OSError, SyntaxError, ValueError) as error:  # as PIL raises
            raise Unreadable(f"{path} is not a readable image: {error}") from error


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


def _folders(top: Path) -> list[str]:
    return sorted(p.name for p in top.iterdir() if p.is_dir())
