"""Copies of remote shards, made once, and anew where a shard has been overwritten."""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from stable_ssl.data.index.cache import cache_folder, one_process
from stable_ssl.data.sources.shards import file_system, is_remote
from stable_ssl.files import replacing
from stable_ssl.schema import ConfigError, described

DOWNLOADS = 4  # at once
# What stores tell of a file that changes when it is overwritten, by any spelling. Not
# all else: some tell when it was read, or an address that expires.
TELLING = {"size", "etag", "generation", "versionid", "blobid"}
TELLING |= {"contentmd5", "md5hash", "md5", "digest", "crc", "crc32c"}
TELLING |= {"created", "modified", "lastmodified", "mtime", "updated", "datetime"}


def local_copies(names: Sequence[str], cache: str | None) -> list[str]:
    """Return the paths of shards, remote ones copied whole to a folder.

    Where a remote shard has been overwritten, it is copied anew beside the old copy,
    which others may be reading. Where its store cannot be asked, the newest copy is
    taken, with a warning.

    Args:
        names: paths and URLs.
        cache: the folder; None: `shards` in that of indexes.

    Raises:
        ConfigError: one cannot be copied, and there is no copy.
    """
    folder = Path(cache).expanduser() if cache else cache_folder() / "shards"
    unasked: dict[str, Exception] = {}
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        copies = list(pool.map(lambda name: _copy(name, folder, unasked), names))
    if unasked:
        name, error = next(iter(unasked.items()))
        warnings.warn(
            f"whether {len(unasked)} of {len(names)} shards have changed is not known,"
            f" such as {name} ({described(error)}); their copies in {folder} are read",
            stacklevel=3,
        )
    return copies


def _copy(name: str, folder: Path, unasked: dict[str, Exception]) -> str:
    """Return the path of a shard, whose folder is called as the fingerprint of it.

    Args:
        name: path or URL.
        folder: for copies of all shards.
        unasked: gets the name and the error, where its store cannot be asked.
    """
    if not is_remote(name):
        return name
    file = name.rpartition("/")[2]
    place = folder / hashlib.sha256(name.encode()).hexdigest()[:24]
    copies = [path for path in place.glob("*/") if (path / file).is_file()]
    newest = max(copies, key=os.path.getmtime, default=place)
    try:
        if copies and (error := _of_no_store(unasked)):
            raise error
        system, remote = file_system(name)
        path = place / _fingerprint(system, remote) / file
    except Exception as error:  # a file system of any library
        if copies:
            unasked[name] = error
            return str(newest / file)
        raise _no_copy(name, place, error) from error
    if copies and not path.exists():
        warnings.warn(
            f"{name} has changed since it was copied to {newest}; it is copied anew",
            stacklevel=2,
        )
    try:
        with one_process(path.parent):
            if not path.exists():
                with replacing(path) as new:
                    with system.open(remote, "rb") as source:
                        with open(new, "wb") as target:
                            shutil.copyfileobj(source, target, 2**20)
                    if _fingerprint(system, remote) != path.parent.name:
                        raise OSError("it was overwritten meanwhile; start again")
    except Exception as error:
        raise _no_copy(name, place, error) from error
    with suppress(OSError):  # of somebody else's
        os.utime(path.parent)  # the newest is the one that was right last
    return str(path)


def _fingerprint(system: Any, remote: str) -> str:
    """Return a text that changes when a file is overwritten, as far as its store tells.

    A store that tells the size alone hides a change that keeps it.
    """
    system.invalidate_cache()  # of what it told before
    told = {
        key.lower().replace("-", "").replace("_", ""): str(value)
        for key, value in system.info(remote).items()
        if value is not None
    }
    if "mtime" in told:  # of a folder here, whose `created` a new link changes, too
        told.pop("created", None)
    known = sorted(pair for pair in told.items() if pair[0] in TELLING)
    return hashlib.sha256(repr(known).encode()).hexdigest()[:24]


def _of_no_store(unasked: Mapping[str, Exception]) -> Exception | None:
    """Return an error that others will meet, too, such as of no network.

    To wait for each of a thousand shards in vain would take hours.
    """
    for error in list(unasked.values()):  # other threads add to it
        if not isinstance(error, FileNotFoundError):
            return error
    return None


def _no_copy(name: str, place: Path, error: Exception) -> ConfigError:
    if isinstance(error, ConfigError):
        return error
    return ConfigError(
        f"the shard {name} cannot be copied to {place}: {described(error)}"
    )
