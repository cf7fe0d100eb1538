"""Files that may change any key: the groups experiment, local (a machine's) and debug.

Each is a file of `configs/<group>/` that starts with `# @package _global_`. The keys of
a recipe would win over those of a group in the defaults of its base; so the groups are
composed after the recipe, in this order, and before what the command line sets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from stable_ssl.schema import ConfigError

GROUPS = ("experiment", "local", "debug")
ALONE = "experiment_alone"  # an empty recipe, for experiments that name theirs


def arranged(
    name: str, overrides: Sequence[str], named: bool = True
) -> tuple[str, list[str]]:
    """Return the recipe to compose, and overrides that compose `GROUPS` after it.

    Hydra must be initialized. A file `local/default` is used where it is there and the
    recipe is composed of files.

    Args:
        name: of the recipe.
        overrides: as given.
        named: whether the user named the recipe. Otherwise an experiment that builds
            on one, `defaults: [/byol, _self_]`, is all that is composed.

    Raises:
        ConfigError: a file of one of the groups is asked for, and there is no group.
    """
    from hydra.core.global_hydra import GlobalHydra

    loader = GlobalHydra.instance().config_loader()
    parts = [override.lstrip("+").partition("=") for override in overrides]
    chosen = {group: value for group, _, value in parts if group in GROUPS}
    overrides = [o for o in overrides if o.lstrip("+").partition("=")[0] not in GROUPS]
    for group, value in chosen.items():  # Hydra would take it for a key of the user's
        if value != "null" and not loader.get_group_options(group, None):
            raise ConfigError(
                f"{group}={value}, but there is no folder {group}; it is looked for in"
                " a folder configs beside the script, and in the one that -cd names"
            )
    local = "default" in loader.get_group_options("local")
    if not (chosen or local):  # most often, and to read the recipe takes a while
        return name, [_quoted(override) for override in overrides]
    defaults = _defaults(name)
    if not named and "experiment" in chosen:
        experiments = chosen["experiment"].split(",")
        parts = [_defaults(f"experiment/{experiment}") for experiment in experiments]
        if all({p.partition("/")[0] for p in each} - {*GROUPS} for each in parts):
            name, defaults = ALONE, {ALONE}  # each builds on a recipe
    if defaults and local:
        chosen.setdefault("local", "default")
    for group in GROUPS:
        if group in chosen and group in defaults:  # where Hydra overrides it
            overrides.append(f"{group}={chosen[group]}")
        elif chosen.get(group, "null") != "null":
            overrides.append(f"+{group}={chosen[group]}")
    return name, [_quoted(override) for override in overrides]


def _defaults(name: str) -> set[str]:
    """Return the recipes and groups that a file builds on, and those that these do.

    Empty where there is no such file, or where it overrides what only a recipe has.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import ConfigCompositionException
    from hydra.types import RunMode

    loader = GlobalHydra.instance().config_loader()
    try:
        listed = loader.compute_defaults_list(name, [], RunMode.MULTIRUN).defaults
    except ConfigCompositionException:
        return set()
    parts = {d.override_key or d.config_path for d in listed} - {name, None}
    return {part for part in parts if not part.startswith("hydra/")}


def _quoted(override: str) -> str:
    """Quote the value of `log.run`: 20261120_154400_0 would be read as a number."""
    return re.sub(r"^(\+{0,2}log\.run=)(?!null$)([\w.-]+)$", r"\1'\2'", override)
