"""The names of shards, as they are usually written, here and in remote stores."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from glob import glob
from itertools import product
from pathlib import Path

from stable_ssl.schema import ConfigError, described

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expanded(pattern: str) -> list[str]:
    """Return the names that a pattern with braces stands for, as a shell would.

    `train-{000..146}.tar` is 147 names of three digits; `{train,val}.tar` is two. What
    has neither dots nor a comma stays.
    """
    parts = []
    for i, part in enumerate(BRACES.split(pattern)):
        if not i % 2:
            parts.append([part])
        elif bounds := RANGE.fullmatch(part):
            first, last = bounds.groups()
            padded = any(n[0] == "0" and len(n) > 1 for n in (first, last))
            width = max(len(first), len(last)) if padded else 0
            step = 1 if int(first) <= int(last) else -1
            numbers = range(int(first), int(last) + step, step)
            parts.append([f"{n:0{width}}" for n in numbers])
        else:
            parts.append(part.split(",") if "," in part else [f"{{{part}}}"])
    return list(map("".join, product(*parts)))


def is_remote(name: str) -> bool:
    """Return whether a name is one of fsspec's, such as s3://bucket/train-000.tar."""
    return "://" in name


def find_shards(shards: str | Sequence[str], root: Path) -> list[str]:
    """Return the paths or URLs of shards, in order.

    Args:
        shards: a name, or several, with braces, and with * and ? of names that exist.
        root: that paths are relative to.

    Raises:
        ConfigError: none matches, one is not there or is named twice.
    """
    patterns = [shards] if isinstance(shards, str) else list(shards)
    if not patterns or not all(isinstance(p, str) and p for p in patterns):
        raise ConfigError(
            f'shards={shards}: write a name, such as "train-{{00..09}}.tar"'
        )
    found: list[str] = []
    for pattern in patterns:
        for name in expanded(pattern):
            found += _matching(name, root)
    name, count = Counter(found).most_common(1)[0]
    if count > 1:
        raise ConfigError(f"shards={shards} names {name} {count} times")
    return found


def _matching(name: str, root: Path) -> list[str]:
    wild = any(mark in name for mark in "*?[")
    if is_remote(name):
        if not wild:
            return [name]
        system, path = file_system(name)
        try:
            system.invalidate_cache()  # of what it listed before
            listed = system.glob(path)
        except Exception as error:  # a file system of any library
            raise ConfigError(
                f"the shards {name} cannot be listed: {described(error)}; without a"
                " network, name by braces those that were copied"
            ) from error
        return _some(sorted(map(system.unstrip_protocol, listed)), name)
    path = str(root / name)
    if os.path.isfile(path):
        return [path]
    if not wild:
        raise ConfigError(f"no shard at {path}; correct shards, or data.root")
    return _some(sorted(glob(path)), path)


def _some(found: list[str], pattern: str) -> list[str]:
    if not found:
        raise ConfigError(f"no shards match {pattern}; correct shards, or data.root")
    return found


def file_system(url: str) -> tuple:
    """Return fsspec's file system of a URL, and the path in it.

    Raises:
        ConfigError: fsspec, or what it needs for such a URL, is not installed.
    """
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"the shard {url} needs fsspec and its package for such addresses"
            f" ({described(error)}); pip install stable-ssl[shards]"
        ) from error
