"""The configuration: five groups as dataclasses, composed by Hydra, checked in words.

Their keys, defaults and units stand here; a method's own keys stand in a dataclass
beside the method and extend `Model`, a dataset's and an operation's beside those.
Ranges and choices are part of the field, so that a value out of range is refused before
anything is built.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import stable_ssl.experiments as experiments
import stable_ssl.runtime as runtime
from stable_ssl.dotenv import read_env
from stable_ssl.schema import (
    ConfigError,
    check_limits,
    first_line,
    key,
    nearest,
    nested,
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
    batch_size_per_gpu: int | None = key(None, low=1)  # or samples a process
    eval_batch_size: int | None = key(None, low=1)  # null: as in training
    num_workers: int = key(0, low=0)  # processes that decode; 0: in the main process
    download: bool = False  # fetch a missing torchvision dataset
    on_error: str = key("raise", choices=("raise", "skip"))  # an image not readable
    in_memory: float = key(
        2.0, low=0
    )  # GiB; image folders of one size up to it are held
    compile: bool = False  # torch.compile the batched augmentation
    labelled: str | None = None  # of several train loaders, whose labels probes use
    transforms: dict[str, Any] = field(default_factory=dict)  # free pool of op lists
    train: Any = None  # loader node {dataset: {name, ...}, DataLoader keys}, or several
    val: Any = None  # by name; null turns one off
    test: Any = None
    bank: Any = None  # kNN neighbours; null: the train split, seen as in val
    predict: Any = "test"  # of mode=predict: a split by name, or a loader node


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
    steps: int | None = key(None, low=1)  # ... or optimizer steps
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
    gpus: Any = (
        None  # count, list or "0,1" of ids, -1: all, 0: CPU; null: what there is
    )
    processes: int | None = key(None, low=1)  # on the CPU of this machine; null: 1
    num_nodes: int = key(1, low=1)  # machines, which Slurm or torchrun must start
    sync_batchnorm: bool = True  # batch statistics of all processes, as of one
    threads: int | None = key(None, low=1)  # of a process's CPU; null: torch's choice
    precision: str = key("float32", choices=("float32", "bfloat16", "float16"))
    channels_last: bool = True
    compile: bool = False  # torch.compile the loss
    deterministic: bool = False  # torch.use_deterministic_algorithms
    detect_anomaly: bool = False  # find what makes a gradient NaN; slow


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
    every_n_steps: int = key(
        50, low=1
    )  # a row of metrics.jsonl, the mean since the last
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


def schema() -> DictConfig:
    """Return all keys with their defaults and types; some groups are open to more."""
    schema = OmegaConf.structured(Config, flags={"struct": False})
    OmegaConf.set_struct(schema.log.eval, False)  # evaluators of the user's own
    return schema


# --- composition ----------------------------------------------------------------------


def hydra_app(folders: Sequence[str | Path] = ()) -> Any:
    """Return a Hydra that finds recipes in `folders`, then among the shipped ones.

    What recipes take from the environment may stand in `.env`, which is read first.
    """
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra

    read_env()
    version.setbase("1.3")
    for name, recipe in (
        ("stable_ssl", schema()),
        (experiments.ALONE, {"defaults": [{"experiment": "???"}]}),
    ):
        ConfigStore.instance().store(name=name, node=recipe, provider="stable_ssl")
    path = create_config_search_path(None)
    before_schema = SearchPathQuery(provider="schema")
    for place in [
        *(f"file://{Path(f).absolute()}" for f in folders),
        f"pkg://{RECIPES}",
    ]:
        path.prepend("stable-ssl", place, anchor=before_schema)
    GlobalHydra.instance().clear()
    return Hydra.create_main_hydra2("stable-ssl", path)


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
    from hydra.types import RunMode

    with aside(folders) as hydra:
        return hydra.compose_config(
            name,
            quoted(overrides),
            run_mode=RunMode.RUN,
            from_shell=False,
            with_log_configuration=False,
        )


def arranged(
    name: str,
    overrides: Sequence[str] = (),
    folders: Sequence[str | Path] = (),
    named: bool = True,
) -> tuple[str, list[str]]:
    """Return recipe and overrides for `compose`; see `experiments.arranged`."""
    with aside(folders) as hydra:
        repository = hydra.config_loader.repository
        return experiments.arranged(repository, name, overrides, named)


@contextmanager
def aside(folders: Sequence[str | Path]) -> Iterator[Any]:
    """Yield a `hydra_app` without disturbing one that runs; say errors in words."""
    from hydra.core.global_hydra import GlobalHydra

    running = GlobalHydra.instance().hydra
    try:
        with errors_in_words():
            yield hydra_app(folders)
    finally:
        GlobalHydra.instance().hydra = running


def quoted(overrides: Sequence[str]) -> list[str]:
    """Quote the value of `log.run`: 20261120_154400_0 would be read as a number."""
    return [
        re.sub(r"^(\+{0,2}log\.run=)(?!null$)([\w.-]+)$", r"\1'\2'", o)
        for o in overrides
    ]


def load_config(
    name: str = "base",
    overrides: Sequence[str] = (),
    folders: Sequence[str | Path] = (),
) -> DictConfig:
    """Compose and check a recipe without a running Hydra, e.g. in a notebook.

    Args are those of `compose`, errors those of `compose` and `complete`; the keys
    under `model` are checked when a trainer receives the config.
    """
    return complete(compose(*arranged(name, overrides, folders), folders))


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
    given = OmegaConf.create(config if config is not None else {})
    given = OmegaConf.to_container(given)  # plain: forced keys show
    given.pop("hydra", None)
    with errors_in_words():
        runtime.check(given)
        given = OmegaConf.create(given)
        missing = OmegaConf.missing_keys(given)
    if missing:
        key = sorted(missing)[0]
        raise ConfigError(
            f"{key} has no value, and this recipe needs one: add {key}=..."
        )
    full = schema()
    known = [f.name for f in dataclasses.fields(Config)]
    for group in given:
        close = difflib.get_close_matches(str(group), known, n=1, cutoff=0.75)
        if group not in known and close:
            raise ConfigError(f"{group} is not a group{nearest(str(group), known)}")
        _check_own(str(group), given._get_node(group))
    if model is not None:
        full.model = OmegaConf.structured(model)
    with errors_in_words():
        own = not is_foreign(OmegaConf.select(given, "optim.scheduler"))
        full.optim.scheduler = OmegaConf.structured(Schedule) if own else {}
    _check_keys(given, Config, model, Schedule if own else None)
    with errors_in_words():
        full = OmegaConf.merge(full, given)
        _check_mappings(full)
        _check_schedule_kind(full.optim.scheduler)
    check_limits(full)
    _check_together(full)
    return full


def _check_own(name: str, value: Any) -> None:
    """Refuse a top-level key that nobody reads, and that is one of a group's."""
    groups = {f.name: nested(Config, f.name) for f in dataclasses.fields(Config)}
    if name in groups:
        return
    if "." in name:
        raise ConfigError(
            f"'{name}' is one key with dots in it; in YAML write nested ones:"
            f" {name.replace('.', ': {')}: ...{'}' * name.count('.')}"
        )
    homes = [g for g, cls in groups.items() if cls and name in cls.__dataclass_fields__]
    if homes and (not isinstance(value, DictConfig) or name in MISTAKEN):
        raise ConfigError(
            f"{name} is no key of the whole configuration; did you mean"
            f" '{homes[0]}.{name}'?"
        )


def is_foreign(scheduler: Any) -> bool:
    """Return whether a node `optim.scheduler` names torch's or another schedule."""
    if not isinstance(scheduler, (Mapping, DictConfig)):
        return False
    return "_target_" in scheduler or str(scheduler.get("name")).endswith(
        ("LR", "Restarts", "Plateau")  # as all of torch.optim.lr_scheduler
    )


def _check_keys(
    given: DictConfig,
    cls: type,
    model: type | None,
    schedule: type | None,
    at: str = "",
) -> None:
    """Refuse keys that neither the dataclass nor the method's dataclass knows."""
    types = {f.name: nested(cls, f.name) for f in dataclasses.fields(cls)}
    for name in given:
        path = f"{at}{name}"
        if name not in types:
            if cls is Config:
                continue  # a group of the user's own
            if cls is Eval and "_target_" in str(given._get_node(name)):
                continue  # an evaluator of the user's own
            raise ConfigError(
                f"{path} is not a key of the configuration"
                f"{nearest(str(name), list(types))}"
                f" ({at.rstrip('.')} knows {', '.join(types)})"
            )
        child = {"model": model, "optim.scheduler": schedule}.get(path, types[name])
        value = given._get_node(name)
        if child is not None and isinstance(value, DictConfig) and not value._is_none():
            if not value._is_interpolation():
                _check_keys(value, child, None, schedule, f"{path}.")


def _check_mappings(full: DictConfig) -> None:
    """Refuse plain values where the schema is free and a mapping is needed."""
    places = {"model": "{name: simclr}"}
    for split in ("train", "val", "test", "bank"):
        places[f"data.{split}"] = "{dataset: {name: digits}}"
        places[f"data.{split}.dataset"] = "{name: digits}"
    for path, like in places.items():
        value = OmegaConf.select(full, path)
        if value is not None and not isinstance(value, DictConfig):
            raise ConfigError(f"{path}={value} is no mapping; write {path}={like}")


def _check_schedule_kind(scheduler: Any) -> None:
    if scheduler is not None and not isinstance(scheduler, DictConfig):
        raise ConfigError(
            f"optim.scheduler={scheduler}: write optim.scheduler.name={scheduler}"
        )


def _check_together(full: DictConfig) -> None:
    """Refuse keys that contradict each other."""
    for a, b in (
        ("optim.epochs", "optim.steps"),
        ("data.batch_size", "data.batch_size_per_gpu"),
    ):
        x, y = OmegaConf.select(full, a), OmegaConf.select(full, b)
        if x is not None and y is not None:
            raise ConfigError(f"{a}={x} contradicts {b}={y}; set one of them to null")
    every = full.log.eval.every_n_steps
    if every is not None and every > 1 and every % 1:
        raise ConfigError(
            f"log.eval.every_n_steps={every} must be a whole number of steps, or below"
            " 1, a share of an epoch"
        )
    _check_scheduler(full.optim.scheduler)
    _check_gpus(full.hardware)


def _check_scheduler(scheduler: DictConfig) -> None:
    """Refuse keys that the chosen schedule would not read; null reads none."""
    default = OmegaConf.structured(Schedule)
    if scheduler is None or is_foreign(scheduler):
        return
    for f in dataclasses.fields(Schedule):
        readers = f.metadata.get("of")
        if readers is None or scheduler.name in (None, *readers):
            continue
        if scheduler[f.name] != default[f.name]:
            raise ConfigError(
                f"optim.scheduler.{f.name}={scheduler[f.name]} is set, and the schedule"
                f" {scheduler.name} does not read it ({', '.join(readers)} would);"
                " remove it, or choose another schedule"
            )


def _check_gpus(hardware: DictConfig) -> None:
    """Refuse what is no count and no ids, and GPUs that the accelerator contradicts."""
    gpus, accelerator = hardware.gpus, hardware.accelerator
    ids = list(gpus) if isinstance(gpus, ListConfig) else None
    if gpus is None:
        return
    if not (
        all(type(i) is int and i >= 0 for i in ids)
        if ids is not None
        else re.fullmatch(r"-1|\d+|(\d+,)+\d*", str(gpus))
    ):
        raise ConfigError(
            f"hardware.gpus={gpus} is neither a count, a list of ids, '0,1', -1 (all)"
            " nor 0 (the CPU)"
        )
    none = str(gpus) in ("0", "[]")
    if (accelerator == "gpu" and none) or (accelerator in ("cpu", "mps") and not none):
        raise ConfigError(
            f"hardware.gpus={gpus} contradicts hardware.accelerator={accelerator};"
            " set gpus to null, or accelerator to auto"
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
        raise ConfigError(_in_words(error)) from error
    except (AttributeError, AssertionError) as error:  # as OmegaConf sets keys of null
        raise ConfigError(
            f"a key is set of a group that is null ({first_line(error)}); give the"
            " group above it: log.eval={linear: {lr: 0.1}}"
        ) from error


def _in_words(error: Exception) -> str:
    """Turn an error of Hydra or OmegaConf into one line that a person can act on."""
    from hydra.errors import MissingConfigException

    if isinstance(error, MissingConfigException):
        missing = error.missing_cfg_file or ""
        group, _, name = missing.rpartition("/")
        options = error.options if group else recipes()
        kind = f"'{name}' of the group '{group}'" if group else f"recipe '{name}'"
        return (
            f"there is no {kind}{nearest(name, options or [])}"
            f" (there are: {', '.join(options or []) or 'none'})"
        )
    text = "\n".join(str(e) for e in (error, error.__cause__) if e is not None)
    unknown = re.search(r"Key '(\w+)' (?:is not in struct|not in '(\w+)')", text)
    path = re.search(r"full_key: (\S+)", text)
    if unknown:
        path = path.group(1) if path else unknown.group(1)
        parent = path.rpartition(".")[0]
        cause = error.__cause__ or error
        known = (
            [f.name for f in dataclasses.fields(cause.object_type)]
            if dataclasses.is_dataclass(getattr(cause, "object_type", None))
            else []
        )
        return (
            f"{path} is not a key of the configuration"
            f"{nearest(unknown.group(1), known)}"
            + (f" ({parent or 'it'} knows {', '.join(known)})" if known else "")
            + (f"; a new key is added with ++{path}=..." if not known else "")
            + (f"; a new group is added with ++{path}.key=..." if not parent else "")
        )
    if strange := re.search(r"LexerNoViableAltException: (.*)", text):
        return (
            f"{strange.group(1)} cannot be read; quote the value, for the shell too:"
            " \"key='value'\""
        )
    lines = [line for line in text.splitlines() if line.strip()]
    if path and "could not be converted" in text:
        wrong = next(line for line in lines if "could not be converted" in line)
        return f"{path.group(1)}: {wrong.strip()}"
    return "; ".join(line.strip() for line in lines[:4])


def recipes(folders: Sequence[str | Path] = ()) -> list[str]:
    """Return the names of the recipes in `folders` and of the shipped ones."""
    from importlib.resources import files

    shipped = [p.name for p in files(RECIPES).iterdir()]
    own = [p.name for folder in folders for p in Path(folder).glob("*.yaml")]
    return sorted({n[: -len(".yaml")] for n in own + shipped if n.endswith(".yaml")})


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
