"""Images in tar shards, as webdataset names them, read by their place."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy
import torch
from torch import Tensor

from stable_ssl.data.fields import check_class_names
from stable_ssl.data.images import image_file, pil
from stable_ssl.data.images.unreadable import Unreadable, reading
from stable_ssl.data.index.mapped import Mapped
from stable_ssl.data.index.paths import Paths
from stable_ssl.data.index.texts import Texts
from stable_ssl.data.sources.copies import local_copies
from stable_ssl.data.sources.shards import find_shards
from stable_ssl.data.sources.source import Source
from stable_ssl.data.sources.tar_file import BLOCK
from stable_ssl.data.sources.tar_index import NONE, tar_index
from stable_ssl.schema import ConfigError, nearest

OPEN = 128  # shards that a process keeps open
TEXTS = ("txt", "cls")  # entries that are texts
CLASSES = "classes.txt"  # beside shards: the names of the classes, one a line


class Tar(Source):
    """Samples (image, label, {other entries that are asked for}) of tar shards.

    Args:
        root: that paths of shards are relative to.
        shards: "train-{0000..0146}.tar", a pattern with * or ?, or a list of such; or
            URLs that fsspec knows, such as s3://bucket/train-{0000..0146}.tar.
        image: entry of the images, such as jpg or left.png; None: the only one of an
            image in each sample.
        label: entry of the labels, a number or name of a class each, -1 for none, or a
            field of the entry json, such as json.label; None: cls, if there is any.
        labelled: False for images without classes, whatever the entries.
        more: entries to return in a dict: json read, txt as a text, others as images,
            arrays or bytes.
        channels: rgb, grey or all; None is RGB of 8 bits, see `pil.with_channels`.
        classes: names of the classes in the order of their numbers; None: the lines of
            `classes.txt` beside the first shard, or labels that are names in
            alphabetical order.
        cache: folder for copies of remote shards; None: where indexes are.
        subset: ignored: the shards are one split, whatever a recipe below says.

    Raises:
        ConfigError: no such shards or entries, a shard that is damaged or compressed, a
            key that comes twice, a sample without a label, labels that are partly
            names and partly numbers.
    """

    def __init__(
        self,
        root: str,
        shards: str | Sequence[str],
        image: str | None = None,
        label: str | None = None,
        labelled: bool = True,
        more: Sequence[str] = (),
        channels: str | None = None,
        classes: Sequence[str] | None = None,
        cache: str | None = None,
        subset: Any = None,
    ):
        self.channels = pil.check_channels(channels)
        check_class_names(classes)
        names = find_shards(shards, Path(root))
        self.shards = local_copies(names, cache)
        self.index = tar_index(self.shards, names, label if labelled else NONE)
        self.more = [more] if isinstance(more, str) else list(more)
        for entry in (*self.more, *([image] if image else ())):
            if entry not in (there := self.index.values["entries"]):
                raise ConfigError(
                    f"{names[0]} has no entry {entry}{nearest(entry, there)} (there"
                    f" are: {', '.join(there)})"
                )
        members = _images(names, self.index, image)
        paths = Entries(str(Path(root)), names, self.index, members)
        known = self._class_names(classes)
        numbers = {name: number for number, name in enumerate(known) if name}
        labels = torch.from_numpy(numpy.array(self.index.arrays["labels"]))
        if (found := self.index.values["classes"]) and labelled:
            if absent := [name for name in found if name not in numbers]:
                raise ConfigError(
                    f"{names[0]} has the class {absent[0]}{nearest(absent[0], known)},"
                    " which classes does not name; add it, or leave classes out"
                )
            renumbered = torch.tensor([numbers[name] for name in found])
            labels = torch.where(labels < 0, labels, renumbered[labels.clamp(min=0)])
        super().__init__(len(paths), labels, numbers, paths, Path(root))
        self._files: dict[str, Any] = {}  # that are open, by path

    def _class_names(self, given: Sequence[str] | None) -> list[str]:
        """Return the names of the classes in the order of their numbers."""
        file = Path(self.shards[0]).with_name(CLASSES)
        if given is not None:
            return list(given)
        if file.is_file() and (self.index.arrays["labels"] >= 0).any():
            return file.read_text(encoding="utf-8").splitlines()
        return self.index.values["classes"]

    @property
    def blocks(self) -> Tensor:
        """The number of each sample's shard, (N,) int64."""
        return torch.from_numpy(
            self.index.arrays["shard_of"][self.rows].astype("int64")
        )

    def read(self, row: int) -> tuple[Any, ...]:
        """Return the image of a sample, and a dict of its other entries, if any."""
        image = self._entry(row, int(self.paths.members[row]))
        if not self.more:
            return (image,)
        arrays, names = self.index.arrays, self.index.values["entries"]
        first, last = arrays["first"][row : row + 2].tolist()
        places = {names[arrays["entry"][m]]: m for m in range(first, last)}
        if absent := [name for name in self.more if name not in places]:
            raise Unreadable(f"{self.paths[row]} has no {absent[0]} beside it")
        return image, {name: self._entry(row, places[name]) for name in self.more}

    def file(self, row: int) -> tuple[str, bytes]:
        """Return the suffix and the bytes of a sample's image."""
        member = int(self.paths.members[row])
        entry = self.index.values["entries"][self.index.arrays["entry"][member]]
        return f".{entry.rpartition('.')[2]}", self._bytes(row, member)

    def _entry(self, row: int, member: int) -> Any:
        """Return what a member of a sample holds."""
        name, data = self.paths.name_of(row, member), self._bytes(row, member)
        kind = name.rpartition(".")[2]
        with reading(name):
            if kind == "json":
                return json.loads(data)
            if kind in TEXTS:
                return data.decode()
        if f".{kind}" in image_file.EXTENSIONS or member == self.paths.members[row]:
            return image_file.read(name, self.channels, data)
        return data

    def _bytes(self, row: int, member: int) -> bytes:
        """Return the bytes of a member, whose header must be that of the index."""
        arrays = self.index.arrays
        path = self.shards[arrays["shard_of"][row]]
        file, size = self._open(path), int(arrays["size"][member])
        begin = int(arrays["offset"][member]) - BLOCK
        block = os.pread(file.fileno(), BLOCK + size, begin)
        check = int(arrays["check"][member]) % 2**32
        if len(block) < BLOCK + size or crc32(block[:BLOCK]) != check:
            raise ConfigError(
                f"{path} is not what it was when the run began: {self.paths[row]} is"
                " elsewhere; write shards under new names, and start again"
            )
        return block[BLOCK:]

    def _open(self, path: str) -> Any:
        """Return a shard open for reading; threads may share it."""
        if (file := self._files.get(path)) is None:
            if len(self._files) >= OPEN:  # is closed when no thread reads from it
                self._files.pop(next(iter(self._files)), None)
            file = self._files[path] = open(path, "rb", buffering=0)
        return file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}


class Entries(Paths):
    """What the images of shards are called: `shard.tar/key.jpg`.

    Args:
        root: that shards are below, or else none of them is.
        shards: their names.
        index: of `tar_index`.
        members: number of each sample's image among all members, (N,) int64.
    """

    def __init__(
        self, root: str, shards: Sequence[str], index: Mapped, members: Tensor
    ):
        prefix = os.path.join(root, "")
        below = all(name.startswith(prefix) for name in shards)
        self.root = root if below else ""
        self.shards = [name.removeprefix(prefix) if below else name for name in shards]
        self.index, self.members = index, members

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, row: int) -> str:
        return self.name_of(row, int(self.members[row]))

    def name_of(self, row: int, member: int) -> str:
        """Return the name of a member of a sample."""
        arrays = self.index.arrays
        keys = Texts(arrays["keys"], arrays["key_ends"])
        entry = self.index.values["entries"][arrays["entry"][member]]
        shard = os.path.join(self.root, self.shards[arrays["shard_of"][row]])
        return f"{shard}/{keys[row]}.{entry}"

    def below_at(self, rows: numpy.ndarray) -> Iterator[str]:
        """Yield the names of some rows, faster than one by one."""
        arrays, entries = self.index.arrays, self.index.values["entries"]
        keys = Texts(arrays["keys"], arrays["key_ends"]).at(rows)
        shards = arrays["shard_of"][rows].tolist()
        kinds = arrays["entry"][self.members.numpy()[rows]].tolist()
        for shard, key, kind in zip(shards, keys, kinds, strict=True):
            yield f"{self.shards[shard]}/{key}.{entries[kind]}"

    def are_those_of(self, other: Paths) -> bool | None:
        """Say what a row of another has to do with one of this; see `Paths`."""
        if not isinstance(other, Entries):
            return False
        if self.root == other.root and not {*self.shards} & {*other.shards}:
            return False
        return True if self.index.is_same(other.index) else None


def _images(names: Sequence[str], index: Mapped, image: str | None) -> Tensor:
    """Return the number of each sample's image among all members, (N,) int64.

    Raises:
        ConfigError: a sample has none, or several.
    """
    entries, arrays = index.values["entries"], index.arrays
    wanted = [
        number
        for number, name in enumerate(entries)
        if (name == image if image else f".{name}" in image_file.EXTENSIONS)
    ]
    found = numpy.isin(arrays["entry"], wanted)
    members = numpy.flatnonzero(found)
    first = arrays["first"]
    if not len(first) > 1:
        raise ConfigError(f"{names[0]}: there are no samples in {len(names)} shards")
    counts = numpy.add.reduceat(found, first[:-1], dtype=numpy.int64)
    if len(bad := numpy.flatnonzero(counts != 1)):
        row = int(bad[0])
        there = [entries[e] for e in arrays["entry"][first[row] : first[row + 1]]]
        key = Texts(arrays["keys"], arrays["key_ends"])[row]
        raise ConfigError(
            f"{names[arrays['shard_of'][row]]}/{key} has {counts[row]} images"
            f" (it has: {', '.join(there)}), and {len(bad) - 1:,} other samples are"
            " like that; set image of the dataset to the entry of one in each sample"
        )
    return torch.from_numpy(members)
