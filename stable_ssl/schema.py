"""Fields of a configuration's dataclasses, their limits, and the error of a user.

A dataclass stands beside what it configures, and its fields are made with `key`.
"""

from __future__ import annotations

import dataclasses
import difflib
import errno
import math
import operator
import re
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

BOUNDS = (
    ("low", "at least", operator.ge),
    ("above", "more than", operator.gt),
    ("high", "at most", operator.le),
    ("below", "less than", operator.lt),
)
LIBRARIES = ("site-packages", "dist-packages")  # in paths of code that is not a user's
LIBRARIES += (str(Path(__file__).parent), sysconfig.get_path("stdlib"))
LARGEST = 2**63 - 1  # whole number, as torch counts


class ConfigError(ValueError):
    """An error that a user can fix; its message says what is wrong and what to do."""


def unwritable(path: Path, error: OSError) -> ConfigError:
    """Return the error that says which file of a run could not be written, and why."""
    remedy = f"make {path.parent} writable"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space"
    elif error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
        remedy = "move away what is in its place"
    return ConfigError(
        f"{path} could not be written: {error.strerror or error}; the earlier"
        f" checkpoints are intact; {remedy} and start the same command again to resume"
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" with the nearest known name, or an empty string."""
    folded = {str(k).lower(): str(k) for k in known}
    match = difflib.get_close_matches(str(name).lower(), folded, n=1, cutoff=0.6)
    return f"; did you mean '{folded[match[0]]}'?" if match else ""


def key(default: Any, **limits: Any) -> Any:
    """Make a dataclass field with limits, which hold for each element of a list.

    Args:
        default: of the field.
        limits: low, above, high, below (numbers, which must be finite unless high is
            inf), choices, length and shortest (of a list), pattern (of a text; `like`
            is an example), `path` (a text is one, and no URL), `required` (not null),
            `epoch` (a number is one of the training, see `beyond`);
            `instead_of`, a key of the group that must be null where this one is not;
            and of a schedule's keys `of`, the names of those that read it.
    """
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=limits)
    return field(default=default, metadata=limits)


def node(cls: type) -> Any:
    """Make a dataclass field that holds a nested group."""
    return field(default_factory=cls)


def resolved(group: DictConfig, name: str, path: str) -> Any:
    """Return a value of a group, what it refers to in its place.

    Raises:
        ConfigError: there is no such thing.
    """
    try:
        return group[name]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {first_line(error)}") from error


def check_limits(group: DictConfig, at: str = "") -> None:
    """Refuse values outside the limits that the fields of a group's dataclass state.

    Args:
        group: made by `OmegaConf.structured`, and groups in it.
        at: its path in the whole, "log.eval.", for messages.

    Raises:
        ConfigError: names the key, its value and the limit.
    """
    cls = OmegaConf.get_type(group)
    if not dataclasses.is_dataclass(cls):
        return
    for f in dataclasses.fields(cls):
        path = f"{at}{f.name}"
        value = resolved(group, f.name, path)
        if value is None and f.metadata.get("required"):
            raise ConfigError(f"{path} must not be null; remove it for the default")
        if isinstance(value, DictConfig):
            check_limits(value, f"{path}.")
        if value is not None:
            _check_value(path, value, f.metadata)
            _check_others(group, at, f, value)


def _check_others(group: DictConfig, at: str, f: Field, value: Any) -> None:
    """Refuse a value that contradicts another key of its group, or that none reads."""
    other, readers = f.metadata.get("instead_of"), f.metadata.get("of")
    if other and group[other] is not None:
        raise ConfigError(
            f"{at}{other}={group[other]} contradicts {at}{f.name}={value}; set one of"
            " them to null"
        )
    default = [] if f.default is dataclasses.MISSING else f.default
    if readers and value != default and group.name not in (None, *readers):
        raise ConfigError(
            f"{at}{f.name}={value} is set, and the schedule {group.name} does not read"
            f" it ({', '.join(readers)} would); remove it, or choose another schedule"
        )


def _check_value(path: str, value: Any, limits: Mapping[str, Any]) -> None:
    """Refuse a value, or an element of a list, outside the limits of its field."""
    elements = value if isinstance(value, ListConfig) else [value]
    if len(elements) != limits.get("length", len(elements)):
        raise ConfigError(f"{path}={value} must have {limits['length']} elements")
    if len(elements) < limits.get("shortest", 0):
        raise ConfigError(f"{path}={value} must have an element")
    for element in elements:
        if "choices" in limits and element not in limits["choices"]:
            options = ", ".join(limits["choices"])
            raise ConfigError(
                f"{path}={value} is not one of {options}"
                f"{nearest(element, limits['choices'])}"
            )
        if "pattern" in limits and not re.fullmatch(limits["pattern"], element):
            raise ConfigError(f"{path}={value} must be like {limits['like']}")
        if "path" in limits:
            refuse_url(path, element)
        for bound, relation, fits in BOUNDS:
            if bound in limits and not fits(element, limits[bound]):
                raise ConfigError(f"{path}={value} must be {relation} {limits[bound]}")
        if isinstance(element, float) and not math.isfinite(element):
            if math.isnan(element) or limits.get("high") != math.inf:
                raise ConfigError(f"{path}={value} must be a finite number")
        counted = isinstance(element, int) or "epoch" in limits
        if counted and abs(element) > LARGEST:
            raise ConfigError(f"{path}={value} must be at most {LARGEST}")


def beyond(group: DictConfig, epochs: float, at: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of the keys with an epoch that a training does not reach.

    Args:
        group: as for `check_limits`.
        epochs: of the training.
        at: path of the group.
    """
    cls = OmegaConf.get_type(group)
    for f in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        value = group[f.name]
        if isinstance(value, DictConfig):
            yield from beyond(value, epochs, f"{at}{f.name}.")
        elif "epoch" in f.metadata:
            numbers = value if isinstance(value, ListConfig) else [value]
            if any(number is not None and number > epochs for number in numbers):
                yield f"{at}{f.name}", value


def refuse_url(path: str, value: str) -> None:
    """Refuse a URL where a folder or a file of this machine is needed."""
    if "://" in str(value):
        raise ConfigError(
            f"{path}={value} is a URL; expected a path on this machine, where such"
            " storage can be mounted"
        )


def refuse_no_mapping(path: str, value: Any, example: str) -> None:
    """Refuse a plain value where a mapping is needed."""
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{path}={value} is no mapping; write {path}={example}")


def texts(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted path, text) of every text in plain nested values."""
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    elif isinstance(value, str):
        yield at, value
    for name, child in children:
        yield from texts(child, f"{at}.{name}" if at else str(name))


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def described(error: Exception) -> str:
    """Return an error of other code in one line: its kind, its text, and where it was.

    The kind is left out of a ValueError and an AssertionError with a text.
    """
    text = " ".join(str(error).split())
    if not text or not isinstance(error, (ValueError, AssertionError)):
        text = f"{type(error).__name__}: {text}"
    return text + where(error)


def where(error: Exception) -> str:
    """Return " (file.py, line 3)" of the user's own code that an error went through."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)  # or <string>
        if file.is_file() and not any(part in str(file) for part in LIBRARIES):
            return f" ({file.name}, line {frame.lineno})"
    return ""
