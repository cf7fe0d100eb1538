"""An image that cannot be read, whatever its decoder raises."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from stable_ssl.schema import ConfigError, described

# what reading a broken file raises, in a dataset of one's own; others are its mistakes
READ_ERRORS = (
    *(OSError, SyntaxError, ValueError, RuntimeError, EOFError, OverflowError),
    *(MemoryError, struct.error, zlib.error),
)


def is_of_reading(error: Exception) -> bool:
    """Return whether an error is one of `READ_ERRORS`, or of a kind of some library.

    Such as PIL's of a decompression bomb, tifffile's or tarfile's.
    """
    return isinstance(error, READ_ERRORS) or type(error).__module__ != "builtins"


class Unreadable(ConfigError):
    """An image that cannot be read as it is asked for; the text names it."""


@contextmanager
def reading(name: object) -> Iterator[None]:
    """Turn any error of reading a file into one that names it.

    PIL raises errors of twenty kinds for broken files, also those of mistakes in code.
    """
    try:
        yield
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(
            f"{name} is not a readable image: {described(error)}"
        ) from error
