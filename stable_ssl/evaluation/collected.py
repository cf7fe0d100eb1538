"""Rows that come batch by batch: in memory, or in a file where they are many."""

from __future__ import annotations

import tempfile
from typing import BinaryIO

import numpy
import torch
from torch import Tensor

from stable_ssl.schema import ConfigError

IN_MEMORY = {"cpu": 2**29}  # bytes of a process, by its device; joining takes as many
ELSEWHERE = 2**32  # of an accelerator


class Collected:
    """Rows that are appended, and joined at the end.

    Up to `IN_MEMORY` they stay on their device. More are in a file of the folder for
    temporary ones ($TMPDIR), mapped into memory on the CPU: the kernel keeps what it
    has room for. The file has no name, so it is gone with the tensor or the process.
    """

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.bytes = 0
        self.file: BinaryIO | None = None

    def append(self, rows: Tensor) -> None:
        """Add rows (n, ...), all of one type and on one device.

        Raises:
            ConfigError: the file has no room for them.
        """
        self.parts.append(rows)
        self.bytes += rows.nbytes
        if self.bytes > IN_MEMORY.get(rows.device.type, ELSEWHERE):
            self._write()

    def _write(self) -> None:
        try:
            if self.file is None:
                self.file = tempfile.TemporaryFile()
            for part in self.parts:
                self.file.write(part.cpu().contiguous().view(torch.uint8).numpy())
            self.file.flush()
        except OSError as error:
            raise ConfigError(
                f"{self.bytes / 1e9:.1f} GB of features do not fit the folder"
                f" {tempfile.gettempdir()}: {error.strerror}; set TMPDIR to a folder"
                " with more room, or data.bank_size to fewer images"
            ) from error
        self.parts = [self.parts[-1][:0]]

    def joined(self) -> Tensor:
        """Return all rows (N, ...), of one that was appended or more."""
        if self.file is None:
            return torch.cat(self.parts)
        like = self.parts[0]
        mapped = torch.from_numpy(numpy.memmap(self.file, numpy.uint8, "r+"))
        return mapped.view(like.dtype).view(-1, *like.shape[1:])
