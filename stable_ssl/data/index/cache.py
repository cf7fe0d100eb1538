"""The folder of indexes: what was listed once is mapped by whoever comes later.

`$STABLE_SSL_CACHE`, or else `stable_ssl` in the user's folder for such things, so that
nothing is written among the data. An index is never replaced, as another process may
have mapped it: a newer one lies beside it, and what nobody used for a month is deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy

from stable_ssl.data.index import mapped
from stable_ssl.data.index.mapped import Mapped
from stable_ssl.files import replacing
from stable_ssl.schema import described

VARIABLE = "STABLE_SSL_CACHE"
UNUSED = 30 * 24 * 3600  # seconds after which an index is deleted
TICK = 50_000_000  # ns; the clock of a file system is behind by less
COARSE = 2_000_000_000  # ns; by less, where it counts in seconds

Content = tuple[Mapping[str, Any], Mapping[str, numpy.ndarray]]  # values and arrays
Stamp = tuple[int, int, int, int]
UNKNOWN = (-1, -1, -1, -1)  # stamp of what must be looked at again


def cache_folder() -> Path:
    """Return the folder for what can be made again."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "stable_ssl")


def cached(
    what: str,
    key: Mapping[str, Any],
    why_stale: Callable[[Mapped], str | None],
    build: Callable[[], Content],
) -> Mapped:
    """Return the index of something, mapped; build it where there is no fresh one.

    Of several processes one builds it, and the others wait. Where the folder cannot be
    written, each has its own in memory.

    Args:
        what: that is indexed, for messages.
        key: all that it depends on, besides what `why_stale` looks at.
        why_stale: says what has changed since an index was built, "" where that cannot
            be known; None: nothing.
        build: returns values and arrays.
    """
    text = json.dumps([key, mapped.MAGIC.decode()], sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:24]
    folder = cache_folder() / "indexes" / name
    found, _ = _newest(folder, text, why_stale)
    if found is not None:
        return found
    with one_process(folder):
        found, stale = _newest(folder, text, why_stale)
        if found is not None:
            return found
        if stale:
            warnings.warn(f"{what} is indexed anew: {stale}", stacklevel=2)
        values, arrays = build()
        values = {**values, "key": text}
        path = folder / f"{time.time_ns():020}.index"
        try:
            with replacing(path) as new:
                mapped.write(new, values, arrays)
            _delete_unused(folder.parent)
            return mapped.opened(path)
        except OSError as error:
            warnings.warn(
                f"the index of {what} cannot be kept ({described(error)}), so that each"
                f" process lists it anew; set {VARIABLE} to a folder that can be"
                " written",
                stacklevel=2,
            )
            return Mapped(values, arrays)


def _newest(
    folder: Path, key: str, why_stale: Callable[[Mapped], str | None]
) -> tuple[Mapped | None, str | None]:
    """Return the newest index, if it is fresh, or why it is not."""
    for path in sorted(folder.glob("*.index"), reverse=True):
        try:
            found = mapped.opened(path)
        except (OSError, ValueError, LookupError):  # deleted just now, or damaged
            continue
        if found.values.get("key") != key:
            continue
        stale = why_stale(found)
        if stale is None:
            with suppress(OSError):  # of somebody else's
                os.utime(path)
        return (found, None) if stale is None else (None, stale)
    return None, None


@contextmanager
def one_process(folder: Path) -> Iterator[None]:
    """Let one process at a time in, where the file system has locks."""
    file = None
    try:
        with suppress(OSError, ImportError):
            import fcntl

            folder.mkdir(parents=True, exist_ok=True)
            file = open(folder / "lock", "ab")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        if file is not None:
            file.close()


def _delete_unused(folder: Path) -> None:
    for path in folder.glob("*/*.index"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > UNUSED:
                path.unlink()


# --- whether something has changed ----------------------------------------------------


def stamp(path: str | Path) -> Stamp:
    """Return what changes when a file or the names in a folder do; zeros of nothing.

    Take it before what it stands for is read.
    """
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0, 0, 0)
    size = 0 if os.path.isdir(path) else found.st_size
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, size


def what_changed(paths: Iterable[str], index: Mapped) -> str | None:
    """Say which path has another stamp than the index; see `cached`."""
    unknown = False
    for path, old in zip(paths, index.arrays["stamps"].tolist(), strict=True):
        if tuple(old) == UNKNOWN:
            unknown = True
        elif tuple(old) != stamp(path):
            return f"{path} has changed since"
    return "" if unknown else None


def settled(stamps: numpy.ndarray, now: int) -> numpy.ndarray:
    """Return stamps, UNKNOWN for what may change again without a new one.

    Args:
        stamps: as of `stamp`, (N, 4) int64.
        now: when the first of them was taken, in ns since the epoch.
    """
    newest = stamps[:, :2].max(1)
    coarse = (stamps[:, :2] % 1_000_000_000 == 0).all(1)
    young = newest > now - numpy.where(coarse, COARSE, TICK)
    return numpy.where(young[:, None], UNKNOWN, stamps)
