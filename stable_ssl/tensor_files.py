"""Files of tensors, read without executing anything: ours, torch's and safetensors.

A file of ours is what `torch.save` writes, tensors and plain Python types only, with
the SHA-256 of its bytes in the comment of the ZIP archive; so `torch.load` opens it.

No file is ever in memory as a whole. What is read is mapped: its pages come when they
are looked at, all processes share them, and writing to a tensor leaves the file alone.
So whoever keeps a tensor copies it. Meanwhile the file may be deleted, or replaced by a
rename, and must not be cut: the system ends a process that looks at a lost page.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, ZipFile

import torch

from stable_ssl.distributed.sharded_state import damaged, filled
from stable_ssl.schema import ConfigError, first_line

ZIP = b"PK\x03\x04"  # what a ZIP archive begins with
END = b"PK\x05\x06"  # what the last record of a ZIP archive begins with
END_SIZE = 22  # bytes of that record, if the archive has no comment
NO_COMMENT = b"\x00\x00"  # the last two of them: the length of the comment
DIGEST = 64  # hexadecimal characters of SHA-256
SEAL = DIGEST.to_bytes(2, "little")  # those two, if the comment is a digest
LONGEST = 2**16  # bytes of a comment
BLOCK = 2**20  # bytes that are written or hashed at a time, where tensors are small
PICKLE = b"\x80"  # what torch.save began with before it wrote ZIP archives
SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt", ".bin")  # of files of weights
OTHERS = {  # what a file begins with that is something else, and what it is
    b"version https://git-lfs": "a pointer of Git LFS; `git lfs pull` gets the file",
    b"<": "a page of HTML or XML, such as that of an error; download the file itself",
    b"{": "JSON; give the file of tensors that it belongs to",
    b"\x1f\x8b": "compressed by gzip; unpack it",
    b"BZh": "compressed by bzip2; unpack it",
    b"\xfd7zXZ": "compressed by xz; unpack it",
    b"\x89HDF": "HDF5, as Keras writes it; save the weights as safetensors",
    b"\x93NUMPY": "an array of NumPy; save the weights as safetensors",
}


class Inert:
    """What stands for an object of any class in a file of somebody else's.

    Beside weights there are options, of argparse or omegaconf, numbers of numpy, parts
    of a model. None of their classes is looked up, and no function of theirs is called.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        """Forget what the object was made of."""

    def __setstate__(self, state: Any) -> None:
        """Forget what it held."""


class CorruptCheckpoint(ConfigError):
    """A checkpoint that is truncated or whose bytes are not those that were written."""


class Hashing:
    """A file for `torch.save` to write to, which makes the checksum on the way.

    Args:
        file: open for writing in binary.
    """

    def __init__(self, file: BinaryIO):
        self.file, self.digest, self.end = file, hashlib.sha256(), b""
        self.error: BaseException | None = None

    def write(self, data: memoryview) -> None:
        """Write; keep an error, of a full disk, for torch would raise another."""
        if self.error is None:
            try:
                self.file.write(data)
                self.digest.update(data)
                self.end = (self.end + data[-len(NO_COMMENT) :])[-len(NO_COMMENT) :]
            except BaseException as error:
                self.error = error

    def flush(self) -> None:
        """Do nothing: the checksum is still to come."""

    def seal(self) -> None:
        """Write the checksum as the archive's comment; raise what `write` kept."""
        if self.error is not None:
            raise self.error
        if self.end != NO_COMMENT:
            raise RuntimeError("torch.save wrote an archive that already has a comment")
        self.file.seek(-len(NO_COMMENT), os.SEEK_END)
        self.file.write(SEAL + self.digest.hexdigest().encode())


def write_sealed(new: Path, value: Any) -> None:
    """Write a file of ours, of tensors and plain values, to a new path.

    Raises:
        OSError: it could not be written, and may be there in part.
    """
    with open(new, "wb", buffering=BLOCK) as file:
        hashing = Hashing(file)
        torch.save(value, hashing)
        hashing.seal()


def verify(path: Path) -> None:
    """Compare the bytes of a file of ours with its checksum, and those of its shards.

    Raises:
        ConfigError: there is no such file.
        CorruptCheckpoint: it is truncated, changed, or no file of ours.
    """
    with _opened(path) as file:
        left = os.fstat(file.fileno()).st_size - len(SEAL) - DIGEST
        digest, block = hashlib.sha256(), file.read(max(0, min(BLOCK, left)))
        archive = block.startswith(ZIP)  # torch reads other formats with less care
        while block:
            digest.update(block)
            left -= len(block)
            block = file.read(min(BLOCK, left))
        digest.update(NO_COMMENT)
        seal = file.read(len(SEAL) + DIGEST)
    if not archive or seal != SEAL + digest.hexdigest().encode():
        raise CorruptCheckpoint(f"{path} is truncated or not a stable-SSL checkpoint")
    if any(path.parent.glob("*.shards")):
        with _ours(path):
            wrong = damaged(_loaded(path), path.parent)
        if wrong:
            raise CorruptCheckpoint(f"{path}: {wrong}")


def read_sealed(
    path: Path, device: torch.device | str = "cpu", mesh: Any = None
) -> Any:
    """Read a file of ours that was verified, and the shards that it names.

    Args:
        path: of the file.
        device: of the tensors.
        mesh: as for `sharded_state.filled`.

    Raises:
        ConfigError: there is no such file.
        CorruptCheckpoint: it holds other things than we write.
    """
    refuse_missing(path)
    with _ours(path):
        return filled(_loaded(path, device), path.parent, mesh)


@contextmanager
def _ours(path: Path) -> Iterator[None]:
    """Say that a file of ours, whole by its checksum, holds other than we write."""
    try:
        yield
    except UnpicklingError as error:
        raise CorruptCheckpoint(
            f"{path} holds more than tensors and plain values, and is not read"
        ) from error
    except Exception as error:  # whatever its bytes ask for
        raise CorruptCheckpoint(
            f"{path} has a checksum, and torch cannot read it: {first_line(error)}"
        ) from error


def is_sealed(path: Path) -> bool:
    """Return whether a file is one of ours, or what damage made of one."""
    with _opened(path) as file:
        archive = file.read(len(ZIP)) == ZIP
        file.seek(-min(LONGEST + END_SIZE, os.fstat(file.fileno()).st_size), 2)
        end = file.read()
    return archive and len(end) - end.rfind(END) > END_SIZE


def read(path: Path, verified: bool = False) -> Any:
    """Read a file of anybody's, on the CPU; one of ours after its checksum.

    Args:
        path: of the file.
        verified: whether one of ours has been, as by another rank.

    Returns:
        Tensors and plain values, most often in dicts.

    Raises:
        ConfigError: says what the file is, if it is not one of tensors, or that it is
            truncated, or what it holds that only code could build.
    """
    with _opened(path) as file:
        start = file.read(256)
    if start[6:9] == b"\0\0{":  # after the length of the header, in 8 bytes
        return _safetensors(path)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, what in OTHERS.items():
        if text.startswith(magic):
            raise ConfigError(f"{path} is {what}")
    if is_sealed(path):
        if not verified:
            verify(path)
        return read_sealed(path)
    return _unpickled(path, start)


def refuse_folder(path: Path) -> None:
    """Refuse a folder where a file is needed; name one in it, or in `ckpts` of it."""
    if path.is_dir():
        files = [*sorted(path.glob("*")), *sorted(path.glob("ckpts/*"))]
        such = [f", such as {file}" for file in files if file.suffix in SUFFIXES]
        raise ConfigError(
            f"{path} is a folder; give the path of a file in it{''.join(such[:1])}"
        )


def refuse_missing(path: Path) -> None:
    """Refuse a path where there is no file."""
    refuse_folder(path)
    if not path.is_file():
        raise ConfigError(f"no checkpoint at {path}; give the path of an existing file")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read; say what is wrong with it, if that cannot be done."""
    refuse_missing(path)
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise CorruptCheckpoint(f"{path} cannot be read: {error.strerror}") from error


def _loaded(path: Path, device: torch.device | str = "cpu") -> Any:
    """Return what `torch.save` wrote, mapped where that is possible."""
    if _is_as_in_memory(path):
        with suppress(RuntimeError, UnicodeError):  # of a file system, or of a name
            return torch.load(path, map_location=device, weights_only=True, mmap=True)
    with open(path, "rb") as file:
        return torch.load(file, map_location=device, weights_only=True)


def _is_as_in_memory(path: Path) -> bool:
    """Return whether a file's tensors can be mapped: it is an archive, uncompressed."""
    if path.suffix == ".safetensors":  # torch goes by the name, and it is none
        return False
    try:
        with ZipFile(path) as archive:
            return all(r.compress_type == ZIP_STORED for r in archive.infolist())
    except Exception:  # whatever its bytes ask for
        return False


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CorruptCheckpoint(
            f"{path} is truncated or damaged safetensors: {first_line(error)}"
        ) from error


def _unpickled(path: Path, start: bytes) -> Any:
    """Return what `torch.save` wrote to a file of somebody else's.

    Args:
        path: of the file.
        start: its first bytes.
    """
    archive = start.startswith(ZIP)
    try:
        names = ["argparse.Namespace"]
        if archive:
            with open(path, "rb") as file:
                unsafe = torch.serialization.get_unsafe_globals_in_checkpoint
                names = unsafe(file)
        inert = torch.serialization.safe_globals([(Inert, name) for name in names])
        with inert, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is refused below
            found = _loaded(path)
        if isinstance(found, Inert):
            raise UnpicklingError(f"class {min(names)}")
        return found
    except Exception as error:  # whatever its bytes ask for
        text = str(error)
        if isinstance(error, UnpicklingError) and start.startswith((ZIP, PICKLE)):
            named = re.search(r"(?:GLOBAL|class|type|of) ([\w]+\.[\w.]+)", text)
            what = f", {named[1]}," if named else ""
            raise ConfigError(
                f"{path} holds more than tensors and plain values{what} which it takes"
                " code to build, and is not read; save its weights alone, where you"
                " trust it: torch.save(model.state_dict(), 'weights.pth')"
            ) from error
        if archive and len(start) > END_SIZE:
            raise ConfigError(
                f"{path} is an archive, and not one of weights by torch.save (perhaps"
                " a program of TorchScript or torch.export, or arrays of NumPy); give"
                " the weights as safetensors or by torch.save"
            ) from error
        raise CorruptCheckpoint(
            f"{path} is truncated or no file of weights; give a state_dict by"
            " torch.save, a checkpoint, or safetensors"
        ) from error
