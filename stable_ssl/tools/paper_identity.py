"""Which configuration a run is of: a hash of it, and where another one differs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stable_ssl.config import complete, resolver
from stable_ssl.loggers.own_code import digest
from stable_ssl.secrets import ENVIRONMENT, masked
from stable_ssl.tools.run_keys import NAMES, SEED
from stable_ssl.tools.runs import flat

PLACES = (  # where a run runs, not what it does
    "data.root data.download data.num_workers hardware.processes hardware.gpus"
    " hardware.num_nodes hardware.threads hardware.accelerator hardware.timeout"
    " hardware.sharding"
).split()
NETWORKS = {"backbone", "teacher"}  # whose channels are those of the images
OPEN = "<open>"
LACKING = "nothing"  # where there is no such key
RESUME = "log.resume"
SHOWN = 40  # characters of a value in a sentence


def hashed(full: DictConfig, model: type | None) -> str:
    """Return what stands for a configuration, whatever its names and seed.

    Keys at their defaults do not count, so that a newer version with further keys has
    the same hash; what it does otherwise is told by the hash of its code.

    Args:
        full: with all defaults.
        model: dataclass of the keys under `model`.
    """
    usual = flat(OmegaConf.to_container(complete({}, model)))
    kept = {
        key: value
        for key, value in sorted(flat(OmegaConf.to_container(full)).items())
        if not _names(key, value) and (key not in usual or usual[key] != value)
    }
    return digest(json.dumps(kept, default=str).encode())[:8]


def without_places(
    config: DictConfig, stated: DictConfig, model: type | None
) -> DictConfig:
    """Return a configuration with all defaults, and with the `PLACES` of another.

    Args:
        config: as composed for this machine.
        stated: as composed without what is this machine's.
        model: dataclass of the keys under `model`.
    """
    plain, given = OmegaConf.to_container(config), flat(OmegaConf.to_container(stated))
    for key in PLACES:
        group, _, name = key.partition(".")
        plain[group].pop(name, None)
        if given.get(key, "???") != "???":  # that another machine has to give
            plain[group][name] = given[key]
    return complete(plain, model)


def as_recorded(full: DictConfig) -> dict[str, Any]:
    """Return what config.yaml of a run will hold.

    `OPEN` stands for what differs between the seeds and places of one configuration,
    for what only the data tell, for what a variable of the environment says, and for
    what is made of these.
    """
    plain = resolver.filled(full, dict.fromkeys(resolver.NAMES, OPEN))
    for key in {SEED, *NAMES, *PLACES} - {RESUME}:
        group, _, name = key.partition(".")
        plain[group][name] = OPEN
    if plain["data"]["num_classes"] is None:
        plain["data"]["num_classes"] = OPEN
    config = OmegaConf.create(plain)
    _leave_open(config)
    holds = masked(config)
    for key in NETWORKS & holds["model"].keys():
        network = _by_name(holds["model"][key])
        if isinstance(network, Mapping):
            holds["model"][key] = {"in_channels": OPEN, **network}
    return holds


def _by_name(network: Any) -> Any:
    """Return a network as a node, where its name stands for it."""
    return {"name": network} if isinstance(network, str) else network


def _leave_open(group: DictConfig) -> None:
    """Put `OPEN` where a resolver makes nothing of it, or asks the environment."""
    raw = OmegaConf.to_container(group)
    for key in group:
        try:
            value = group[key]
            if isinstance(value, DictConfig):
                _leave_open(value)
                continue
            if isinstance(value, ListConfig):
                OmegaConf.to_container(value, resolve=True)
        except OmegaConfBaseException:
            group[key] = OPEN
        if ENVIRONMENT.search(str(raw[key])):
            group[key] = OPEN


def difference(planned: Any, found: Any, whole: bool, at: str = "") -> str:
    """Return the first key in which a run's config.yaml differs, and how; or nothing.

    Args:
        planned: of `as_recorded`.
        found: in config.yaml.
        whole: whether a key that one of them lacks counts. Versions of the library
            have different keys.
        at: dotted key of both in the whole.
    """
    if isinstance(planned, Mapping) and isinstance(found, Mapping):
        for key in {**planned, **found}:
            if whole or (key in planned and key in found):
                below = planned.get(key, LACKING), found.get(key, LACKING)
                if said := difference(*below, whole, f"{at}.{key}".lstrip(".")):
                    return said
        return ""
    if isinstance(planned, list) and isinstance(found, list):
        if len(planned) == len(found):
            pairs = enumerate(zip(planned, found, strict=True))
            said = (difference(*pair, whole, f"{at}.{i}") for i, pair in pairs)
            return next(filter(None, said), "")
    if isinstance(planned, Mapping) and at in {f"model.{key}" for key in NETWORKS}:
        if isinstance(found, str):
            return difference(planned, _by_name(found), False, at)
    same = planned == found or str(planned) == str(found)  # nan
    named = _names(at, planned) and _names(at, found)
    if same or named or (isinstance(planned, str) and OPEN in planned):
        return ""
    return f"{at}: found {found!s:.{SHOWN}}, planned {planned!s:.{SHOWN}}"


def _names(key: str, value: Any) -> bool:
    """Return whether a key tells which run it is, and nothing of what it does."""
    begins_elsewhere = key == RESUME and value not in (None, "auto", LACKING)
    return key in NAMES | {SEED} and not begins_elsewhere
