"""The members of a tar file: where their bytes are, without reading those.

The formats are POSIX.1-1988 (ustar) and -2001 (pax), and GNU's: blocks of 512 bytes, a
header before each member, two blocks of zeros or more at the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple
from zlib import crc32

from stable_ssl.schema import ConfigError

BLOCK = 512  # bytes
FILES = b"0\x007"  # types of members that are files
LINKS, SPARSE, SKIPPED = b"12", b"S", b"3456gKVM"
COMPRESSED = {  # what a file begins with, and what unpacks it
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}


class Member(NamedTuple):
    """A file in a tar file."""

    name: str
    offset: int  # of its first byte; its header is the block before
    size: int  # bytes
    check: int  # CRC-32 of that header
    start: bytes  # at most a block of its content


def members(path: str) -> Iterator[Member]:
    """Yield the files of a tar file in order.

    Raises:
        ConfigError: it is truncated, compressed, no tar file, or has links, or anything
            but zeros after its end.
        OSError: it cannot be read.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        yield from _members(path, file, os.fstat(file).st_size)
    finally:
        os.close(file)


def _members(path: str, file: int, length: int) -> Iterator[Member]:
    position, long_name, pax = 0, None, {}
    while True:
        block = os.pread(file, 2 * BLOCK, position)
        header = block[:BLOCK]
        if len(header) < BLOCK:
            raise _truncated(path, position)
        if not any(header):
            return _check_end(path, file, position)
        if not _is_header(header):
            raise _no_header(path, header, position)
        kind = header[156:157]
        data = position + BLOCK
        size = int(pax.get("size", _number(header[124:136])))
        position = data + -(-size // BLOCK) * BLOCK
        if data + size > length:
            raise _truncated(path, position)
        if kind in FILES and "GNU.sparse.major" not in pax:
            name = long_name or pax.get("path") or _name(header)
            yield Member(name, data, size, crc32(header), block[BLOCK:][:size])
        elif kind == b"L":
            long_name = _text(os.pread(file, size, data))
            continue
        elif kind == b"x":
            pax = _records(os.pread(file, size, data))
            continue
        elif kind in LINKS:
            raise ConfigError(
                f"{path} has {_name(header)} as a link to another file; write it with"
                " tar --dereference --hard-dereference"
            )
        elif kind not in SKIPPED:
            raise ConfigError(
                f"{path} has {_name(header)}, a member of the type {kind!r}; write it"
                " with plain files, as by tar without --sparse"
            )
        if kind not in b"gK":  # which stand before the header that they extend
            long_name, pax = None, {}


def _check_end(path: str, file: int, position: int) -> None:
    """Refuse what follows the end of an archive; its padding is of any length."""
    while rest := os.pread(file, 2**20, position):
        if any(rest):
            position += len(rest) - len(rest.lstrip(b"\0"))
            raise ConfigError(
                f"{path} goes on after the end of its archive, at byte {position:,}, as"
                " where several were written to one file by cat; join them by tar"
                " --concatenate --file=FIRST.tar SECOND.tar, or list each in shards"
            )
        position += len(rest)


def _is_header(header: bytes) -> bool:
    """Return whether a block has the sum of its bytes where a header has it."""
    try:
        said = int(header[148:156].strip(b"\0 ") or b"x", 8)
    except ValueError:
        return False
    return said == sum(header) - sum(header[148:156]) + 8 * ord(" ")


def _number(field: bytes) -> int:
    """Return a number of a header: octal, or GNU's of 256 to a digit."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b"\0 ") or b"0", 8)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    posix = header[257:263] == b"ustar\0"  # GNU has other fields there
    return f"{prefix}/{name}" if prefix and posix else name


def _records(data: bytes) -> dict[str, str]:
    """Return the records of a pax header, a line `LENGTH KEY=VALUE` each."""
    found = {}
    while data:
        length, _, _ = data.partition(b" ")
        record, data = data[: int(length)], data[int(length) :]
        key, _, value = record[len(length) + 1 : -1].partition(b"=")
        found[key.decode()] = value.decode("utf-8", "surrogateescape")
    return found


def _truncated(path: str, position: int) -> ConfigError:
    return ConfigError(
        f"{path} is truncated: it ends before byte {position + BLOCK:,}, without the"
        " blocks of zeros that end a tar file; copy or write it again"
    )


def _no_header(path: str, header: bytes, position: int) -> ConfigError:
    for start, tool in COMPRESSED.items():
        if not position and header.startswith(start):
            return ConfigError(
                f"{path} is compressed, so that no image in it can be found without"
                f" reading all before; unpack it by {tool}: images are compressed"
                " themselves"
            )
    where = f"is damaged at byte {position:,}" if position else "is no tar file"
    return ConfigError(f"{path} {where}; copy or write it again")
