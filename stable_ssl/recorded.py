"""The config.yaml of a run folder as a recipe: values, and nothing that acts.

A run writes its configuration resolved. Hydra would act on what a recipe may say
besides: import what a node `hydra` names, compose the files that `defaults` lists and
those that lie beside it, put it into another package, read ${oc.env:...}. So Hydra gets
the values alone, and does not search the folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stable_ssl.schema import ConfigError, texts

FILES = ("config.yaml", "metrics.jsonl")  # a folder that holds both is a run's
NAME = "config_of_a_run"  # in Hydra's store


def is_run_folder(folder: str | Path) -> bool:
    """Return whether a folder is that of a run."""
    return all((Path(folder) / name).is_file() for name in FILES)


def runs_folder(folder: Path) -> Path | None:
    """Return the folder `runs` that a run folder lies in; None of one that does not."""
    above = folder.absolute().parents[1:]  # at least the experiment's is in between
    return next((parent for parent in above if parent.name == "runs"), None)


def is_within(path: Path, folder: Path) -> bool:
    """Return whether a path lies in a folder, all links followed."""
    try:
        inner, outer = map(os.path.realpath, (path, folder))
    except ValueError:  # a name that no file has
        return False
    return Path(inner).is_relative_to(outer)


def links_out(folder: Path) -> list[Path]:
    """Return the links below a folder that lead out of it."""
    return [path for path in sorted(folder.rglob("*")) if not is_within(path, folder)]


def kept_apart(
    name: str, folders: Sequence[str | Path]
) -> tuple[str, list[str | Path], Path | None]:
    """Return the recipe, the folders to search, and the run folder of the recipe.

    Run folders are not searched. `config` in one of them becomes a recipe of Hydra's
    store; otherwise there is no run folder.

    Raises:
        ConfigError: as of `read_record`.
    """
    runs = [folder for folder in folders if is_run_folder(folder)]
    others = [folder for folder in folders if folder not in runs]
    if not runs or name != "config":
        return name, others, None
    from hydra.core.config_store import ConfigStore

    values = read_record(runs[0])
    ConfigStore.instance().store(NAME, values, provider="stable_ssl")
    return NAME, others, Path(runs[0])


def read_record(folder: str | Path) -> dict[str, Any]:
    """Return the values in the config.yaml of a run folder.

    Raises:
        ConfigError: it is no YAML mapping, or it holds what no run writes.
    """
    from yaml import YAMLError

    path = Path(folder) / FILES[0]
    try:
        config = OmegaConf.load(path)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read: {text}") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{path} holds no keys")
    values = OmegaConf.to_container(config)
    acting = [key for key in ("defaults", "hydra") if key in values]
    acting += [f"{at}={text!r}" for at, text in texts(values) if "${" in text]
    if acting:
        raise ConfigError(
            f"{path} holds {acting[0]}, which no run writes: a run's configuration is"
            " values alone; write them out, or copy the file to a folder of recipes of"
            " your own"
        )
    return values
