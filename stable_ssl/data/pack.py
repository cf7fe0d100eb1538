"""Write a dataset as tar shards, in the order of its samples or in a random one.

The bytes are a function of the dataset: no times, owners or chance. A shard is there as
a whole or not at all, so that who was killed goes on with those that are missing.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from stable_ssl import seeding
from stable_ssl.data.fields import Fields, as_class
from stable_ssl.data.images import pil
from stable_ssl.data.images.decode import Decode, as_given
from stable_ssl.data.sources.source import Source, class_names, sample_name
from stable_ssl.data.sources.tar import CLASSES
from stable_ssl.files import replacing, write_atomically
from stable_ssl.schema import ConfigError

PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # of PIL, all kept by PNG
Files = list[tuple[str, bytes]]  # entries of a sample: what comes after its key


@dataclass
class Packing:
    """What becomes of one dataset.

    Args:
        dataset: map-style.
        fields: of its samples.
        decode: how its images become tensors.
        name: of its shards: `name-0000.tar`.
        shards: how many.
        seed: of a random order; None: that of the dataset.

    Raises:
        ConfigError: it is iterable, or has fewer samples than shards.
    """

    dataset: Dataset
    fields: Fields
    decode: Decode
    name: str
    shards: int
    seed: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.dataset, IterableDataset):
            raise ConfigError(
                f"{self.name} is a {type(self.dataset).__name__}, an iterable dataset,"
                " which has no samples by number; pack a map-style one"
            )
        if not 1 <= self.shards <= len(self.dataset):
            raise ConfigError(
                f"--shards {self.shards}, but {self.name} has {len(self.dataset)}"
                " samples; use from 1 to that many"
            )

    @property
    def pattern(self) -> str:
        """The names of the shards, as the dataset `tar` takes them."""
        return f"{self.name}-{{{0:04}..{self.shards - 1:04}}}.tar"

    @property
    def keeps_files(self) -> bool:
        """Whether images are files whose bytes are kept, whatever they hold."""
        source = self.dataset if isinstance(self.dataset, Source) else None
        return source is not None and source.file(int(source.rows[0])) is not None

    def path(self, folder: Path, shard: int) -> Path:
        """Return where a shard is written."""
        return folder / f"{self.name}-{shard:04}.tar"

    def rows(self, shard: int) -> list[int]:
        """Return the samples of a shard, in order."""
        size = len(self.dataset)
        first, last = (n * size // self.shards for n in (shard, shard + 1))
        if self.seed is None:
            return list(range(first, last))
        return seeding.permutation(size, self.seed)[first:last].tolist()

    def plan(self) -> str:
        """Return what decides the bytes of the shards, as far as it is known cheaply.

        As JSON; for a folder with the names of its files, but not their content.
        """
        names, labels = hashlib.sha256(), hashlib.sha256()
        if isinstance(self.dataset, Source):
            for path in self.dataset.files_below_root():
                names.update(path.encode("utf-8", "surrogateescape") + b"\0")
            if isinstance(self.dataset.labels, Tensor):
                labels.update(self.dataset.labels.numpy().tobytes())
        plan = {
            "dataset": type(self.dataset).__name__,
            "samples": len(self.dataset),
            "shards": self.shards,
            "seed": self.seed,
            "classes": class_names(self.dataset),
            "files": names.hexdigest(),
            "labels": labels.hexdigest(),
        }
        return json.dumps(plan, indent=1) + "\n"

    def write(self, file: BinaryIO, shard: int) -> None:
        """Write a shard."""
        for row in self.rows(shard):
            for entry, content in self.entries(row):
                member = tarfile.TarInfo(f"{row:08}.{entry}")
                member.size = len(content)
                file.write(member.tobuf(tarfile.USTAR_FORMAT))
                file.write(content)
                file.write(b"\0" * (-len(content) % tarfile.BLOCKSIZE))
        file.write(b"\0" * (2 * tarfile.BLOCKSIZE))

    def entries(self, row: int) -> Files:
        """Return the files of a sample: its image, its label, and what else is JSON."""
        name = sample_name(self.dataset, row)
        if self.keeps_files:
            suffix, content = self.dataset.file(int(self.dataset.rows[row]))
            return [(suffix[1:], content), _label(int(self.dataset.labels[row]), name)]
        image, label, extras = self.fields(self.dataset[row], name)
        files = [_image(image, self.decode, name), _label(as_class(label), name)]
        if extras:
            more = extras[0] if isinstance(extras[0], dict) else list(extras)
            try:
                files.append(("json", json.dumps(more, sort_keys=True).encode()))
            except (TypeError, ValueError):
                warnings.warn(
                    f"left out what {self.name} has beside images and labels, as it is"
                    f" no JSON: {str(more):.60}",
                    stacklevel=2,
                )
        return files


def _label(label: Any, name: str) -> tuple[str, bytes]:
    if isinstance(label, (int, str)):
        return "cls", str(label).encode()
    raise ConfigError(
        f"{name} has the label {label!r:.60}; a shard takes the number or the name of"
        " a class"
    )


def _image(image: Any, decode: Decode, name: str) -> tuple[str, bytes]:
    """Return an image as PNG, where that loses nothing, and else as an array."""
    file = BytesIO()
    if pil.is_image(image):
        pil.load(image, name)
    elif decode.applies(image, False):
        image = decode(image, name)
        if image.dtype == torch.uint8 and len(image) in (1, 3):
            from torchvision.transforms.functional import to_pil_image

            image = to_pil_image(image)
    if pil.is_image(image) and image.mode in PNG_MODES:
        image.save(file, "PNG")
        return "png", file.getvalue()
    given = numpy.asarray(image) if pil.is_image(image) else as_given(image)
    array = numpy.asarray(given)
    if array.dtype.kind not in "buifc":
        raise ConfigError(
            f"{name} is a {type(image).__name__}; a shard takes an image or an array of"
            " numbers for each sample"
        )
    numpy.save(file, array, allow_pickle=False)
    return "npy", file.getvalue()


def write_shards(
    packing: Packing, folder: Path, verify: bool = False
) -> Iterator[tuple[Path, bool]]:
    """Write the shards that are missing; yield each path, and whether it was written.

    Args:
        packing: what is written.
        folder: where to.
        verify: compare those that are there, byte by byte, with what would be written.

    Raises:
        ConfigError: the folder has shards of that name of something else, or one that
            `verify` finds to differ.
        OSError: one cannot be written.
    """
    plan, record = packing.plan(), folder / f"{packing.name}.json"
    if record.exists() and record.read_text(encoding="utf-8") != plan:
        raise ConfigError(
            f"{record} is of other shards: another dataset, other files, or other"
            " --shards; choose another folder, or delete those"
        )
    write_atomically(record, plan)
    write_atomically(folder / CLASSES, _classes(packing.dataset, folder / CLASSES))
    for shard in range(packing.shards):
        path = packing.path(folder, shard)
        there = path.exists()
        if not there:
            with replacing(path) as new, open(new, "wb") as file:
                packing.write(file, shard)
        elif verify:
            with open(path, "rb") as file:
                packing.write(Comparing(file, path), shard)
                if file.read(1):
                    raise Comparing.differs(path, file.tell())
        yield path, not there


class Comparing:
    """A file to write to, which has all that already.

    Args:
        file: open for reading.
        path: of it, for messages.
    """

    def __init__(self, file: BinaryIO, path: Path):
        self.file, self.path = file, path

    def write(self, content: bytes) -> None:
        """Compare with what comes next in the file."""
        if self.file.read(len(content)) != content:
            raise self.differs(self.path, self.file.tell())

    @staticmethod
    def differs(path: Path, place: int) -> ConfigError:
        """Return the error of a shard that is not what would be written."""
        return ConfigError(
            f"{path} differs before byte {place:,} from what its dataset gives now;"
            " delete it, and pack again"
        )


def _classes(dataset: Dataset, file: Path) -> str:
    """Return the names of the classes, one a line, empty where a number has none.

    Raises:
        ConfigError: the folder has shards whose classes are others.
    """
    names = class_names(dataset)
    for name in names.values():
        if len(name.splitlines()) > 1:
            raise ConfigError(f"the class {name!r} has several lines; rename it")
    lines = [names.get(number, "") for number in range(max(names, default=-1) + 1)]
    text = "".join(f"{line}\n" for line in lines)
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise ConfigError(
            f"{file} has other classes; splits of one folder number theirs alike, by"
            " one root or one class_to_idx: choose another folder"
        )
    return text
