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

    The copy is `.module`, in the state dict, without gradient. In training its batch
    norms use the statistics of their batch, as in BYOL.

    Args:
        student: copied as it is; build the teacher in `initialize_modules`.
        base: tau at the first step.
        final: tau at the last; equal to base, tau is constant.
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
        self.updated = False  # at least once since it was built
        self._student = (student,)  # in a tuple, or it would become a submodule

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the copy, without gradient."""
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def restart(self) -> None:
        """Copy the student again, as after weights were loaded into it alone."""
        for target, source in _pairs(self.module, self._student[0]):
            target.copy_(source)

    @torch.no_grad()
    def update(self, student: nn.Module, step: int, total_steps: int) -> None:
        """Move towards the student; call it once an optimizer step, after the step.

        Floating-point buffers, such as running statistics, follow as the parameters
        do; others, such as counters, are copied. Ranks have the same weights, so their
        teachers stay the same, too.

        Args:
            student: what was copied; modules are paired in their order.
            step: `self.step` of the trainer.
            total_steps: `self.total_steps` of the trainer.
        """
        self.updated = True
        tau = momentum(step, total_steps, self.base, self.final, self.schedule)
        targets, sources = [], []
        for target, source in _pairs(self.module, student):
            if target.is_floating_point():
                targets.append(target)
                sources.append(source)
            else:
                target.copy_(source)
        torch._foreach_lerp_(targets, sources, 1 - tau)


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


def _pairs(teacher: nn.Module, student: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    tensors = ([*net.parameters(), *net.buffers()] for net in (teacher, student))
    return zip(*(map(local, one) for one in tensors), strict=True)
