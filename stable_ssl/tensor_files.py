"""Files of tensors, read without executing anything: ours, torch's and safetensors.

A file of ours is what `torch.save` writes, tensors and plain Python types only, with
the SHA-256 of its bytes in the comment of the ZIP archive; so `torch.load` opens it.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from stable_ssl.schema import ConfigError, first_line

ZIP = b"PK\x03\x04"  # what a ZIP archive begins with ...
END = b"PK\x05\x06"  # ... and what its last record begins with, of ...
END_SIZE = 22  # ... as many bytes, without a comment, and which then ends with ...
NO_COMMENT = b"\x00\x00"  # ... the length of the comment
DIGEST = 64  # hexadecimal characters of SHA-256
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


def sealed(archive: io.BytesIO) -> memoryview:
    """Return what `torch.save` wrote, with its checksum as the archive's comment."""
    digest = hashlib.sha256(archive.getbuffer()).hexdigest().encode()
    archive.seek(-len(NO_COMMENT), io.SEEK_END)
    if archive.read() != NO_COMMENT:
        raise RuntimeError("torch.save wrote an archive that already has a comment")
    archive.seek(-len(NO_COMMENT), io.SEEK_END)
    archive.write(DIGEST.to_bytes(2, "little") + digest)
    return archive.getbuffer()


def unsealed(path: Path) -> bytearray:
    """Return the archive in a file of ours, after its checksum.

    Raises:
        ConfigError: there is no such file.
        CorruptCheckpoint: it is truncated, changed, or no file of ours.
    """
    content = _bytes(path)
    digest = bytes(content[-DIGEST:])
    del content[-DIGEST:]
    content[-2:] = NO_COMMENT
    archive = content.startswith(ZIP)  # torch reads other formats with less care
    if not archive or hashlib.sha256(content).hexdigest().encode() != digest:
        raise CorruptCheckpoint(f"{path} is truncated or not a stable-SSL checkpoint")
    return content


def read_sealed(path: Path, device: torch.device | str = "cpu") -> Any:
    """Read a file of ours, after its checksum; raise as `unsealed` does."""
    content = io.BytesIO(unsealed(path))
    try:
        return torch.load(content, map_location=device, weights_only=True)
    except UnpicklingError as error:
        raise CorruptCheckpoint(
            f"{path} holds more than tensors and plain values, and is not read"
        ) from error
    except Exception as error:  # whatever its bytes ask for
        raise CorruptCheckpoint(
            f"{path} has a checksum, and torch cannot read it: {first_line(error)}"
        ) from error


def read(path: Path) -> Any:
    """Read a file of anybody's, on the CPU; one of ours after its checksum.

    Returns:
        Tensors and plain values, most often in dicts.

    Raises:
        ConfigError: says what the file is, if it is not one of tensors, or that it is
            truncated, or what it holds that only code could build.
    """
    content = _bytes(path)
    if content[6:9] == b"\0\0{":  # after the length of the header, in 8 bytes
        return _safetensors(path, bytes(content))
    start = content[:256].lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, what in OTHERS.items():
        if start.startswith(magic):
            raise ConfigError(f"{path} is {what}")
    if content.startswith(ZIP) and len(content) - content.rfind(END) > END_SIZE:
        return read_sealed(path)
    return _unpickled(path, content)


def refuse_folder(path: Path) -> None:
    """Refuse a folder where a file is needed; name one in it, or in `ckpts` of it."""
    if path.is_dir():
        files = [*sorted(path.glob("*")), *sorted(path.glob("ckpts/*"))]
        such = [f", such as {file}" for file in files if file.suffix in SUFFIXES]
        raise ConfigError(
            f"{path} is a folder; give the path of a file in it{''.join(such[:1])}"
        )


def _bytes(path: Path) -> bytearray:
    refuse_folder(path)
    if not path.is_file():
        raise ConfigError(f"no checkpoint at {path}; give the path of an existing file")
    try:
        return bytearray(path.read_bytes())
    except OSError as error:
        raise CorruptCheckpoint(f"{path} cannot be read: {error.strerror}") from error


def _safetensors(path: Path, content: bytes) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CorruptCheckpoint(
            f"{path} is truncated or damaged safetensors: {first_line(error)}"
        ) from error


def _unpickled(path: Path, content: bytearray) -> Any:
    """Return what `torch.save` wrote to a file of somebody else's."""
    file = io.BytesIO(content)
    try:
        names = ["argparse.Namespace"]
        if content.startswith(ZIP):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        inert = torch.serialization.safe_globals([(Inert, name) for name in names])
        file.seek(0)
        with inert, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is refused below
            found = torch.load(file, map_location="cpu", weights_only=True)
        if isinstance(found, Inert):
            raise UnpicklingError(f"class {min(names)}")
        return found
    except Exception as error:  # whatever its bytes ask for
        text = str(error)
        if isinstance(error, UnpicklingError) and content.startswith((ZIP, PICKLE)):
            named = re.search(r"(?:GLOBAL|class|type|of) ([\w]+\.[\w.]+)", text)
            what = f", {named[1]}," if named else ""
            raise ConfigError(
                f"{path} holds more than tensors and plain values{what} which it takes"
                " code to build, and is not read; save its weights alone, where you"
                " trust it: torch.save(model.state_dict(), 'weights.pth')"
            ) from error
        if content.startswith(ZIP) and content.rfind(END) > 0:
            raise ConfigError(
                f"{path} is an archive, and not one of weights by torch.save (perhaps"
                " a program of TorchScript or torch.export, or arrays of NumPy); give"
                " the weights as safetensors or by torch.save"
            ) from error
        raise CorruptCheckpoint(
            f"{path} is truncated or no file of weights; give a state_dict by"
            " torch.save, a checkpoint, or safetensors"
        ) from error
