"""The types of a configuration's values, in words where one does not fit."""

from __future__ import annotations

import dataclasses
import functools
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf

from stable_ssl.schema import ConfigError, resolved

KINDS = {  # one of them, several
    bool: ("true or false", "true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
}
SWITCH = ("true", "yes", "on", "y", "false", "no", "off", "n")  # a bool as a text


def check_types(group: DictConfig, given: DictConfig, at: str = "") -> None:
    """Refuse values of another type than the fields of a group's dataclass have.

    OmegaConf alone would take any number for a switch. A list or mapping that is null
    where the default is empty becomes empty: null turns off.

    Args:
        group: made by `OmegaConf.structured`, and groups in it.
        given: some of its keys, of no type; changed where a null becomes empty. Keys
            that the group lacks are left to `OmegaConf.merge`, which refuses them.
        at: its path in the whole, "log.eval.", for messages.

    Raises:
        ConfigError: names the key, its value and what is expected.
    """
    cls = OmegaConf.get_type(group)
    hints = _hints(cls) if dataclasses.is_dataclass(cls) else {}
    for name in [name for name in hints if name in given]:
        path, hint = f"{at}{name}", hints[name]
        unknown = OmegaConf.is_missing(group, name)  # or refers to a later group
        unknown |= OmegaConf.is_interpolation(group, name)
        own = None if unknown else group[name]
        value = resolved(given, name, path)
        if dataclasses.is_dataclass(nested := OmegaConf.get_type(own)):
            hint = nested | None if _fits(None, hint) else nested  # for Any, too
        if value is None and own in ([], {}):
            given[name] = OmegaConf.to_container(own)
        elif not _fits(value, hint):
            raise ConfigError(f"{path}={_shown(value)} must be {_expected(hint)}")
        elif isinstance(own, DictConfig) and isinstance(value, DictConfig):
            check_types(own, value, f"{path}.")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of a type; of one that is not known here, it is."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, option) for option in inner)
    if kind is NoneType:
        return value is None
    if kind is bool:
        return isinstance(value, bool) or str(value).lower() in SWITCH
    if kind is str:
        return value is not None and not OmegaConf.is_config(value)
    if kind in (int, float):
        try:
            return type(value) in (str, int, kind) and kind(value) is not None
        except (ValueError, OverflowError):
            return False
    if kind is list:
        each = isinstance(value, ListConfig)
        return each and all(_fits(element, *inner[:1] or (Any,)) for element in value)
    if kind is dict or dataclasses.is_dataclass(kind):
        return isinstance(value, DictConfig)
    return True


def _expected(hint: Any) -> str:
    """Return what a type is, in words."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(_expected(option) for option in inner)
    if kind in KINDS:
        return KINDS[kind][0]
    if kind is list:
        of = KINDS.get(inner[0] if inner else Any, ("", ""))[1]
        return f"a list of {of}, [...]" if of else "a list, [...]"
    if dataclasses.is_dataclass(kind):
        return f"a mapping of {', '.join(f.name for f in dataclasses.fields(kind))}"
    return "null" if kind is NoneType else "a mapping, {key: value}"


def _shown(value: Any) -> str:
    """Return a value as it is written in YAML and on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
