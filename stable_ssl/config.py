"""The configuration: five groups as dataclasses, composed by Hydra, checked in words.

Their keys, defaults and units stand here; a method's own keys stand in a dataclass
beside the method and extend `Model`, a dataset's and an operation's beside those.
Ranges and choices are part of the field, so that a value out of range is refused before
anything is built.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
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

from stable_ssl import experiments, runtime
from stable_ssl.dotenv import read_env
from stable_ssl.schema import (
    ConfigError,
    check_limits,
    first_line,
    key,
    nearest,
    node,
)

TRAINING = ("fit", "profile_data", "profile_model")  # modes that need train data
MODES = (*TRAINING, "validate", "test", "predict", "export")
RECIPES = "stable_ssl.recipes"  # the package that holds the shipped YAML recipes
ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*['\"]?(\w+)")
MASK = "***"  # in what is written, where a secret was
SECRET = re.compile(r"(^|_)(key|token|secret|password|credentials?)$", re.IGNORECASE)
MISTAKEN = ("optimizer", "scheduler")  # for groups, which other libraries have


# --- the five groups ------------------------------------------------------------------


@dataclass
class Data:
    """What is trained and evaluated on."""

    root: str = "${oc.env:DATA_ROOT,./data}"  # parent of relative dataset roots
    num_classes: int | None = key(None, low=1)  # null: ask the dataset
    batch_size: int | None = key(None, low=1)  # samples a step, over all processes
    batch_size_per_gpu: int | None = key(  # or samples a process
        None, low=1, instead_of="batch_size"
    )
    eval_batch_size: int | None = key(None, low=1)  # null: as in training
    num_workers: int = key(0, low=0)  # processes that decode; 0: in the main process
    download: bool = False  # fetch a missing torchvision dataset
    on_error: str = key("raise", choices=("raise", "skip"))  # an image not readable
    in_memory: float = key(2.0, low=0)  # GiB; hold image folders of one size up to this
    compile: bool = False  # torch.compile the batched augmentation
    labelled: str | None = None  # of several train loaders, whose labels probes use
    transforms: dict[str, Any] = field(default_factory=dict)  # free pool of op lists
    train: Any = None  # loader node {dataset: {name, ...}, DataLoader keys}, or several
    val: Any = None  # by name; null turns one off
    test: Any = None
    bank: Any = None  # kNN neighbours; null: the train split, seen as in val
    predict: Any = "test"  # of mode=predict: a split by name, or a loader node

    def __post_init__(self) -> None:
        """Refuse plain values where a mapping is needed."""
        for split in ("train", "val", "test", "bank"):
            loader = getattr(self, split)
            _refuse_no_mapping(f"data.{split}", loader, "{dataset: {name: digits}}")
            dataset = (loader or {}).get("dataset")
            _refuse_no_mapping(f"data.{split}.dataset", dataset, "{name: digits}")


def _refuse_no_mapping(path: str, value: Any, example: str) -> None:
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{path}={value} is no mapping; write {path}={example}")


@dataclass
class Model:
    """What is trained; a method's own dataclass extends this one."""

    name: str | None = None  # a method's name or a trainer's dotted path
    backbone: Any = field(default_factory=dict)  # name or {name, provider, ...}


@dataclass
class Schedule:
    """The learning rate as a function of the step; warm-up, then decay."""

    name: str | None = key(
        "cosine", choices=("cosine", "polynomial", "step", "constant")
    )
    warmup_epochs: float = key(0.0, low=0)  # epochs, fractions allowed
    warmup_lr: float = key(0.0, low=0)  # learning rate of the first step
    min_lr: float = key(  # learning rate after the last step
        0.0, low=0, of=("cosine", "polynomial", "step")
    )
    power: float = key(1.0, above=0, of=("polynomial",))
    milestones: list[float] = key([], above=0, of=("step",))  # in epochs
    gamma: float = key(0.1, above=0, of=("step",))  # factor at each milestone


def is_foreign(scheduler: Any) -> bool:
    """Return whether a node `optim.scheduler` names torch's or another schedule."""
    if not isinstance(scheduler, Mapping):
        return False
    return "_target_" in scheduler or str(scheduler.get("name")).endswith(
        ("LR", "Restarts", "Plateau")  # as all of torch.optim.lr_scheduler
    )


@dataclass
class Optim:
    """How it is trained."""

    optimizer: Any = "sgd"  # a torch.optim name, lars, or {_target_: ...}
    lr: float = key(0.1, low=0)
    scale_lr_by: int | None = key(None, low=1)  # lr * batch_size / this; null: lr
    weight_decay: float = key(0.0, low=0)  # on matrices ...
    weight_decay_end: float | None = key(None, low=0)  # ... to this on a cosine
    decay_bias_and_norm: bool = False  # ... and biases and norms
    momentum: float = key(0.9, low=0, high=1)
    nesterov: bool = False
    betas: list[float] = key([0.9, 0.999], low=0, below=1, length=2)
    grad_max_norm: float | None = key(None, above=0)  # clip the gradient's 2-norm
    accumulate: int = key(1, low=1)  # micro-batches a step; batch_size is one of them
    epochs: int | None = key(None, low=1)  # passes over the train data ...
    steps: int | None = key(None, low=1, instead_of="epochs")  # ... or optimizer steps
    steps_per_epoch: int | None = key(None, low=1)  # null: the whole train data
    groups: list[Any] = field(default_factory=list)  # {pattern, lr, weight_decay, ...}
    layer_decay: float | None = key(None, above=0, high=1)  # lr's factor a layer down
    # a `Schedule`, a torch.optim.lr_scheduler name, {_target_: ...}; null: constant
    scheduler: Any = field(default_factory=lambda: dataclasses.asdict(Schedule()))


@dataclass
class Hardware:
    """Where it is trained."""

    seed: int = key(0, low=0, high=2**63 - 1)
    accelerator: str = key("auto", choices=("auto", "cpu", "gpu", "mps"))
    gpus: Any = None  # count, ids (list, "0,1"), -1: all, 0: CPU; null: what there is
    processes: int | None = key(None, low=1)  # on the CPU of this machine; null: 1
    num_nodes: int = key(1, low=1)  # machines, which Slurm or torchrun must start
    sync_batchnorm: bool = True  # batch statistics of all processes, as of one
    threads: int | None = key(None, low=1)  # of a process's CPU; null: torch's choice
    precision: str = key("float32", choices=("float32", "bfloat16", "float16"))
    channels_last: bool = True
    compile: bool = False  # torch.compile the loss
    deterministic: bool = False  # torch.use_deterministic_algorithms
    detect_anomaly: bool = False  # find what makes a gradient NaN; slow

    def __post_init__(self) -> None:
        """Refuse what is no count and no ids, and GPUs that the accelerator denies."""
        gpus, accelerator = self.gpus, self.accelerator
        if gpus is None:
            return
        if isinstance(gpus, list):
            valid = all(type(i) is int and i >= 0 for i in gpus)
        else:
            valid = re.fullmatch(r"-1|\d+|(\d+,)+\d*", str(gpus))
        if not valid:
            raise ConfigError(
                f"hardware.gpus={gpus} is neither a count, a list of ids, '0,1', -1"
                " (all) nor 0 (the CPU)"
            )
        none = str(gpus) in ("0", "[]")
        if accelerator != "auto" and none == (accelerator == "gpu"):
            raise ConfigError(
                f"hardware.gpus={gpus} contradicts hardware.accelerator={accelerator};"
                " set gpus to null, or accelerator to auto"
            )


@dataclass
class Checkpoint:
    """When the state is saved, and how much of it is kept."""

    every_n_epochs: int | None = key(1, low=1)
    every_n_steps: int | None = key(None, low=1)
    every_n_minutes: float | None = key(None, above=0)
    top_k: int = key(1, low=0)  # best checkpoints by log.monitor to keep
    last: bool = True  # keep the newest after the run too, as last.ckpt


@dataclass
class EarlyStopping:
    """End a training whose validations do not get better any more."""

    patience: int | None = key(None, low=1)  # validations; null: off
    monitor: str | None = None  # a metric; null: log.monitor
    min_delta: float = key(0.0, low=0)  # by which a value must be better
    mode: str | None = key(None, choices=("max", "min"))  # null: log.monitor_mode


@dataclass
class Knn:
    """Weighted nearest neighbours, Wu et al. 2018, https://arxiv.org/abs/1805.01978."""

    k: int = key(20, low=1)
    temperature: float = key(0.07, above=0)


@dataclass
class Linear:
    """The online linear probe: trained on detached features beside the method."""

    optimizer: Any = "adamw"  # its own, never the method's
    lr: float = key(1e-3, above=0)
    weight_decay: float = key(0.0, low=0)


@dataclass
class Offline:
    """Classifiers of the frozen features of the bank, in evaluations of test splits.

    linear_acc1: SGD on standardised features, for all `lrs` at once, of which a part of
    the bank chooses; logistic_acc1: scikit-learn's logistic regression.
    """

    in_fit: bool = False  # when a training evaluates test too, not in mode=test alone
    lrs: list[float] = key(
        [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0], above=0, shortest=1
    )
    epochs: int = key(100, low=1)  # passes over the bank's features
    batch_size: int = key(256, low=1)
    held_out: float = key(0.1, above=0, below=1)  # share of the bank that chooses
    logistic: bool = True  # costly from some 100,000 images or 1,000 classes on


@dataclass
class Eval:
    """What is evaluated, and when; {_target_: ...} adds an evaluator of one's own."""

    every_n_epochs: int | None = key(1, low=1)
    every_n_steps: float | None = key(None, above=0)  # below 1: a share of an epoch
    sanity_steps: int = key(0, low=0)  # val batches seen before training, not recorded
    untrained: bool = False  # evaluate val and test before the first step too
    test_at_end: bool = True  # on the weights of the last step
    knn: Knn | None = field(default_factory=Knn)  # null: off
    linear: Linear | None = field(default_factory=Linear)  # null: off
    few_labels: list[str] = key(  # 10 a class, or "1%" of each; test splits
        [], pattern=r"[1-9]\d*|(?=.*[1-9])\d{1,2}(\.\d+)?%|100%", like="10 or 1%"
    )
    offline: Offline | None = field(default_factory=Offline)  # null: off
    spectrum: bool = False  # rankme, alpha_req, feature_std, uniformity of the features


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
class Log:
    """What is written, and where."""

    folder: str = "${oc.env:OUTPUT_ROOT,./logs}"
    experiment: str = "default"
    run: str | None = None  # null: time and job number, fixed before submission
    tags: list[str] = field(default_factory=list)  # kept in config.yaml, to sort by
    api: list[str] = key(  # besides metrics.jsonl, whose rows they mirror
        [], choices=("csv", "tensorboard", "wandb")
    )
    entity: str | None = None  # user or team of wandb; null: its default
    project: str = "stable-ssl"  # of wandb
    every_n_steps: int = key(50, low=1)  # a row of metrics.jsonl, a mean since the last
    monitor: str | None = None  # metric that ranks checkpoints and is returned
    monitor_mode: str = key("max", choices=("max", "min"))
    metrics: dict[str, Any] = field(  # {f1: {callable: dotted.path, kwargs: {...}}}
        default_factory=dict  # of predictions and labels of a whole split
    )
    early_stopping: EarlyStopping = node(EarlyStopping)
    checkpoint: Checkpoint = node(Checkpoint)
    resume: str | None = "auto"  # auto | null: a fresh run | path: its full state
    load_from: str | None = None  # checkpoint whose weights alone are loaded
    eval: Eval = node(Eval)
    pictures: Pictures | None = field(default_factory=Pictures)  # null: off
    export: Export = node(Export)

    def __post_init__(self) -> None:
        """Refuse evaluations every 2.5 steps."""
        every = self.eval.every_n_steps
        if every is not None and every > 1 and every % 1:
            raise ConfigError(
                f"log.eval.every_n_steps={every} must be a whole number of steps, or"
                " below 1, a share of an epoch"
            )


@dataclass
class Config:
    """A whole run."""

    mode: str = key("fit", choices=MODES)
    fast_dev_run: bool = False  # one batch of everything, nothing kept
    data: Data = node(Data)
    model: Any = field(default_factory=dict)  # checked by the method's dataclass
    optim: Optim = node(Optim)
    hardware: Hardware = node(Hardware)
    log: Log = node(Log)

    def __post_init__(self) -> None:
        """Refuse a method's name in the place of its mapping."""
        if not isinstance(self.model, Model):
            _refuse_no_mapping("model", self.model, "{name: simclr}")


# --- composition ----------------------------------------------------------------------


@functools.cache
def _register_recipes() -> Any:
    """Tell Hydra of our schema, and of folders to search before the shipped recipes.

    Returns:
        The plugin that adds them, a class; its attribute `folders` says which. Hydra's
        own key, `hydra.searchpath`, is the user's, and is searched after them.
    """
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class FoldersOfRecipes(SearchPathPlugin):
        folders: Sequence[str | Path] = ()

        def manipulate_search_path(self, search_path: Any) -> None:
            for folder in self.folders:
                url = f"file://{Path(folder).absolute()}"
                search_path.prepend("stable-ssl", url, anchor="main")

    Plugins.instance().register(FoldersOfRecipes)
    schema = OmegaConf.structured(Config, flags={"struct": False})
    OmegaConf.set_struct(schema.log.eval, False)  # evaluators of one's own
    for name, recipe in (("stable_ssl", schema), (experiments.ALONE, {})):
        ConfigStore.instance().store(name, recipe, provider="stable_ssl")
    return FoldersOfRecipes


@contextmanager
def hydra_session(folders: Sequence[str | Path] = ()) -> Iterator[Any]:
    """Let Hydra find recipes in `folders`, then among the shipped ones.

    What recipes take from the environment may stand in `.env`, which is read first. A
    Hydra that runs already is the current one again afterwards.

    Yields:
        The object behind `hydra.main`, as Hydra's `GlobalHydra` gives it. All that is
        used of Hydra without being documented are its methods run, multirun, app_help,
        hydra_help, show_cfg, show_info and shell_completion, by the command line:
        `hydra.main` itself returns no result of a job, takes its arguments from
        `sys.argv` alone, and prints tracebacks.

    Raises:
        ConfigError: an error of Hydra or OmegaConf in the block, in words.
    """
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with errors_in_words():
            read_env()
            _register_recipes().folders = folders
            with warnings.catch_warnings():  # Hydra 1.4 asks to leave out the version
                warnings.filterwarnings("ignore", "The version_base parameter")
                at_recipes = initialize_config_module(
                    RECIPES, "stable-ssl", version_base="1.3"
                )
            with at_recipes:
                yield GlobalHydra.instance().hydra
    finally:
        GlobalHydra.instance().hydra = running


def compose(
    name: str, overrides: Sequence[str] = (), folders: Sequence[str | Path] = ()
) -> DictConfig:
    """Compose a recipe, Hydra's own node `hydra` included, without running anything.

    Args:
        name: recipe without `.yaml`, found in `folders` or among the shipped ones.
        overrides: as on the command line: "optim.lr=2", "++log.tags=[a]".
        folders: searched before the shipped recipes.

    Raises:
        ConfigError: no such recipe or group option, an unknown key, a wrong type.
    """
    import hydra

    with hydra_session(folders):
        name, arranged = experiments.arranged(name, overrides)
        return hydra.compose(name, arranged, return_hydra_config=True)


def load_config(
    name: str = "base",
    overrides: Sequence[str] = (),
    folders: Sequence[str | Path] = (),
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


@runtime.stand_ins()
def complete(config: Mapping | None = None, model: type | None = None) -> DictConfig:
    """Fill a config with the defaults and check every key and value of it.

    Args:
        config: any part of the five groups; other top-level groups are the user's own.
        model: dataclass of the keys under `model`; None accepts any.

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range, keys that
            contradict each other, a mandatory value (???) that is missing.
    """
    with errors_in_words():
        read_env()
        given = OmegaConf.create({} if config is None else config)
        given = OmegaConf.to_container(given)  # plain: keys added by ++ are checked too
        given.pop("hydra", None)
        runtime.check(given)
        for path in sorted(OmegaConf.missing_keys(given))[:1]:
            raise ConfigError(
                f"{path} has no value, and this recipe needs one: add {path}=..."
            )
        full = OmegaConf.structured(Config)
        scheduler = OmegaConf.select(OmegaConf.create(given), "optim.scheduler")
        ours = {} if is_foreign(scheduler) else OmegaConf.structured(Schedule)
        full.optim.scheduler = ours
        evaluators = _own_evaluators(given.get("log"))
        own_groups = {n: value for n, value in given.items() if n not in full}
        for name, value in own_groups.items():
            _check_own_group(str(name), value, full)
            del given[name]
        if model is not None:
            full.model = OmegaConf.structured(model)
        full = OmegaConf.merge(full, given)  # refuses unknown keys and wrong types
        OmegaConf.set_struct(full, False)
        full.merge_with(own_groups)
        OmegaConf.set_struct(full.log.eval, False)
        full.log.eval.merge_with(evaluators)
        check_limits(full)
        OmegaConf.to_object(full)  # makes each dataclass: its __post_init__ checks
    return full


def _own_evaluators(log: Any) -> dict[str, Any]:
    """Take the evaluators of the user's own out of a group `log`; return them."""
    evaluators = log.get("eval") if isinstance(log, dict) else None
    evaluators = evaluators if isinstance(evaluators, dict) else {}
    known = {field.name for field in dataclasses.fields(Eval)}
    own = [n for n, e in evaluators.items() if n not in known and "_target_" in str(e)]
    return {name: evaluators.pop(name) for name in own}


def _check_own_group(name: str, value: Any, schema: DictConfig) -> None:
    """Refuse a top-level key that nobody reads: a group, or one of its keys, misplaced.

    Args:
        name: of the key.
        value: plain.
        schema: the five groups.
    """
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
def errors_in_words() -> Iterator[None]:
    """Turn the errors of Hydra and OmegaConf into a ConfigError of one line."""
    from hydra.errors import HydraException
    from yaml import YAMLError

    try:
        yield
    except ConfigError:
        raise
    except YAMLError as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"a recipe is not YAML: {text}") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_sentence(error)) from error
    except (AttributeError, AssertionError) as error:  # as OmegaConf sets keys of null
        raise ConfigError(_key_of_null(error)) from error


def _sentence(error: Exception) -> str:
    """Turn an error of Hydra or OmegaConf into one line that a person can act on."""
    from hydra.errors import MissingConfigException

    if isinstance(error, MissingConfigException):
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        options = (error.options if group else recipes()) or []
        kind = f"'{name}' of the group '{group}'" if group else f"recipe '{name}'"
        return (
            f"there is no {kind}{nearest(name, options)}"
            f" (there are: {', '.join(options) or 'none'})"
        )
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)):
        return _unknown_key(cause.full_key or str(cause.key), cause.object_type)
    if isinstance(cause, ValidationError) and cause.full_key:
        return f"{cause.full_key}: {first_line(cause)}"
    text = "\n".join(str(e) for e in (error, error.__cause__) if e is not None)
    if unreadable := re.search(r"LexerNoViableAltException: (.*)", text):
        return (
            f"{unreadable[1]} cannot be read; quote the value, for the shell too:"
            " \"key='value'\""
        )
    if re.search(r"because '.*' is None", text):
        return _key_of_null(error)
    if merged := re.search(r"\w+ is not a subclass of (\w+)\. value: (.*)", text):
        return (
            f"found {merged[2]} where the keys of {merged[1]} are expected; give a"
            " mapping, {key: value}"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(lines[:4])


def _key_of_null(error: Exception) -> str:
    return (
        f"a key is set of a group that is null ({first_line(error)}); give the group"
        " above it: log.eval={linear: {lr: 0.1}}"
    )


def _unknown_key(path: str, group_type: Any) -> str:
    """Say which keys the group of an unknown key has, or how a new one is added."""
    group, _, name = path.rpartition(".")
    if dataclasses.is_dataclass(group_type):
        known = [f.name for f in dataclasses.fields(group_type)]
        keys = f"{nearest(name, known)} ({group or 'it'} knows {', '.join(known)})"
    else:
        keys = f"; a new key is added with ++{path}=..."
    hint = "" if group else f"; a new group is added with ++{path}.key=..."
    return f"{path} is not a key of the configuration{keys}{hint}"


# --- what is written ------------------------------------------------------------------


def to_yaml(config: DictConfig) -> str:
    """Return the resolved config as YAML with the values of secret keys masked."""
    return OmegaConf.to_yaml(OmegaConf.create(masked(config)))


def masked(config: DictConfig) -> dict:
    """Return the resolved config as a plain dict with the values of secrets masked.

    A secret is the value of a key whose name says so, and what an interpolation takes
    from a variable of the environment whose name says so, wherever it ends up.
    """
    variables = ENVIRONMENT.findall(str(OmegaConf.to_container(config)))
    values = {os.environ.get(name) for name in variables if SECRET.search(name)}
    secrets = sorted(filter(None, values), key=len, reverse=True)

    def mask(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {k: mask(v, str(k)) for k, v in value.items()}
        if isinstance(value, list):
            return [mask(v) for v in value]
        if value and SECRET.search(name):
            return MASK
        for secret in secrets:
            if str(value) == secret:  # a number, too
                return MASK
            if isinstance(value, str):
                value = value.replace(secret, MASK)
        return value

    return mask(OmegaConf.to_container(config, resolve=True))
