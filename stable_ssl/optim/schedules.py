"""Schedules of learning rate and weight decay, from a config to what moves them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from omegaconf import DictConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from stable_ssl.instantiate import accepted_by, find_object
from stable_ssl.optim.config import NAMES, Optim, Schedule, is_foreign
from stable_ssl.schedule_curves import constant, cosine, multistep, polynomial
from stable_ssl.schema import ConfigError, beyond, nearest

Factor = Callable[[int], float]


def out_of_reach(
    config: DictConfig, scheduler: Any, epochs: float, total_steps: int
) -> Iterator[str]:
    """Say which epochs a config names that its training does not reach.

    Args:
        config: the whole.
        scheduler: of the rate, built from the config; another one reads none of it.
        epochs: of the training.
        total_steps: optimizer steps of it.
    """
    for path, value in beyond(config, epochs):
        text = f"{path}={value} is beyond the training, which ends after {epochs:g}"
        text += f" epoch{'s' * (epochs != 1)}"
        if path.startswith("optim.scheduler."):
            if not isinstance(scheduler, Scheduler):
                continue
            lr = scheduler.optimizer.defaults["lr"]
            if path.endswith("warmup_epochs"):
                reached = lr * scheduler.factor(total_steps - 1)
                text += f": the learning rate reaches {reached:.4g} instead of {lr:g}"
        yield text


def count_steps(config: Optim, batches: int | None) -> tuple[int, int]:
    """Turn the length of a training into optimizer steps: (of an epoch, in all).

    Args:
        config: accumulate, epochs or steps, and steps_per_epoch are read.
        batches: micro-batches in an epoch of the train data; those left over when
            `accumulate` of them make a step are one more step. None where the data
            has no length: an epoch is then `steps_per_epoch`, or the whole training.

    Raises:
        ConfigError: neither epochs nor steps, or more steps an epoch than there are,
            or more micro-batches a step.
    """
    if batches is None:
        if config.steps is None:
            raise ConfigError(
                "the train data has no length; set optim.steps, and optim.epochs=null"
            )
        return config.steps_per_epoch or config.steps, config.steps
    if config.accumulate > batches:
        raise ConfigError(
            f"optim.accumulate={config.accumulate}, but an epoch of the train data is"
            f" {batches} batches; use at most that"
        )
    whole = math.ceil(batches / config.accumulate)
    steps_per_epoch = config.steps_per_epoch or whole
    if steps_per_epoch > whole:
        raise ConfigError(
            f"optim.steps_per_epoch={steps_per_epoch}, but an epoch of the train data "
            f"is {whole} steps; use at most that"
        )
    if config.epochs is None and config.steps is None:
        raise ConfigError("mode=fit needs optim.epochs or optim.steps; set one of them")
    return steps_per_epoch, config.steps or config.epochs * steps_per_epoch


def build_schedule(
    config: Schedule | None,
    base_lr: float,
    steps_per_epoch: int,
    total_steps: int,
    at: str = "optim.scheduler",
) -> Factor | None:
    """Turn `optim.scheduler` into a function step -> factor of base_lr.

    Args:
        config: or a node of a configuration, in which missing keys and null are the
            defaults of `Schedule`.
        base_lr: the rate that warmup_lr and min_lr, absolute values, are shares of;
            parameter groups with a rate of their own keep the same factor.
        steps_per_epoch: optimizer steps an epoch; fractions of epochs are rounded.
        total_steps: optimizer steps of the whole training.
        at: key of the configuration, for messages.

    Returns:
        None where the config or its name is null: the rate stays as it is.

    Raises:
        ConfigError: an unknown name, `step` without milestones, min_lr above base_lr.
    """
    name = getattr(config, "name", None)
    if name is None:
        return None

    keys = asdict(Schedule())
    for attribute in keys:
        if (value := getattr(config, attribute, None)) is not None:
            keys[attribute] = value

    def steps(epochs: float) -> int:
        return round(epochs * steps_per_epoch)

    def share(lr: float) -> float:
        return lr / base_lr if base_lr else 0.0

    end = share(keys["min_lr"])
    warm = {
        "warmup_steps": steps(keys["warmup_epochs"]),
        "start": share(keys["warmup_lr"]),
    }
    if name == "constant":
        return partial(constant, **warm)
    if end > 1:
        raise ConfigError(
            f"{at}.min_lr={keys['min_lr']} is above the value {base_lr:g} it decays"
            " from; use at most that"
        )
    decay = {"end": end, **warm}
    if name == "cosine":
        return partial(cosine, total_steps=total_steps, **decay)
    if name == "polynomial":
        power = keys["power"]
        return partial(polynomial, total_steps=total_steps, power=power, **decay)
    if name == "step":
        milestones = sorted(steps(epoch) for epoch in keys["milestones"])
        if not milestones:
            raise ConfigError(
                f"{at}.name=step has no milestones; set {at}.milestones, in epochs, or"
                " choose another name"
            )
        return partial(multistep, milestones=milestones, gamma=keys["gamma"], **decay)
    raise ConfigError(
        f"{at}.name={name}, expected one of {', '.join(NAMES)} or null"
        f"{nearest(str(name), NAMES)}"
    )


def build_schedulers(
    config: Optim,
    optimizers: Mapping[str, Optimizer],
    steps_per_epoch: int,
    total_steps: int,
) -> Schedulers:
    """Return the schedulers of optimizers' learning rates and weight decay.

    Args:
        config: scheduler, weight_decay and weight_decay_end are read.
        optimizers: by name, which is also that of the rate's scheduler; that of the
            weight decay is `<name>/weight_decay`.
        steps_per_epoch: optimizer steps an epoch.
        total_steps: optimizer steps of the whole training.

    Raises:
        ConfigError: as of `build_scheduler` and `decay_scheduler`.
    """
    built: dict[str, Scheduler | LRScheduler | None] = {}
    for name, optimizer in optimizers.items():
        built[name] = build_scheduler(
            config.scheduler, optimizer, steps_per_epoch, total_steps
        )
        built[f"{name}/weight_decay"] = decay_scheduler(config, optimizer, total_steps)
    return {name: scheduler for name, scheduler in built.items() if scheduler}


def check_scheduler(config: Any, base_lr: float | None = None) -> None:
    """Refuse a schedule that is not there or cannot be, before anything is built.

    Args:
        config: `optim.scheduler`, as for `build_scheduler`.
        base_lr: the rate that it starts from; None: known only with the data.
    """
    if is_foreign(config):
        _schedule_class(config)
    elif base_lr is not None:
        build_schedule(config, base_lr, steps_per_epoch=1, total_steps=1)


def _schedule_class(config: Mapping) -> Callable[..., Any]:
    """Return the class or function that a node names."""
    path = config.get("_target_", f"torch.optim.lr_scheduler.{config.get('name')}")
    return find_object(path, "optim.scheduler")


def build_scheduler(
    config: Any, optimizer: Optimizer, steps_per_epoch: int, total_steps: int
) -> Scheduler | LRScheduler | None:
    """Return the scheduler of an optimizer's rates, None where they stay as they are.

    Args:
        config: `optim.scheduler`: as for `build_schedule`; or the name of a class of
            torch.optim.lr_scheduler with its arguments, counted in steps; or
            {_target_: dotted path, arguments} of such a class, or of a function step ->
            factor of the base rate, which is given `total_steps` and `steps_per_epoch`
            if it takes them.
        optimizer: whose rates move.
        steps_per_epoch: optimizer steps an epoch.
        total_steps: optimizer steps of the whole training.

    Raises:
        ConfigError: there is no such schedule, or it does not take the arguments.
    """
    lengths = {"steps_per_epoch": steps_per_epoch, "total_steps": total_steps}
    if not is_foreign(config):
        factor = build_schedule(config, optimizer.defaults["lr"], **lengths)
        return None if factor is None else Scheduler(optimizer, factor)
    arguments = dict(config)
    name = arguments.pop("name", None)
    path = arguments.pop("_target_", f"torch.optim.lr_scheduler.{name}")
    at = f"optim.scheduler={path}"
    target = _schedule_class(config)
    parameters = accepted_by(target)
    for key_of_ours, default in asdict(Schedule()).items():
        # a recipe may have set keys of `Schedule`, for the schedule that it names
        if key_of_ours in arguments and key_of_ours not in parameters:
            if (value := arguments.pop(key_of_ours)) != default:
                warnings.warn(
                    f"optim.scheduler.{key_of_ours}={value} is not read by {path}",
                    stacklevel=2,
                )
    try:
        if not (isinstance(target, type) and issubclass(target, LRScheduler)):
            accepted = {n: steps for n, steps in lengths.items() if n in parameters}
            return Scheduler(optimizer, partial(target, **{**accepted, **arguments}))
        if issubclass(target, ReduceLROnPlateau):
            raise ConfigError(
                f"{at} waits for a metric; use log.early_stopping, or another schedule"
            )
        if any(group.get("schedule") is False for group in optimizer.param_groups):
            raise ConfigError(
                f"{at} moves all groups, and optim.groups has one with schedule: false;"
                " use a schedule of optim.scheduler.name: cosine, ..., or a function"
            )
        return target(optimizer, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{at} with {arguments}: {error}") from error


class Scheduler:
    """Set each group's `lr` to `base_lr * factor(step)`, as torch's schedulers do.

    The rate of step 0 is set at once; `step()` follows each `optimizer.step()`. A group
    goes from its own `base_lr`, by default the `lr` it was built with; one with
    `schedule: False` stays there.

    Args:
        optimizer: its groups receive `base_lr` where they lack it.
        factor: optimizer steps taken -> factor.
        key: what is set instead, from `base_<key>`; groups that lack it are left alone.
    """

    def __init__(self, optimizer: Optimizer, factor: Factor, key: str = "lr"):
        self.optimizer, self.factor, self.key = optimizer, factor, key
        self.steps = 0
        self._set()

    def step(self) -> None:
        """Set the values of the next optimizer step."""
        self.steps += 1
        self._set()

    def adopt(self) -> None:
        """Set the values of groups that were added since, for this optimizer step."""
        groups = self.optimizer.param_groups
        self._set([group for group in groups if f"base_{self.key}" not in group])

    def _set(self, groups: Iterable[dict[str, Any]] | None = None) -> None:
        factor, key = self.factor(self.steps), self.key
        for group in self.optimizer.param_groups if groups is None else groups:
            if key in group:
                base = group.setdefault(f"base_{key}", group[key])
                group[key] = base * factor if group.get("schedule", True) else base

    def get_last_lr(self) -> list[float]:
        """Return the rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, int]:
        """Return the one number there is to save."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where the state was saved, once the optimizer has loaded its own."""
        self.steps = state["steps"]
        self._set()


def decay_scheduler(
    config: Optim, optimizer: Optimizer, total_steps: int
) -> Scheduler | None:
    """Return the scheduler of an optimizer's weight decay, None where it is constant.

    Half a cosine from `weight_decay` to `weight_decay_end` at step `total_steps`: DINO,
    Caron et al. 2021, https://arxiv.org/abs/2104.14294, section 3.2. Groups with a
    weight decay of their own keep its ratio to the others', so 0 stays 0.

    Args:
        config: weight_decay and weight_decay_end are read.
        optimizer: whose weight decay moves.
        total_steps: optimizer steps of the whole training.

    Raises:
        ConfigError: an end, but no start above 0.
    """
    if config.weight_decay_end is None:
        return None
    if not config.weight_decay:
        raise ConfigError(
            f"optim.weight_decay_end={config.weight_decay_end} has no start; set"
            " optim.weight_decay above 0, of which the parameters without one keep 0"
        )
    if not any(group.get("weight_decay") for group in optimizer.param_groups):
        return None
    end = config.weight_decay_end / config.weight_decay
    factor = partial(cosine, total_steps=total_steps, end=end)
    return Scheduler(optimizer, factor, "weight_decay")


Schedulers = dict[str, Scheduler | LRScheduler]  # by name, as `build_schedulers` says
