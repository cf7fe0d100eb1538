"""The five groups of a configuration as dataclasses: `Config` puts them together.

Keys, defaults, units and ranges stand in a dataclass beside what they configure:

    data              data/nodes.py        log.eval             evaluation/config.py
    optim             optim/config.py      log.early_stopping   evaluation/config.py
    optim.scheduler   optim/config.py      hardware             distributed/config.py

`Log` stands here, and `Model`, which a method's dataclass extends beside the method.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stable_ssl.data.nodes import TRAINING, Data
from stable_ssl.distributed.config import Hardware
from stable_ssl.evaluation.config import EarlyStopping, Eval
from stable_ssl.loggers.run_names import check_names
from stable_ssl.optim.config import Optim, Schedule
from stable_ssl.schema import key, node, refuse_no_mapping

MODES = (*TRAINING, "validate", "test", "predict", "export")


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


@functools.cache
def structured(foreign: bool = False, model: type | None = None) -> DictConfig:
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
