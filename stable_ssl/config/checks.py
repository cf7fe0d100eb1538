"""Defaults and checks: what a configuration leaves out, and what it must not say."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stable_ssl.config import resolver
from stable_ssl.config.dotenv import read_env
from stable_ssl.config.errors import cannot_be_null, translated_errors
from stable_ssl.config.groups import structured
from stable_ssl.evaluation.config import Eval
from stable_ssl.optim.config import is_foreign
from stable_ssl.schema import ConfigError, check_limits, nearest, texts
from stable_ssl.value_types import check_types

MISTAKEN = ("optimizer", "scheduler")  # groups in other libraries, keys in this one


@resolver.stand_ins()
def complete(config: Mapping | None = None, model: type | None = None) -> DictConfig:
    """Fill a config with the defaults and check every key and value of it.

    Args:
        config: any part of the five groups; other top-level groups are the user's own.
        model: dataclass of the keys under `model`; None accepts any.

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range, keys that
            contradict each other, a mandatory value (???) that is missing.
    """
    with translated_errors():
        read_env()
        config = {} if config is None else config
        if not isinstance(config, Mapping):
            raise ConfigError(
                f"found {config!r} for a configuration; give a mapping of its groups,"
                ' or what stable_ssl.load_config("simclr") returns'
            )
        config = config if OmegaConf.is_config(config) else OmegaConf.create(config)
        plain = OmegaConf.to_container(config)  # so that keys added by ++ are checked
        plain.pop("hydra", None)
        resolver.check(plain)
        for path in sorted(path for path, text in texts(plain) if text == "???")[:1]:
            raise ConfigError(
                f"{path} has no value, and this recipe needs one: add {path}=..."
            )
        if plain.get("model", {}) is None:
            raise ConfigError(cannot_be_null("model"))
        _leave_out(plain, model)
        given = OmegaConf.create(plain)
        scheduler = OmegaConf.select(given, "optim.scheduler", default={})
        full = copy.deepcopy(structured(is_foreign(scheduler), model))
        check_types(full, given)
        if scheduler is None:
            full.optim.scheduler = None
        plain = OmegaConf.to_container(given)
        evaluators = _pop_evaluators(plain.get("log"))
        user_groups = {n: value for n, value in plain.items() if n not in full}
        for name, value in user_groups.items():
            _check_user_group(name, value, full)
            del plain[name]
        full.merge_with(plain)  # refuses unknown keys and wrong types
        OmegaConf.set_struct(full, False)
        full.merge_with(user_groups)
        OmegaConf.set_struct(full.log.eval, False)
        full.log.eval.merge_with(evaluators)
        check_limits(full)
        OmegaConf.to_object(full)  # makes each dataclass: its __post_init__ checks
    return full


def alone(full: DictConfig, numbers: Mapping[str, int | float]) -> bool:
    """Return whether `with_numbers` may change numbers: only their groups see them.

    Args:
        full: a config that `complete` returned.
        numbers: that it was given, by the dotted key below a group.
    """
    asking = [at for at in texts(OmegaConf.to_container(full)) if "${" in at[1]]
    return all(
        OmegaConf.select(full, key) == number
        and all(path.startswith(group) for path, text in asking if group in text)
        for key, number in numbers.items()
        for group in [f"{key.partition('.')[0]}."]
    )


@resolver.stand_ins()
def with_numbers(full: DictConfig, numbers: Mapping[str, int | float]) -> DictConfig:
    """Put other numbers into a config, and return what `complete` would return.

    Args:
        full: a copy of a config that `complete` returned.
        numbers: by key, those of `alone`, of the same types.

    Raises:
        ConfigError: a value out of range, keys that contradict each other.
    """
    with translated_errors():
        for key, number in numbers.items():
            OmegaConf.update(full, key, number)
        for group in {key.partition(".")[0] for key in numbers}:
            check_limits(full[group], f"{group}.")
            OmegaConf.to_object(full[group])  # as at the end of `complete`
    return full


def _leave_out(config: dict[str, Any], model: type | None) -> None:
    """Remove the keys under `model` that are null and that a method does not have.

    So a recipe leaves out what the one below it says for another method.
    """
    group = config.get("model")
    if model is not None and isinstance(group, dict):
        known = {field.name for field in dataclasses.fields(model)}
        for name in [n for n, v in group.items() if v is None and n not in known]:
            del group[name]


def _pop_evaluators(log: Any) -> dict[str, Any]:
    """Remove the user's evaluators from a group `log`; return them."""
    group = log.get("eval") if isinstance(log, dict) else None
    group = group if isinstance(group, dict) else {}
    known = {field.name for field in dataclasses.fields(Eval)}
    unknown = {name: node for name, node in group.items() if name not in known}
    names = [n for n, e in unknown.items() if isinstance(e, dict) and "_target_" in e]
    # null turns off one of a recipe, unless it is a key of ours that is misspelt
    close = functools.partial(difflib.get_close_matches, n=1, cutoff=0.75)
    names += [n for n, e in unknown.items() if e is None and not close(n, known)]
    return {name: group.pop(name) for name in names}


def _check_user_group(name: Any, value: Any, schema: DictConfig) -> None:
    """Refuse a top-level key that nobody reads: a group, or one of its keys, misplaced.

    Args:
        name: of the key.
        value: plain.
        schema: the five groups.
    """
    if not isinstance(name, str):
        raise ConfigError(f"found {name}: {value}; the name of a group is a text")
    if difflib.get_close_matches(name, list(schema), n=1, cutoff=0.75):
        raise ConfigError(f"{name} is not a group{nearest(name, list(schema))}")
    if "." in name:
        raise ConfigError(
            f"'{name}' is one key with dots in it; in YAML write nested ones:"
            f" {name.replace('.', ': {')}: ...{'}' * name.count('.')}"
        )
    if isinstance(value, dict) and name not in MISTAKEN:
        return
    for group, keys in schema.items():
        if isinstance(keys, DictConfig) and name in keys:
            raise ConfigError(
                f"{name} is no key of the whole configuration; did you mean"
                f" '{group}.{name}'?"
            )
