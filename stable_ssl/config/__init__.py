"""The configuration: five groups as dataclasses, composed by Hydra, then checked.

    composition.py   from a recipe's name and overrides to Hydra's configuration
    experiments.py   files that may change any key of it
    dotenv.py        the environment that they may read
    composer.py      many that differ in values alone, as in a sweep
    groups.py        the keys, with types, defaults, units and limits
    checks.py        what is left out is filled in, and what is wrong is refused
    resolver.py      numbers that only the data tell
    errors.py        what Hydra and OmegaConf say, in one line

None of these modules imports torch: what only reads a configuration starts at once. A
value out of range is refused before anything is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from stable_ssl.config.checks import alone, complete, with_numbers
from stable_ssl.config.composition import (
    RECIPES,
    compose,
    composed,
    hydra_session,
    located,
    recipes,
)
from stable_ssl.config.errors import translated_errors
from stable_ssl.config.groups import Config, Log, Model, Pictures
from stable_ssl.data.nodes import TRAINING
from stable_ssl.evaluation.config import Eval
from stable_ssl.optim.config import Optim, Schedule
from stable_ssl.schema import ConfigError, key

__all__ = [
    "RECIPES",
    "TRAINING",
    "Config",
    "ConfigError",
    "Eval",
    "Log",
    "Model",
    "Optim",
    "Pictures",
    "Schedule",
    "alone",
    "complete",
    "compose",
    "composed",
    "hydra_session",
    "key",
    "load_config",
    "located",
    "recipes",
    "translated_errors",
    "with_numbers",
]


def load_config(
    name: str | Path = "base",
    overrides: str | Sequence[str] = (),
    folders: str | Path | Sequence[str | Path] = (),
) -> DictConfig:
    """Compose and check a recipe without a running Hydra, e.g. in a notebook.

    Args are those of `compose`, errors those of `compose` and `complete`; the keys
    under `model` are checked when a trainer receives the config.
    """
    return complete(compose(name, overrides, folders))
