"""From the name of a recipe and overrides to what Hydra composes of them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stable_ssl import recorded
from stable_ssl.config import experiments
from stable_ssl.config.dotenv import read_env
from stable_ssl.config.errors import translated_errors
from stable_ssl.config.groups import Config
from stable_ssl.schema import ConfigError, nearest

RECIPES = "stable_ssl.recipes"  # the package that holds the shipped YAML recipes


@functools.cache
def _register_recipes() -> Any:
    """Register the schema with Hydra, and folders to search before the recipes.

    Returns:
        The plugin that adds them, a class; its attribute `folders` says which. Hydra's
        own key, `hydra.searchpath`, is the user's, and is searched after them.
    """
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class FoldersOfRecipes(SearchPathPlugin):
        folders: Sequence[str | Path] = ()

        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for folder in self.folders:
                url = f"file://{Path(folder).absolute()}"
                search_path.prepend("stable-ssl", url, anchor="main")

    Plugins.instance().register(FoldersOfRecipes)
    # names and defaults without types: Hydra would convert values before `complete`
    # has seen them, and 2 of a switch would be true
    schema = OmegaConf.create(OmegaConf.to_container(OmegaConf.structured(Config)))
    OmegaConf.set_struct(schema.log.eval, False)  # evaluators of one's own
    OmegaConf.set_struct(schema.optim.scheduler, False)  # arguments of any schedule
    for name, recipe in (("stable_ssl", schema), (experiments.ALONE, {})):
        ConfigStore.instance().store(name, recipe, provider="stable_ssl")
    return FoldersOfRecipes


@contextmanager
def hydra_session(
    folders: Sequence[str | Path] = (), session: Any = None
) -> Iterator[Any]:
    """Let Hydra find recipes in `folders`, then among the shipped ones.

    What recipes take from the environment may stand in `.env`, which is read first. A
    Hydra that runs already is the current one again afterwards.

    Args:
        folders: searched first.
        session: what an earlier one with these folders yielded, to go on with it: no
            file is read again.

    Yields:
        The object behind `hydra.main`, as Hydra's `GlobalHydra` gives it. All that is
        used of Hydra without being documented are its methods run, multirun, app_help,
        hydra_help, show_cfg, show_info and shell_completion, by the command line, and
        its attribute config_loader: `hydra.main` itself returns no result of a job,
        takes its arguments from `sys.argv` alone, and prints tracebacks.

    Raises:
        ConfigError: an error of Hydra or OmegaConf in the block, in one line.
    """
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import MissingConfigException

    from stable_ssl.config.composer import Composer

    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with translated_errors():
            read_env()
            _register_recipes().folders = folders
            with warnings.catch_warnings():  # Hydra 1.4 asks to leave out the version
                warnings.filterwarnings("ignore", "The version_base parameter")
                at_recipes = initialize_config_module(
                    RECIPES, "stable-ssl", version_base="1.3"
                )
            with at_recipes:
                if session is None:
                    session = GlobalHydra.instance().hydra
                    session.config_loader = Composer(session.config_loader)
                GlobalHydra.instance().hydra = session
                try:
                    yield session
                except MissingConfigException as error:
                    raise ConfigError(_missing_recipe(error, folders)) from None
    finally:
        GlobalHydra.instance().hydra = running


def compose(
    name: str | Path,
    overrides: str | Sequence[str] = (),
    folders: str | Path | Sequence[str | Path] = (),
) -> DictConfig:
    """Compose a recipe, Hydra's own node `hydra` included, without running anything.

    Args:
        name: recipe found in `folders` or among the shipped ones, or the path of its
            file, `configs/mine.yaml`, whose folder is searched, too.
        overrides: as on the command line: "optim.lr=2", "++log.tags=[a]"; one or many.
        folders: one or many, searched before the shipped recipes; of a run folder
            there is `config` alone, see recorded.py.

    Raises:
        ConfigError: no such recipe, folder or group option, an unknown key, a wrong
            type.
    """
    name, overrides = str(name), _texts("overrides", overrides, "optim.lr=2")
    folders = _texts("folders", folders, "configs")
    if missing := [folder for folder in folders if not Path(folder).is_dir()]:
        raise ConfigError(
            f"no folder of recipes at {missing[0]}; folders=[...] start from"
            f" {Path.cwd()}"
        )
    name, folders, _ = recorded.kept_apart(*located(name, folders))
    with hydra_session(folders):
        return composed(*experiments.arranged(name, overrides))


def composed(name: str, overrides: list[str]) -> DictConfig:
    """Compose a recipe, Hydra's own node `hydra` included, in a `hydra_session`.

    Args:
        name: of the recipe, as `experiments.arranged` returns it.
        overrides: likewise.
    """
    import hydra

    try:
        return hydra.compose(name, overrides, return_hydra_config=True)
    except (TypeError, ValueError) as error:
        in_words = "Config group override" in str(error)  # see errors.py
        if in_words or isinstance(error, OmegaConfBaseException):
            raise
        given = " ".join(overrides)  # Hydra stumbled over one of them
        raise ConfigError(f"{given} cannot be composed: {error}") from None


def located(
    name: str, folders: Sequence[str | Path]
) -> tuple[str, Sequence[str | Path]]:
    """Return a recipe's name and the folders to search, given it or its file's path."""
    path, name = Path(name), name.removesuffix(".yaml")
    if path.suffix == ".yaml" and path.is_file():
        return path.stem, [path.parent, *folders]
    return name, folders


def _texts(argument: str, found: Any, example: str) -> list[str]:
    """Return one text or path, or several, as a list of texts."""
    found = [found] if isinstance(found, (str, Path)) else found
    if isinstance(found, Sequence) and all(isinstance(f, (str, Path)) for f in found):
        return [str(f) for f in found]
    raise ConfigError(f"found {argument}={found}; write a list, [{example!r}]")


def recipes(folders: Sequence[str | Path] = ()) -> list[str]:
    """Return the names of the recipes in `folders` and of the shipped ones."""
    from importlib.resources import files

    names = [path.name for path in files(RECIPES).iterdir()]
    names += [path.name for folder in folders for path in Path(folder).iterdir()]
    return sorted({n.removesuffix(".yaml") for n in names if n.endswith(".yaml")})


def _missing_recipe(error: Any, folders: Sequence[str | Path]) -> str:
    """Say which recipe, or which option of a group, is not where Hydra looked."""
    path, options = error.missing_cfg_file or "", error.options
    group, _, name = path.rpartition("/")
    kind = f"'{name}' of the group '{group}'"
    if options is None:  # it is no option of a group
        kind, options = f"recipe '{path}'", recipes(folders)
        kind += f" in {', '.join(map(str, folders))}" * bool(folders)
        kind += "; give its folder by folders=[...] or --config-dir, or its file's path"
    return (
        f"there is no {kind}{nearest(name, options)}"
        f" (there are: {', '.join(options) or 'none'})"
    )
