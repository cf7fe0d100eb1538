"""A step of the trainer's optimizers: gradients averaged, clipped, used and cleared.

Gradients are averaged by whoever steps an optimizer, never by whoever computed a loss:
`Stepper.step` does it, and so does a hook before any `optimizer.step()` that a user
calls by hand. A round is what happens between two values of the trainer's step: its
micro-batches, and any number of steps of any of the optimizers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from stable_ssl import distributed
from stable_ssl.distributed.sharding import clip, is_sharded, local, total_norm
from stable_ssl.optim.collect import MAIN, members
from stable_ssl.optim.config import Optim
from stable_ssl.optim.schedules import Scheduler, Schedulers
from stable_ssl.schema import ConfigError


class Stepper:
    """Step optimizers by name, with the mean gradient over micro-batches and ranks.

    Args:
        optimizers: by name; a parameter belongs to one of them.
        schedulers: of some of them, by the same names, or `<name>/weight_decay`; each
            moves once a round in which its optimizer stepped.
        parameters: of the model, frozen ones and those of no optimizer too.
        scaler: of the loss; does nothing unless it is enabled, for float16.
        config: `accumulate` is read, and `grad_max_norm`, the 2-norm that each
            optimizer's gradient is clipped to.
        log: logs the norm of the gradient.
    """

    def __init__(
        self,
        optimizers: Mapping[str, Optimizer],
        schedulers: Schedulers,
        parameters: Sequence[nn.Parameter],
        scaler: torch.amp.GradScaler,
        config: Optim,
        log: Callable[[Mapping[str, Tensor]], None],
    ):
        self.optimizers, self.schedulers = optimizers, schedulers
        self.parameters, self.scaler = list(parameters), scaler
        self.accumulates, self.max_norm = config.accumulate > 1, config.grad_max_norm
        self.log = log
        self.scales = scaler.is_enabled()  # asked for once: it costs 1 us ...
        self.ranks = distributed.world_size()  # ... and so does this
        self.sharded = any(map(is_sharded, self.parameters))
        self.parameter_ids = {id(p) for p in self.parameters}
        optimized = {id(p) for o in optimizers.values() for p in members(o)}
        trained = self.trainable()
        self.left_out = [p for p in trained if id(p) not in optimized]
        self.others: weakref.WeakSet = weakref.WeakSet()  # optimizers of other models
        self.inside = False  # whether `step` is running, and not a step by hand
        self.moved_by = moved_by(optimizers, schedulers)
        self.scheduled = dict(_scheduled(optimizers, schedulers))
        self.norms = ["train/grad_norm" + suffix(name) for name in optimizers]
        self.begin(measures=False)
        self.hooks = [
            register_optimizer_step_pre_hook(weakly(self, "before_step")),
            register_optimizer_step_post_hook(weakly(self, "after_step")),
        ]

    def close(self) -> None:
        """Leave optimizers alone from now on."""
        for hook in self.hooks:
            hook.remove()

    # --- a round ----------------------------------------------------------------------

    def begin(self, measures: bool) -> None:
        """Begin a round.

        Args:
            measures: whether the norm of the gradient is logged.
        """
        self.measures = measures
        self.rates = {
            figure: optimizer.param_groups[group][key]
            for figure, (optimizer, group, key) in self.scheduled.items()
        }
        self.stepped: set[str] = set()
        self.chosen: set[str] = set()  # those of them stepped by name or by hand
        self.scaled = False  # whether the loss was
        self.divided: set[int] = set()  # parameters, by micro-batches
        self.averaged: dict[int, tuple | None] = {}  # over ranks: gradients' versions
        self.unscaled: set[str] = set()  # optimizers, for float16
        self.cleared = len(self.optimizers) == 1  # whether `step` drops all gradients

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a micro-batch's loss.

        Raises:
            ConfigError: it would be added to one whose scale was undone.
        """
        self.scaled = True
        if self.scales and self.unscaled - self.stepped:
            raise ConfigError(
                "self.backward after self.average_gradients() in one train_step would"
                " mix gradients of two scales under hardware.precision=float16; use"
                " bfloat16"
            )
        (self.scaler.scale(loss) if self.scales else loss).backward()

    def end(self) -> None:
        """End the round: move the schedules, drop what gradients are left.

        Raises:
            ConfigError: no optimizer stepped.
        """
        if not self.stepped:
            raise ConfigError(
                "train_step ended without a step of an optimizer; call"
                " self.optimizer_step(), or the step() of an optimizer that is an"
                f" attribute of the trainer (there are: {', '.join(self.optimizers)})"
            )
        if self.unscaled:  # the scale is judged by gradients
            self.scaler.update()
        if self.moved_by.keys() != self.schedulers.keys():  # a hook built one
            self.moved_by = moved_by(self.optimizers, self.schedulers)
        for name, scheduler in self.schedulers.items():
            if self.moved_by[name] in self.stepped:
                scheduler.step()
        clear(self.left_out if self.cleared else self.parameters)

    # --- a step -----------------------------------------------------------------------

    def step(self, micro_batches: int, name: str | None = None) -> None:
        """Step an optimizer, or all but those stepped by name or by hand already.

        Gradients are averaged, tested for what float16 cannot hold, clipped, used and
        cleared.

        Args:
            micro_batches: of the round.
            name: of the optimizer.

        Raises:
            ConfigError: no such optimizer, or a gradient of a loss that was not scaled.
        """
        if name is not None and name not in self.optimizers:
            raise ConfigError(
                f"optimizer_step({name!r}), but the optimizers are"
                f" {', '.join(self.optimizers)}"
            )
        if self.scales and not self.scaled:
            raise ConfigError(
                "hardware.precision=float16 scales the loss: call self.backward(loss)"
                " instead of loss.backward()"
            )
        names = [n for n in self.optimizers if n not in self.chosen]
        if name is not None:
            self.chosen.add(name)
            names = [name]
        for stepped in names:
            optimizer = self.optimizers[stepped]
            self._prepare(optimizer, stepped, micro_batches)
            self.inside = True
            try:
                if stepped in self.unscaled:  # skips a gradient that is not finite
                    self.scaler.step(optimizer)
                else:
                    optimizer.step()
            finally:
                self.inside = False
            self.stepped.add(stepped)
            clear(members(optimizer))

    def trainable(self) -> list[nn.Parameter]:
        """Return the parameters that get gradients now; some may be unfrozen later."""
        return [p for p in self.parameters if p.requires_grad]

    def average(self, micro_batches: int, optimizer: Optimizer | None = None) -> None:
        """Make gradients those of all micro-batches and ranks; synchronises ranks.

        Each is divided by the micro-batches once a round, and averaged again only where
        it changed since.

        Args:
            micro_batches: of the round.
            optimizer: whose gradients; None takes all, and undoes the loss's scale.
        """
        if micro_batches > 1 or self.ranks > 1:
            parameters = self.trainable() if optimizer is None else members(optimizer)
            self._divide(parameters, micro_batches)
            if self.sharded:  # those are averaged in the backward pass
                parameters = [p for p in parameters if not is_sharded(p)]
            # a gradient that this rank lacks may be on another, so that the first time
            # in a round no rank leaves the others alone
            if self.ranks > 1 and not self.averaged.items() >= _versions(parameters):
                distributed.average_gradients(parameters)
                self.averaged.update(_versions(parameters))
        if self.scales and optimizer is None:
            for name in self.optimizers:
                self._unscale(name)

    def _divide(self, parameters: Sequence[nn.Parameter], micro_batches: int) -> None:
        """Make sums over the micro-batches means, once a round and parameter."""
        if micro_batches == 1:
            return
        sums = [p for p in parameters if p.grad is not None]
        sums = [p for p in sums if id(p) not in self.divided]
        if sums:
            torch._foreach_div_([local(p.grad) for p in sums], micro_batches)
            self.divided |= {id(p) for p in sums}

    def _unscale(self, name: str) -> None:
        """Undo the loss's scale in the gradients of an optimizer, once a round.

        Raises:
            ConfigError: it has stepped in this round already.
        """
        optimizer = self.optimizers[name]
        if name in self.unscaled and name not in self.stepped:
            return
        if all(p.grad is None for p in members(optimizer)):
            return
        if name in self.stepped:
            raise ConfigError(
                f"the optimizer {name} steps twice in one train_step, which"
                " hardware.precision=float16 does not allow; use bfloat16"
            )
        self.scaler.unscale_(optimizer)
        self.unscaled.add(name)

    def _prepare(self, optimizer: Optimizer, name: str, micro_batches: int = 1) -> None:
        """Make gradient and rates those that an optimizer is about to step with."""
        for scheduler in self.schedulers.values():
            if isinstance(scheduler, Scheduler) and scheduler.optimizer is optimizer:
                scheduler.adopt()
        self.average(micro_batches, optimizer)
        if self.scales:
            self._unscale(name)
        if self.max_norm is None and not self.measures:
            return
        gradients = [p.grad for p in members(optimizer) if p.grad is not None]
        if not gradients:
            return
        norm = total_norm(gradients)
        if self.max_norm is not None:
            clip(gradients, self.max_norm, norm)
        self.log({"train/grad_norm" + suffix(name): norm})

    def before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Prepare the gradient for an optimizer's `step()` that a user called.

        Raises:
            ConfigError: accumulated or scaled gradients, which only `step` understands;
                a closure, which each rank would call as often as it likes.
        """
        if (name := self._name_of(optimizer)) is None:
            return
        if self.accumulates or self.scales:
            what = "hardware.precision=float16" if self.scales else "optim.accumulate"
            raise ConfigError(
                f"an optimizer.step() by hand under {what} would use a gradient that is"
                f" not whole; call self.optimizer_step({name!r})"
            )
        closure = args[1:] or kwargs.get("closure")
        if closure and (self.ranks > 1 or self.max_norm is not None):
            what = (
                "on several processes" if self.ranks > 1 else "and optim.grad_max_norm"
            )
            raise ConfigError(
                f"optimizer.step(closure) {what}: gradients that a closure computes are"
                " neither averaged nor clipped; compute the loss before, and call"
                " step()"
            )
        self._prepare(optimizer, name)

    def after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Count a step that a user called."""
        if (name := self._name_of(optimizer)) is not None:
            self.stepped.add(name)
            self.chosen.add(name)
            self.cleared = False

    def _name_of(self, optimizer: Optimizer) -> str | None:
        """Return an optimizer's name; None of one of other parameters, as a probe's."""
        for name, known in self.optimizers.items():
            if known is optimizer:
                return name
        if optimizer in self.others:
            return None
        if any(id(p) in self.parameter_ids for p in members(optimizer)):
            raise ConfigError(
                f"a {type(optimizer).__name__} that is no attribute of the trainer"
                " steps its parameters; build it in initialize_optimizer, so that it"
                " is saved and scheduled"
            )
        self.others.add(optimizer)
        return None


def _versions(parameters: Sequence[nn.Parameter]) -> Any:
    """Return what a change of each parameter's gradient changes, too."""
    return {
        id(p): None if p.grad is None else (id(p.grad), p.grad._version)
        for p in parameters
    }.items()


def clear(parameters: Sequence[nn.Parameter]) -> None:
    """Drop gradients."""
    for parameter in parameters:
        parameter.grad = None


def moved_by(
    optimizers: Mapping[str, Optimizer], schedulers: Schedulers
) -> dict[str, str | None]:
    """Return the name of the optimizer that each scheduler follows.

    It is the one that the scheduler holds, as torch's do, or that shares its groups, as
    one that wraps it does. A scheduler that holds none has the optimizer's name, with
    or without a part after a slash, or follows none: its owner moves it.

    Raises:
        ConfigError: a scheduler of an optimizer that is not the trainer's.
    """
    found: dict[str, str | None] = {}
    for name, scheduler in schedulers.items():
        held = getattr(scheduler, "optimizer", None)
        named = name.partition("/")[0]
        found[name] = named if named in optimizers else None
        if isinstance(held, Optimizer):
            groups = {id(group) for group in held.param_groups}
            owners = [
                own
                for own, optimizer in optimizers.items()
                if groups & {id(group) for group in optimizer.param_groups}
            ]
            if not owners:
                raise ConfigError(
                    f"self.schedulers[{name!r}], a {type(scheduler).__name__}, is of an"
                    f" optimizer that is none of the trainer's"
                    f" ({', '.join(optimizers) or 'there are none'}); build it with one"
                    " of these"
                )
            found[name] = owners[0]
    return found


def _scheduled(
    optimizers: Mapping[str, Optimizer], schedulers: Schedulers
) -> Iterator[tuple[str, tuple[Optimizer, int, str]]]:
    """Yield (name in the rows, (optimizer, number of the group, key)) to be logged."""
    for name, optimizer in optimizers.items():
        yield "train/lr" + suffix(name), (optimizer, 0, "lr")
        if f"{name}/weight_decay" in schedulers:
            decays = [bool(g.get("weight_decay")) for g in optimizer.param_groups]
            figure = "train/weight_decay" + suffix(name)  # of a group that has one
            yield figure, (optimizer, decays.index(True), "weight_decay")


def suffix(name: str) -> str:
    """Return what tells the figures of an optimizer from those of the main one."""
    return "" if name == MAIN else f"_{name}"


def weakly(owner: Stepper, method: str) -> Callable[..., None]:
    """Return a hook for steps by hand, which does not keep its owner alive."""
    reference = weakref.ref(owner)

    def hook(*args: Any) -> None:
        if (alive := reference()) is not None and not alive.inside:
            getattr(alive, method)(*args)

    return hook
