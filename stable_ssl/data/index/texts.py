"""Many short texts, such as names of files, in two arrays: no Python object each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy
import torch

ESCAPED = "surrogateescape"  # bytes of a name that are not UTF-8
PART = 2**14  # texts that are decoded at a time
FAR = 8  # times the bytes of texts that are decoded with what lies between them


def encoded(texts: Sequence[str]) -> tuple[bytes, list[int]]:
    """Return texts one after the other as UTF-8, and the bytes of each."""
    whole = "".join(texts)
    if whole.isascii():
        return whole.encode(), [*map(len, texts)]
    parts = [text.encode("utf-8", ESCAPED) for text in texts]
    return b"".join(parts), [*map(len, parts)]


def ends_of(lengths: Any) -> numpy.ndarray:
    """Return where each of several texts ends, from the bytes of each."""
    lengths = numpy.asarray(lengths)
    large = int(lengths.sum(dtype=numpy.int64)) >= 2**31
    return lengths.cumsum(dtype=numpy.int64 if large else numpy.int32)


class Texts(Sequence[str]):
    """A sequence of texts that processes share: a text is made when it is asked for.

    Args:
        blob: the texts as UTF-8, one after the other, (bytes,) uint8.
        ends: where each ends in it, (N,) int32 or int64.
    """

    def __init__(self, blob: numpy.ndarray, ends: numpy.ndarray):
        self.blob, self.ends = blob, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Return texts as such a sequence."""
        blob, lengths = bytearray(), []
        for text in texts:
            part = text.encode("utf-8", ESCAPED)
            blob += part
            lengths.append(len(part))
        return cls(numpy.frombuffer(blob, numpy.uint8), ends_of(lengths))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        begin = int(self.ends[index - 1]) if index else 0
        part = self.blob[begin : int(self.ends[index])]
        return part.tobytes().decode("utf-8", ESCAPED)

    def __iter__(self) -> Iterator[str]:
        return self.at(numpy.arange(len(self)))

    def at(self, rows: numpy.ndarray) -> Iterator[str]:
        """Yield the texts at some rows, faster than one by one."""
        for part in numpy.array_split(rows, len(rows) // PART + 1):
            if not len(part):
                return
            ends = self.ends[part]
            begins = numpy.where(part > 0, self.ends[part - 1], 0)
            low, high = int(begins.min()), int(ends.max())
            if high - low > FAR * (ends - begins).sum():  # rows are not side by side
                yield from map(self.__getitem__, part.tolist())
                continue
            raw = self.blob[low:high].tobytes()
            text = raw.decode() if raw.isascii() else None
            places = zip((begins - low).tolist(), (ends - low).tolist(), strict=True)
            for begin, end in places:
                if text is not None:
                    yield text[begin:end]
                else:
                    yield raw[begin:end].decode("utf-8", ESCAPED)

    def __getstate__(self) -> dict[str, torch.Tensor]:
        """Return tensors, which torch hands to a worker in shared memory."""
        blob, ends = (torch.from_numpy(a) for a in (self.blob, self.ends))
        return {"blob": blob, "ends": ends}

    def __setstate__(self, state: dict[str, torch.Tensor]) -> None:
        self.blob, self.ends = state["blob"].numpy(), state["ends"].numpy()
