"""Errors of Hydra and OmegaConf in one line that a person can act on."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
    ValidationError,
)

from stable_ssl.config.groups import structured
from stable_ssl.instantiate import left_out
from stable_ssl.schema import ConfigError, first_line, nearest


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the errors of Hydra and OmegaConf into a ConfigError of one line.

    Their tracebacks, which would say nothing to a person, are left out.
    """
    from hydra.errors import HydraException
    from yaml import YAMLError

    try:
        yield
    except ConfigError as error:  # of a dataclass that OmegaConf made
        raise type(error)(*error.args) from None
    except YAMLError as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"a recipe is not YAML: {text}") from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_sentence(error)) from None


def _sentence(error: Exception) -> str:
    """Turn an error of Hydra or OmegaConf into one line that a person can act on."""
    from hydra.errors import OverrideParseException

    if isinstance(error, OverrideParseException):
        return _unreadable_override(error.override, str(error))
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)):
        return _unknown_key(cause.full_key or str(cause.key), cause.object_type)
    if isinstance(cause, ValidationError) and cause.full_key:
        if "is not Optional" in str(cause):
            return cannot_be_null(cause.full_key)
        return f"{cause.full_key}: {first_line(cause)}"
    text = "\n".join(str(e) for e in (error, error.__cause__) if e is not None)
    if found := re.search(r"Config group override must be .* Got (\w+)", text):
        kind = "null" if found[1] == "NoneType" else f"a value of type {found[1]}"
        return (
            f"found {kind} for a group that is chosen by name, as in data=digits; one"
            " split of the data is turned off by data.val=null"
        )
    if re.search("Cannot merge .*Config with", text):  # says neither which is which
        is_list = cause.object_type is list
        return f"{cause.full_key} must be a {'list' if is_list else 'mapping'}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(lines[:4])


def _unreadable_override(override: str, text: str) -> str:
    """Say why Hydra's grammar does not know an override; `text` is what Hydra says."""
    lines = [line.strip() for line in text.splitlines()]
    skipped = ("Error parsing override", "Lexer", "See https", "^")
    reasons = [line for line in lines if line and not line.startswith(skipped)]
    said = "; ".join([f"the override {override} cannot be read", *reasons])
    return f"{said}; quote the value, for the shell too: \"key='value'\""


def cannot_be_null(path: str) -> str:
    """Say that a key is null and must have a value."""
    return f"{path}=null, and it cannot be null; leave it out for its default"


def _unknown_key(path: str, group_type: type | None) -> str:
    """Say which keys the group of an unknown key has, or how a new one is added."""
    group, _, name = path.rpartition(".")
    schema = structured()
    if not dataclasses.is_dataclass(group_type):  # Hydra composes without types
        found = OmegaConf.select(schema, group) if group else schema
        group_type = OmegaConf.get_type(found)
    if dataclasses.is_dataclass(group_type):
        known = [f.name for f in dataclasses.fields(group_type)]
        if name in known:
            return (
                f"{path} is a key of a group that is null; give the group, {group}="
                f"{{{name}: ...}}, or remove what makes it null"
            )
        meant = nearest(name, known) or _elsewhere(name, schema)
        if group == "model":
            meant += left_out(name)
        keys = f"{meant} ({group or 'it'} knows {', '.join(known)})"
    else:
        keys = f"; a new key is added with ++{path}=..."
    hint = "" if group else f"; a new group is added with ++{path}.key=..."
    return f"{path} is not a key of the configuration{keys}{hint}"


def _elsewhere(name: str, group: DictConfig, at: str = "") -> str:
    """Return "; did you mean 'optim.lr'?" for a key of another group, or nothing."""
    if name in group:
        return f"; did you mean '{at}{name}'?"
    groups = ((n, g) for n, g in group.items() if isinstance(g, DictConfig))
    return next(filter(None, (_elsewhere(name, g, f"{at}{n}.") for n, g in groups)), "")
