"""The groups `optim` and `optim.scheduler` of a configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stable_ssl.schema import key

NAMES = ("cosine", "polynomial", "step", "constant")


@dataclass
class Schedule:
    """The learning rate as a function of the step; warm-up, then decay."""

    name: str | None = key("cosine", choices=NAMES)  # the decay; null: constant
    warmup_epochs: float = key(0.0, low=0, epoch=True)  # fractions allowed
    warmup_lr: float = key(0.0, low=0)  # learning rate of the first step
    min_lr: float = key(  # learning rate after the last step
        0.0, low=0, of=("cosine", "polynomial", "step")
    )
    power: float = key(1.0, above=0, of=("polynomial",))  # 1: a straight line
    milestones: list[float] = key([], above=0, of=("step",), epoch=True)  # epochs
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

    # a torch.optim name, lars, or {_target_: ...}
    optimizer: Any = key("sgd", required=True)
    lr: float = key(0.1, low=0)  # learning rate at the end of the warm-up
    scale_lr_by: int | None = key(None, low=1)  # lr * batch_size / this; null: lr
    weight_decay: float = key(0.0, low=0)  # on matrices ...
    weight_decay_end: float | None = key(None, low=0)  # ... to this on a cosine
    decay_bias_and_norm: bool = False  # ... and biases and norms
    momentum: float = key(0.9, low=0, high=1)  # of sgd, lars, ...
    nesterov: bool = False  # of sgd: it looks ahead
    betas: list[float] = key([0.9, 0.999], low=0, below=1, length=2)  # of adam, ...
    grad_max_norm: float | None = key(  # clip the gradient's 2-norm; inf: measure it
        None, above=0, high=math.inf
    )
    accumulate: int = key(1, low=1)  # micro-batches a step; batch_size is one of them
    exact_batch: bool = False  # the loss of all micro-batches as one, embedded twice
    per_micro_batch_norm: bool = False  # accept that norms then see a micro-batch each
    epochs: int | None = key(None, low=1)  # passes over the train data ...
    steps: int | None = key(None, low=1, instead_of="epochs")  # ... or optimizer steps
    steps_per_epoch: int | None = key(None, low=1)  # null: the whole train data
    groups: list[Any] = field(default_factory=list)  # {pattern, lr, weight_decay, ...}
    layer_decay: float | None = key(None, above=0, high=1)  # lr's factor a layer down
    # a `Schedule`, a torch.optim.lr_scheduler name, {_target_: ...}; null: constant
    scheduler: Any = field(default_factory=lambda: {"name": Schedule.name})
