"""The configuration: five groups as dataclasses, composed by Hydra, then checked.

Keys, defaults, units and ranges stand in a dataclass beside what they configure:

    data              data/nodes.py        log.eval             evaluation/config.py
    optim             optim/config.py      log.early_stopping   evaluation/config.py
    optim.scheduler   optim/config.py      hardware             distributed/config.py

None of these modules imports torch: what only reads a configuration starts at once. The
groups that put them together, `Config` and `Log`, stand here, and `Model`, which a
method's dataclass extends beside the method. A value out of range is refused before
anything is built.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
    ValidationError,
)

from stable_ssl import experiments, recorded, resolver
from stable_ssl.data.nodes import TRAINING, Data
from stable_ssl.distributed.config import Hardware
from stable_ssl.dotenv import read_env
from stable_ssl.evaluation.config import EarlyStopping, Eval
from stable_ssl.instantiate import left_out
from stable_ssl.loggers.run_names import check_names
from stable_ssl.optim.config import Optim, Schedule, is_foreign
from stable_ssl.schema import (
    ConfigError,
    check_limits,
    first_line,
    key,
    nearest,
    node,
    refuse_no_mapping,
    texts,
)
from stable_ssl.value_types import check_types

MODES = (*TRAINING, "validate", "test", "predict", "export")
RECIPES = "stable_ssl.recipes"  # the package that holds the shipped YAML recipes
MISTAKEN = ("optimizer", "scheduler")  # groups in other libraries, keys in this one


# --- the five groups ------------------------------------------------------------------


@dataclass
class Model:
    """What is trained; a method's own dataclass extends this one."""

    name: str | None = None  # a method's name or a trainer's dotted path
    backbone: Any = field(default_factory=dict)  # name or {name, provider, ...}
    checkpointing: bool = False  # blocks' activations are made again, and not kept


@dataclass
class Pictures:
    """What is drawn: views, neighbours and a map of the features, in `figures`."""

    every_n_epochs: int | None = key(None, low=1)  # null: at the end of training only


@dataclass
class Export:
    """The model as files for deployment, after training and in mode=export."""

    types: list[str] = key(  # none: off; mode=export then takes torchscript
        [], choices=("torchscript", "torch_export", "safetensors")
    )


@dataclass
class Checkpoint:
    """When the state is saved, and how much of it is kept."""

    every_n_epochs: int | None = key(1, low=1)  # null: off
    every_n_steps: int | None = key(None, low=1)  # null: off
    every_n_minutes: float | None = key(None, above=0, high=math.inf)  # null: off
    top_k: int = key(1, low=0)  # best checkpoints by log.monitor to keep
    last: bool = True  # keep the newest after the run too, as last.ckpt


@dataclass
class Log:
    """What is written, and where."""

    folder: str = key("${oc.env:OUTPUT_ROOT,./logs}", path=True)  # runs are below it
    experiment: str = "default"  # folder of its runs, <folder>/runs/<experiment>
    run: str | None = None  # null: time and job number, fixed before submission
    tags: list[str] = field(default_factory=list)  # kept in config.yaml, to sort by
    api: list[str] = key(  # besides metrics.jsonl, whose rows they mirror
        [], choices=("csv", "tensorboard", "wandb")
    )
    entity: str | None = None  # user or team of wandb; null: its default
    project: str = "stable-ssl"  # of wandb
    every_n_steps: int = key(50, low=1)  # a row of metrics.jsonl, a mean since the last
    monitor: str | None = None  # metric that ranks checkpoints and is returned
    monitor_mode: str = key("max", choices=("max", "min"))  # which value is best
    metrics: dict[str, Any] = field(  # {f1: {callable: dotted.path, kwargs: {...}}}
        default_factory=dict  # of predictions and labels of a whole split
    )
    early_stopping: EarlyStopping = node(EarlyStopping)
    checkpoint: Checkpoint = node(Checkpoint)
    # auto | null: a fresh run | path: its full state
    resume: str | None = key("auto", path=True)
    load_from: str | None = key(None, path=True)  # whose weights alone are loaded
    eval: Eval = node(Eval)
    pictures: Pictures | None = field(default_factory=Pictures)  # null: off
    export: Export = node(Export)

    def __post_init__(self) -> None:
        """Refuse names that are none of folders below `runs`."""
        check_names(self.folder, self.experiment, self.run)


@dataclass
class Config:
    """A whole run."""

    mode: str = key("fit", choices=MODES)  # what is done
    fast_dev_run: bool = False  # one batch of everything, nothing kept
    data: Data = node(Data)
    model: Any = field(default_factory=dict)  # checked by the method's dataclass
    optim: Optim = node(Optim)
    hardware: Hardware = node(Hardware)
    log: Log = node(Log)

    def __post_init__(self) -> None:
        """Refuse a method's name instead of its mapping."""
        if not isinstance(self.model, Model):
            refuse_no_mapping("model", self.model, "{name: simclr}")


# --- composition ----------------------------------------------------------------------


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

    from stable_ssl.composing import Composer

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
                yield session
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
        in_words = "Config group override" in str(error)  # see `_sentence`
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


def recipes(folders: Sequence[str | Path] = ()) -> list[str]:
    """Return the names of the recipes in `folders` and of the shipped ones."""
    from importlib.resources import files

    names = [path.name for path in files(RECIPES).iterdir()]
    names += [path.name for folder in folders for path in Path(folder).iterdir()]
    return sorted({n.removesuffix(".yaml") for n in names if n.endswith(".yaml")})


# --- defaults and checks --------------------------------------------------------------


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
            raise ConfigError(_cannot_be_null("model"))
        _leave_out(plain, model)
        given = OmegaConf.create(plain)
        scheduler = OmegaConf.select(given, "optim.scheduler", default={})
        full = copy.deepcopy(_structured(is_foreign(scheduler), model))
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


@functools.cache
def _structured(foreign: bool = False, model: type | None = None) -> DictConfig:
    """Return the defaults with their types, those of the schedule and the method, too.

    Args:
        foreign: whether the schedule is another library's, with arguments of its own.
        model: as for `complete`.
    """
    full = OmegaConf.structured(Config)
    full.optim.scheduler = {} if foreign else OmegaConf.structured(Schedule)
    if model is not None:
        full.model = OmegaConf.structured(model)
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
    from hydra.errors import MissingConfigException, OverrideParseException

    if isinstance(error, MissingConfigException):
        return _missing_recipe(error)
    if isinstance(error, OverrideParseException):
        return _unreadable_override(error.override, str(error))
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)):
        return _unknown_key(cause.full_key or str(cause.key), cause.object_type)
    if isinstance(cause, ValidationError) and cause.full_key:
        if "is not Optional" in str(cause):
            return _cannot_be_null(cause.full_key)
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


def _missing_recipe(error: Any) -> str:
    """Say which recipe, or which option of a group, is not where Hydra looked."""
    path, options = error.missing_cfg_file or "", error.options
    group, _, name = path.rpartition("/")
    kind = f"'{name}' of the group '{group}'"
    if options is None:  # it is no option of a group
        folders = _register_recipes().folders
        kind, options = f"recipe '{path}'", recipes(folders)
        kind += f" in {', '.join(map(str, folders))}" * bool(folders)
        kind += "; give its folder by folders=[...] or --config-dir, or its file's path"
    return (
        f"there is no {kind}{nearest(name, options)}"
        f" (there are: {', '.join(options) or 'none'})"
    )


def _cannot_be_null(path: str) -> str:
    return f"{path}=null, and it cannot be null; leave it out for its default"


def _unknown_key(path: str, group_type: type | None) -> str:
    """Say which keys the group of an unknown key has, or how a new one is added."""
    group, _, name = path.rpartition(".")
    schema = _structured()
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
