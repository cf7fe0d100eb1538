"""The images below a folder, listed once in an index that all processes map.

Whoever adds or removes a file changes the stamp of its folder, so that a look at the
folders tells whether the index is still right.
"""

from __future__ import annotations

import os
import time
import warnings
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy

from stable_ssl.data.images import image_file
from stable_ssl.data.index.cache import (
    UNKNOWN,
    Content,
    Stamp,
    cached,
    settled,
    stamp,
    what_changed,
)
from stable_ssl.data.index.mapped import Mapped
from stable_ssl.data.index.paths import Paths
from stable_ssl.data.index.texts import Texts, encoded, ends_of
from stable_ssl.schema import ConfigError

LENGTH = numpy.dtype(numpy.uint16)  # of the bytes of a name


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is left out by its name."""
    return name.startswith(".") or name == "__MACOSX"


def is_image(name: str) -> bool:
    """Return whether a file has the name of an image that is read."""
    return os.path.splitext(name)[1].lower() in image_file.EXTENSIONS


class Listing(Paths):
    """The paths of all images below a folder, from `starts` on, one after the other.

    Within a start they are in alphabetical order. Links to folders are followed, to
    each folder once a start.

    Args:
        root: the folder.
        tops: names of folders in it; none stands for the root itself.
        by_class: whether each folder in a top is a start, or the top itself.

    Raises:
        ConfigError: a link leads to a folder that it is in.
    """

    def __init__(self, root: Path, tops: Sequence[str], by_class: bool):
        self.root = str(root)
        tops = [*tops] or [""]
        key = {
            "root": os.path.realpath(root),
            "tops": tops,
            "by_class": by_class,
            "extensions": sorted(image_file.EXTENSIONS),
        }
        scan = partial(_scan, self.root, tops, by_class)
        self._read(cached(self.root, key, self._why_stale, scan))
        for top, names in self.index.values["hidden"].items():
            warnings.warn(
                f"{Path(self.root, top)}: ignored the hidden folders"
                f" {', '.join(names)}",
                stacklevel=4,
            )
        for folder in self.index.values["unlisted"]:
            warnings.warn(
                f"left out {Path(self.root, folder)}, which cannot be listed",
                stacklevel=4,
            )

    def _read(self, index: Mapped) -> None:
        self.index, arrays = index, index.arrays
        self.names = Texts(arrays["names"], arrays["name_ends"])
        self.folders = [*Texts(arrays["folders"], arrays["folder_ends"])]
        self.folder_of = arrays["folder_of"]

    @property
    def classes(self) -> dict[str, list[str]]:
        """The names of the folders in each top, in alphabetical order."""
        return self.index.values["classes"]

    @property
    def starts(self) -> dict[tuple[str, str], range]:
        """The rows of each start, by its top and the name of its class, if any."""
        ends = self.index.values["ends"]
        rows = map(range, [0, *ends], ends)
        names = map(tuple, self.index.values["starts"])
        return dict(zip(names, rows, strict=False))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> str:
        return os.path.join(self.root, self.below(row))

    def below(self, row: int) -> str:
        """Return a path relative to the root."""
        return os.path.join(self.folders[self.folder_of[row]], self.names[row])

    def below_at(self, rows: numpy.ndarray) -> Iterator[str]:
        """Yield the paths of some rows relative to the root, faster than one by one."""
        prefixes = [os.path.join(folder, "") for folder in self.folders]
        folders = map(prefixes.__getitem__, _each(self.folder_of[rows]))
        return map(str.__add__, folders, self.names.at(rows))

    def are_those_of(self, other: Paths) -> bool | None:
        """Say what a row of another has to do with one of this; see `Paths`."""
        if not isinstance(other, Listing):
            return False
        if self.root == other.root and self.index.is_same(other.index):
            return True
        roots = sorted(os.path.join(root, "") for root in (self.root, other.root))
        return None if roots[1].startswith(roots[0]) else False

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "index": self.index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.root = state["root"]
        self._read(state["index"])

    def _why_stale(self, index: Mapped) -> str | None:
        """Say which folders have changed since they were listed."""
        folders = Texts(index.arrays["folders"], index.arrays["folder_ends"])
        paths = (os.path.join(self.root, folder) for folder in folders)
        return what_changed(paths, index)


def _each(array: numpy.ndarray) -> Iterator[int]:
    """Yield the integers of an array, without a list of all of them."""
    for part in numpy.array_split(array, len(array) // 2**14 + 1):
        yield from part.tolist()


# --- the scan -------------------------------------------------------------------------

Packed = tuple[bytes, bytes]  # names of images one after the other; bytes of each


@dataclass
class Folder:
    """The images below a folder: names of its own, and the folders between them."""

    number: int  # among the folders that were looked at
    parts: list[Packed | Folder]


class Scan:
    """What is found below a root, on the way to an index.

    Args:
        root: the folder that all paths are relative to.
    """

    def __init__(self, root: str):
        self.root = root
        self.folders: list[str] = []  # that were looked at ...
        self.stamps: list[Stamp] = []  # ... and theirs
        self.unlisted: list[str] = []
        self.names, self.lengths = bytearray(), bytearray()
        self.runs: list[tuple[int, int]] = []  # number of a folder, images that follow
        self.images = 0

    def look(self, below: str) -> int:
        """Take the stamp of a folder, before it is listed; return its number."""
        self.folders.append(below)
        self.stamps.append(stamp(os.path.join(self.root, below)))
        return len(self.folders) - 1

    def inner(self, below: str) -> tuple[list[str], list[str]]:
        """Return the names of the folders in a folder, and those of hidden ones."""
        self.look(below)
        with os.scandir(os.path.join(self.root, below)) as entries:
            names = sorted(entry.name for entry in entries if _is_folder(entry))
        hidden = [name for name in names if is_hidden(name)]
        return [name for name in names if not is_hidden(name)], hidden

    def walk(self, below: str, seen: set[tuple[int, int]]) -> Folder:
        """List a folder and those in it.

        Args:
            below: its path relative to the root.
            seen: (device, inode) of the folders that were met from this start.
        """
        found = Folder(self.look(below), [])
        files, inner = self._entries(below)
        kept = []
        for is_link, name in sorted(inner):  # which comes first must not be chance
            path = os.path.join(self.root, below, name)
            if is_link and Path(path).parent.resolve().is_relative_to(
                Path(path).resolve()
            ):
                raise ConfigError(
                    f"{path} is a link to a folder that it is in; remove it"
                )
            target = os.stat(path)
            if (place := (target.st_dev, target.st_ino)) not in seen:
                seen.add(place)
                kept.append(name)
        inside = {name: self.walk(os.path.join(below, name), seen) for name in kept}
        begin = 0
        for name in sorted(inside):
            cut = bisect(files, name)
            found.parts += [_packed(files[begin:cut]), inside[name]]
            begin = cut
        found.parts.append(_packed(files[begin:]))
        return found

    def _entries(self, below: str) -> tuple[list[str], list[tuple[bool, str]]]:
        """Return the images in a folder, in order, and (is a link, name) of folders.

        A million files are a few tenths of a second for each call made of every one.
        """
        files, inner, links = [], [], set()
        try:
            with os.scandir(os.path.join(self.root, below)) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        links.add(entry.name)
                        (inner if _is_folder(entry) else files).append(entry.name)
                    elif entry.is_dir():
                        inner.append(entry.name)
                    else:
                        files.append(entry.name)
        except OSError:  # of the moment, perhaps: it is listed again next time
            self.unlisted.append(below)
            self.stamps[-1] = UNKNOWN
        kinds = {name[name.rfind(".") :] for name in files}
        kinds = {kind for kind in kinds if is_image("x" + kind)}
        images = [
            name
            for name in files
            if name[name.rfind(".") :] in kinds and name[0] != "."
        ]
        for name in links.difference(images, inner):  # may lead to a folder later
            self.look(os.path.join(below, name))
        images.sort()
        return images, [(name in links, name) for name in inner if not is_hidden(name)]

    def add(self, folder: Folder) -> None:
        """Put the images of a folder behind those that there are."""
        parts, folder.parts = folder.parts, []  # not in memory twice
        for part in parts:
            if isinstance(part, Folder):
                self.add(part)
                continue
            names, lengths = part
            self.names += names
            self.lengths += lengths
            count = len(lengths) // LENGTH.itemsize
            self.runs.append((folder.number, count))
            self.images += count


def _scan(root: str, tops: Sequence[str], by_class: bool) -> Content:
    """Return the values and arrays of a `Listing`'s index."""
    scan, now = Scan(root), time.time_ns()
    classes, hidden, starts, ends = {}, {}, [], []
    for top in dict.fromkeys(["", *tops]):
        names, out = scan.inner(top)
        hidden |= {top: out} if out else {}
        classes |= {top: names} if top in tops else {}
    for top in tops:
        for name in classes[top] if by_class else [""]:
            scan.add(scan.walk(os.path.join(top, name) if name else top, set()))
            starts.append((top, name))
            ends.append(scan.images)
    folders = Texts.of(scan.folders)
    numbers, counts = numpy.array(scan.runs, numpy.int64).reshape(-1, 2).T
    stamps = numpy.array(scan.stamps, numpy.int64)
    arrays = {
        "stamps": settled(stamps, now),
        "folders": folders.blob,
        "folder_ends": folders.ends,
        "folder_of": numpy.repeat(numbers.astype(numpy.int32), counts),
        "name_ends": ends_of(numpy.frombuffer(scan.lengths, LENGTH)),
        "names": numpy.frombuffer(scan.names, numpy.uint8),
    }
    values = {"classes": classes, "hidden": hidden, "starts": starts, "ends": ends}
    return {**values, "unlisted": scan.unlisted}, arrays


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as links in a circle
        return False


def _packed(names: Sequence[str]) -> Packed:
    blob, lengths = encoded(names)
    return blob, numpy.array(lengths, LENGTH).tobytes()
