"""A teacher whose weights are the moving average of a student's.

Grill et al. 2020 (BYOL), https://arxiv.org/abs/2006.07733, section 3.2; Tarvainen and
Valpola 2017, https://arxiv.org/abs/1703.01780.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from stable_ssl.distributed.sharding import local
from stable_ssl.schedule_curves import cosine, polynomial
from stable_ssl.schema import ConfigError

DROPPING = {"DropPath": "drop_prob", "StochasticDepth": "p"}  # timm's, torchvision's
CURVES = {"cosine": cosine, "polynomial": polynomial}


def momentum(
    step: int, total: int, base: float, final: float = 1.0, schedule: str = "cosine"
) -> float:
    """Return tau(step) = final - (final - base) (cos(pi step / total) + 1) / 2.

    Args:
        step: optimizer steps taken, not micro-batches nor epochs.
        total: optimizer steps of the whole training; 0 is its end.
        base: tau at step 0.
        final: tau at step `total` and after it.
        schedule: cosine, or polynomial, a straight line between the two.
    """
    remaining = CURVES[schedule](step, total) if total else 0.0
    return final - (final - base) * remaining


class EMA(nn.Module):
    """A frozen copy of a student that follows it: t <- tau t + (1 - tau) s.

    The copy is `.module`, in the state dict, without gradient. Parameters follow. If
    the copy is called in training, as BYOL's is, its batch norms use and keep the
    statistics of what it sees; if it is not, its buffers are the student's. It drops no
    paths (stochastic depth), as the teachers in the code of DINO, iBOT and DINOv2.

    Args:
        student: copied as it is; build the teacher in `initialize_modules`.
        base: tau of the first step.
        final: tau after the last one; equal to base, tau is constant.
        schedule: see `momentum`.

    Raises:
        ConfigError: not 0 <= base <= final <= 1.
    """

    def __init__(
        self,
        student: nn.Module,
        base: float = 0.996,
        final: float = 1.0,
        schedule: str = "cosine",
    ):
        super().__init__()
        if not 0 <= base <= final <= 1:
            raise ConfigError(
                f"the teacher's momentum goes from {base} to {final}; use values from"
                " 0 to 1, the first not above the last"
            )
        self.base, self.final, self.schedule = base, final, schedule
        self.module = copy.deepcopy(student).requires_grad_(False)
        for part in self.module.modules():
            if rate := DROPPING.get(type(part).__name__):
                setattr(part, rate, 0.0)
        self.updated = False  # at least once since it was built
        self.called = False  # in training, so that its buffers are its own
        self._student = (student,)  # in a tuple, or it would become a submodule

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the copy, without gradient."""
        if self.training:
            self.called = True
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def restart(self) -> None:
        """Copy the student again, as after weights were loaded into it alone."""
        student = self._student[0]
        for target, source in [*_parameters(self, student), *_buffers(self, student)]:
            target.copy_(source)

    @torch.no_grad()
    def update(self, student: nn.Module, step: int, total_steps: int) -> None:
        """Move towards the student; call it once an optimizer step, after the step.

        The first one uses tau(0), as in the authors' code of BYOL, DINO and I-JEPA.
        Ranks have the same weights, so their teachers stay the same, too.

        Args:
            student: what was copied; modules are paired in their order.
            step: `self.step` of the trainer, the steps taken, this one included.
            total_steps: `self.total_steps` of the trainer.
        """
        self.updated = True
        before = max(step - 1, 0)
        tau = momentum(before, total_steps, self.base, self.final, self.schedule)
        targets, sources = zip(*_parameters(self, student), strict=True)
        torch._foreach_lerp_(targets, sources, 1 - tau)
        if not self.called:
            for target, source in _buffers(self, student):
                target.copy_(source)


def forgotten(module: nn.Module) -> Iterator[str]:
    """Yield a warning for each moving average that nobody has updated, each once."""
    for name, teacher in module.named_modules():
        if isinstance(teacher, EMA) and not teacher.updated:
            teacher.updated = True
            yield (
                f"{name} is a moving average that nobody updated in an epoch; call"
                f" self.{name}.update(student, self.step, self.total_steps) in"
                " after_train_step"
            )


def _parameters(teacher: EMA, student: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    both = teacher.module.parameters(), student.parameters()
    return zip(*(map(local, own) for own in both), strict=True)


def _buffers(teacher: EMA, student: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(teacher.module.buffers(), student.buffers(), strict=True)
