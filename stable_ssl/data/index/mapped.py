"""An index: arrays and plain values in one file, which all processes map and share.

The file is a line that names the format, the length of a header, the header as JSON
(`values`, and of each array its type, shape and place), and the arrays. Its pages come
when they are looked at. Nothing in it is executed.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch

MAGIC = b"stable-SSL index 2\n"  # with the number of the format
ALIGNED = 64  # bytes; arrays begin at a multiple of it


class Mapped:
    """The values and arrays of an index.

    Pickled, it is the path of its file; without a file, tensors in shared memory.

    Args:
        values: what JSON can hold.
        arrays: by name.
        path: of the file that they are mapped from; None: they are in memory.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        arrays: Mapping[str, numpy.ndarray],
        path: Path | None = None,
    ):
        self.values, self.arrays, self.path = dict(values), dict(arrays), path

    def is_same(self, other: Mapped) -> bool:
        """Return whether another is of the same file, or this very object."""
        return self is other or (self.path is not None and self.path == other.path)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker needs to map the file itself."""
        if self.path is not None:
            return {"path": self.path}
        tensors = {name: torch.from_numpy(a) for name, a in self.arrays.items()}
        return {"path": None, "values": self.values, "tensors": tensors}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["path"] is not None:
            self.__dict__ = opened(state["path"]).__dict__
            return
        arrays = {name: tensor.numpy() for name, tensor in state["tensors"].items()}
        self.__init__(state["values"], arrays)


def write(
    new: Path, values: Mapping[str, Any], arrays: Mapping[str, numpy.ndarray]
) -> None:
    """Write an index to a new path; the same bytes for the same content.

    Raises:
        OSError: it could not be written, and may be there in part.
    """
    places, begin = {}, 0
    for name, array in arrays.items():
        places[name] = [array.dtype.str, list(array.shape), begin]
        begin += -(-array.nbytes // ALIGNED) * ALIGNED
    header = json.dumps({"values": values, "arrays": places}).encode()
    header += b" " * (-(len(MAGIC) + 8 + len(header)) % ALIGNED)
    with open(new, "wb") as file:
        file.write(MAGIC + len(header).to_bytes(8, "little") + header)
        for array in arrays.values():
            file.write(numpy.ascontiguousarray(array).data.cast("B"))
            file.write(b"\0" * (-array.nbytes % ALIGNED))


def opened(path: Path) -> Mapped:
    """Map an index.

    Raises:
        OSError: there is no such file.
        ValueError: it is none of this format, or truncated.
    """
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path} is no index of this format")
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    first = len(MAGIC) + 8 + length
    arrays = {
        name: numpy.frombuffer(memory, kind, math.prod(shape), first + begin).reshape(
            shape
        )
        for name, (kind, shape, begin) in header["arrays"].items()
    }
    return Mapped(header["values"], arrays, path)
