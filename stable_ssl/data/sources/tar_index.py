"""Where the samples of tar shards are, found once and kept in an index.

Webdataset's naming: what comes before the first dot of a file's name is the key of its
sample, and what comes after says what it is: 0001.jpg, 0001.cls, 0001.json. Files of
one sample follow one another.
"""

from __future__ import annotations

import json
import os
import re
import time
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy

from stable_ssl.data.fields import UNLABELLED, number_names
from stable_ssl.data.index.cache import Content, cached, settled, stamp, what_changed
from stable_ssl.data.index.mapped import Mapped
from stable_ssl.data.index.texts import Texts
from stable_ssl.data.sources.tar_file import members
from stable_ssl.schema import ConfigError, described

NAME = re.compile(r"((?:.*/|)[^/.][^/.]*)\.([^/]+)", re.DOTALL)  # key and entry
READERS = 8  # shards that are read at once, which hides the time a disk takes
CLS = "cls"  # the usual entry of a label
NONE = ""  # stands for no labels


@dataclass
class Shard:
    """What is found in one shard."""

    keys: list[str] = field(default_factory=list)
    first: array = field(default_factory=partial(array, "q"))  # members of samples
    members: array = field(default_factory=partial(array, "q"))  # 4 numbers each
    entries: dict[str, int] = field(default_factory=dict)  # numbers by name
    labels: list[Any] = field(default_factory=list)


def tar_index(paths: Sequence[str], names: Sequence[str], label: str | None) -> Mapped:
    """Return the index of shards: of each sample its shard, key, label and members.

    Args:
        paths: of the shards on this machine.
        names: as they were asked for, for messages.
        label: entry of the labels, or `json.field`; None: cls, where there is any; "":
            none is read.

    Raises:
        ConfigError: a shard is damaged, a key comes twice, some samples have no label.
    """
    key = {"tar": list(map(os.path.abspath, paths)), "label": label}
    what = f"{names[0]} and {len(names) - 1} other shards" if names[1:] else names[0]
    return cached(
        what, key, partial(what_changed, paths), partial(_scan, paths, names, label)
    )


def _scan(paths: Sequence[str], names: Sequence[str], label: str | None) -> Content:
    """Return the values and arrays of the index."""
    now, stamps = time.time_ns(), list(map(stamp, paths))
    with ThreadPoolExecutor(READERS) as pool:
        shards = list(pool.map(partial(_read, label=label), paths))
    entries = sorted({name for shard in shards for name in shard.entries})
    labels = [label for shard in shards for label in shard.labels]
    where = (f"{n}/{key}" for n, s in zip(names, shards, strict=True) for key in s.keys)
    labels, classes = _numbered(labels, names[0], where, label)
    tables = [numpy.array(shard.members).reshape(-1, 4) for shard in shards]
    for shard, table in zip(shards, tables, strict=True):
        numbers = [entries.index(name) for name in shard.entries]
        table[:, 0] = numpy.array(numbers, numpy.int64)[table[:, 0]]
    begins = numpy.cumsum([0, *map(len, tables)])
    first = [numpy.array(s.first) + n for s, n in zip(shards, begins, strict=False)]
    table = numpy.concatenate(tables)
    keys = Texts.of(key for shard in shards for key in shard.keys)
    counts = [len(shard.keys) for shard in shards]
    arrays = {
        "stamps": settled(numpy.array(stamps, numpy.int64), now),
        "labels": labels,
        "shard_of": numpy.repeat(numpy.arange(len(paths), dtype=numpy.int32), counts),
        "first": numpy.append(numpy.concatenate(first), begins[-1]),
        "entry": table[:, 0].astype(numpy.int16),
        "offset": table[:, 1],
        "size": table[:, 2],
        "check": table[:, 3].astype(numpy.int32),  # wraps
        "keys": keys.blob,
        "key_ends": keys.ends,
    }
    return {"entries": entries, "classes": classes}, arrays


def _read(path: str, label: str | None) -> Shard:
    """Look at all members of a shard."""
    shard, seen = Shard(), set()
    of_label, _, field = (CLS if label is None else label).partition(".")
    if of_label != "json":
        of_label, field = f"{of_label}.{field}".rstrip("."), ""
    last, inside = None, set()
    try:
        for member in members(path):
            named = NAME.fullmatch(member.name.removeprefix("./"))
            if named is None:  # no dot, or hidden
                continue
            key, entry = named[1], named[2].lower()
            if key != last:
                if key in seen:
                    raise ConfigError(
                        f"{path} has the key {key} twice; the files of a sample follow"
                        " one another and have a key of their own, as tar --sort=name"
                        " writes them"
                    )
                seen.add(key)
                last, inside = key, set()
                shard.keys.append(key)
                shard.first.append(len(shard.members) // 4)
                shard.labels.append(None)
            if entry in inside:
                raise ConfigError(f"{path} has the file {member.name} twice")
            inside.add(entry)
            number = shard.entries.setdefault(entry, len(shard.entries))
            shard.members.extend((number, member.offset, member.size, member.check))
            if entry == of_label:
                content = member.start
                if member.size > len(content):
                    content = _content(path, member.offset, member.size)
                shard.labels[-1] = _label(content, field, path, member.name)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {described(error)}") from error
    return shard


def _content(path: str, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


def _label(content: bytes, field: str, path: str, name: str) -> int | str | None:
    """Return a label: the number or the name of a class; None of none."""
    try:
        text = content.decode().strip()
        if not field:
            return int(text) if text.lstrip("-").isdecimal() else text
        value = json.loads(text)
        for part in field.split("."):
            value = value.get(part) if isinstance(value, dict) else None
    except ValueError as error:
        raise ConfigError(f"{path}: {name} is no label: {described(error)}") from error
    if value is None or isinstance(value, (int, str)):
        return value
    raise ConfigError(
        f"{path}: {field} of {name} is a {type(value).__name__}; a label is the number"
        " or the name of a class"
    )


def _numbered(
    labels: list[Any], first: str, where: Iterator[str], entry: str | None
) -> tuple[numpy.ndarray, list[str]]:
    """Return the number of each class, and their names where labels are names."""
    missing = [label is None for label in labels]
    if entry == NONE or (entry is None and all(missing)):
        return numpy.full(len(labels), UNLABELLED, numpy.int64), []
    if any(missing):
        example = next(name for name, none in zip(where, missing, strict=True) if none)
        raise ConfigError(
            f"{sum(missing):,} of {len(labels):,} samples have no {entry or CLS}, such"
            f" as {example}; write one, -1 for what has no label, or set labelled:"
            " false"
        )
    numbers, classes = number_names(labels, f"{entry or CLS} of the shards of {first}")
    return numpy.array(numbers, numpy.int64), list(classes)
