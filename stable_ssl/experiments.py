"""Files that may change any key: the groups experiment, local (a machine's) and debug.

Each is a file of `configs/<group>/` that starts with `# @package _global_`. Composed
where a recipe's base would name them, they would lose to the recipe's own keys; so they
are composed after it, in this order, and before what the command line sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

GROUPS = ("experiment", "local", "debug")
ALONE = "experiment"  # the recipe that is nothing but an experiment
OWN = "local/default"  # used where it is there and the recipe is composed of files


def arranged(
    repository: Any, name: str, overrides: Sequence[str], named: bool = True
) -> tuple[str, list[str]]:
    """Return the recipe to compose, and the overrides with `GROUPS` as they act.

    Args:
        repository: Hydra's, of the folders of recipes.
        name: of the recipe.
        overrides: as given.
        named: whether the user named the recipe. Otherwise an experiment that builds
            on one, `defaults: [/byol, _self_]`, is all that is composed.
    """
    asked = {o.partition("=")[0]: o.partition("=")[2] for o in overrides}
    if not named and "experiment" in asked:
        files = [f"experiment/{e}" for e in asked["experiment"].split(",")]
        if all(any(map(_is_recipe, _defaults(repository, file))) for file in files):
            name = ALONE
    parts = _defaults(repository, name)
    if parts and "local" not in asked and repository.config_exists(OWN):
        asked["local"] = OWN.partition("/")[2]
    last = {g: asked[g] for g in GROUPS if g in asked and g not in parts}
    rest = [o for o in overrides if o.partition("=")[0] not in last]
    return name, rest + [f"+{g}={v}" for g, v in last.items() if v != "null"]


def _is_recipe(part: str) -> bool:
    return part.partition("/")[0] not in GROUPS


def _defaults(repository: Any, name: str) -> set[str]:
    """Return the recipes and groups that a file builds on, and those that these do."""
    from hydra.core.default_element import ConfigDefault

    file = repository.load_config(name)
    found: set[str] = set()
    for default in file.defaults_list if file else ():
        included = isinstance(default, ConfigDefault)
        part = default.path if included else default.group
        if part == "_self_" or default.is_override():
            continue
        home = name.rpartition("/")[0]
        part = part[1:] if part.startswith("/") else f"{home}/{part}".lstrip("/")
        found |= {part, *(_defaults(repository, part) if included else ())}
    return found
