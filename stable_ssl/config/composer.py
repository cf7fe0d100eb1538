"""Compositions by Hydra of which many differ in the values of keys alone.

Hydra reads and merges the files of a recipe anew for each job of a sweep, several times
each. Which files these are is said by groups; values of keys, `optim.lr=0.1`, are put
into what they make, one after the other. So what the files make is remembered.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

SEARCH_PATH = "hydra.searchpath"  # further folders, which may have further groups


def copier(config: DictConfig) -> Callable[[], DictConfig]:
    """Return a function that returns copies of a config as it is now."""
    try:
        return partial(pickle.loads, pickle.dumps(config))  # a sixth of a deep copy
    except (pickle.PicklingError, AttributeError, TypeError):  # of a local class
        return partial(copy.deepcopy, copy.deepcopy(config))


@lru_cache(4096)
def _parsed(text: str) -> Override:
    (override,) = OverridesParser.create().parse_overrides([text])
    return override


class Composer:
    """A config loader of Hydra that reads files once where the files are the same.

    What it composes is what the other one would. It is of one `hydra_session`, and of
    those that go on with it: files are read again in the next.

    Args:
        loader: Hydra's own, which also answers all else that is asked.
    """

    def __init__(self, loader: Any):
        self.loader = loader
        self.of_files: dict[tuple[Any, ...], Callable[[], DictConfig]] = {}
        self.groups: dict[tuple[Any, ...], set[str]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.loader,)  # a Slurm job composes but itself

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose a recipe, as Hydra's `ConfigLoader` says."""
        how = run_mode, from_shell, validate_sweep_overrides
        parsed = [_parsed(text) for text in overrides]
        values, others = self._split(config_name, parsed)
        files = [override.input_line for override in others]
        key = (config_name, *files, run_mode, validate_sweep_overrides)
        try:
            if key not in self.of_files:
                made = self.loader.load_configuration(config_name, files, *how)
                self.of_files[key] = copier(made)
            config = self.of_files[key]()
            for override in values:  # as Hydra does
                name, value = override.key_or_group, override.value()
                added = override.is_force_add()
                OmegaConf.update(config, name, value, merge=True, force_add=added)
        except OmegaConfBaseException:  # in Hydra's own words
            return self.loader.load_configuration(config_name, overrides, *how)
        _state(config, parsed)
        return config

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """Compose a job of a sweep, as Hydra's `ConfigLoader` says."""
        hydra = master_config.hydra
        overrides = [*hydra.overrides.hydra, *sweep_overrides]
        name = hydra.job.config_name
        config = self.load_configuration(name, overrides, RunMode.RUN)
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config

    def _split(
        self, config_name: str | None, overrides: list[Override]
    ) -> tuple[list[Override], list[Override]]:
        """Split overrides into values that can be put in last, and the others."""
        values, others, changed = [], [], []
        where = [o.input_line for o in overrides if o.key_or_group == SEARCH_PATH]
        for override in overrides:
            key, sweeps = override.key_or_group, override.is_sweep_override()
            group = "/" in key or override.package is not None
            group |= "." not in key and key in self._groups(config_name, *where)
            hydra = override.is_hydra_override()
            if not (group or hydra or sweeps or override.is_add()):
                if not override.is_delete():
                    values.append(override)
                    continue
            others.append(override)
            changed += [] if group else [key]
        if any(_within(o.key_or_group, key) for o in values for key in changed):
            return [], overrides  # their order matters
        return values, others

    def _groups(self, config_name: str | None, *where: str) -> set[str]:
        """Return the groups of files that are not within another one."""
        key = (config_name, *where)
        if key not in self.groups:
            found = self.loader.get_group_options(
                "", ObjectType.GROUP, config_name, where
            )
            self.groups[key] = set(found)
        return self.groups[key]


def _within(name: str, other: str) -> bool:
    """Return whether one of two dotted keys is the other one, or below it."""
    a, b = f"{name}.", f"{other}."
    return a.startswith(b) or b.startswith(a)


def _state(config: DictConfig, overrides: list[Override]) -> None:
    """State in the node `hydra` which overrides there are."""
    own = [override for override in overrides if not override.is_hydra_override()]
    hydra = config.hydra
    hydra.overrides.task = [override.input_line for override in own]
    style = hydra.job.config.override_dirname
    named = [o.input_line for o in own if o.key_or_group not in style.exclude_keys]
    dirname = re.sub("=", style.kv_sep, style.item_sep.join(sorted(named)))
    hydra.job.override_dirname = dirname
