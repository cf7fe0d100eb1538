"""Curves over the steps of a training: pure functions, optimizer step -> factor.

Learning rate, weight decay and the momentum of a teacher follow them. All of them climb
linearly from `start` at step 0 to exactly 1 at step `warmup_steps`. The first update
uses factor(0) and the last one factor(total_steps - 1); what goes to `end` is there at
step `total_steps` and stays.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence


def cosine(
    step: int,
    total_steps: int,
    warmup_steps: int = 0,
    start: float = 0.0,
    end: float = 0.0,
) -> float:
    """Decay along half a cosine, Loshchilov and Hutter 2017, arXiv:1608.03983, (5)."""
    if step < warmup_steps:
        return _warmup(step, warmup_steps, start)
    weight = (1 + math.cos(math.pi * _progress(step, total_steps, warmup_steps))) / 2
    return weight + (1 - weight) * end


def polynomial(
    step: int,
    total_steps: int,
    warmup_steps: int = 0,
    start: float = 0.0,
    end: float = 0.0,
    power: float = 1.0,
) -> float:
    """Decay as (1 - progress) ** power; a straight line by default."""
    if step < warmup_steps:
        return _warmup(step, warmup_steps, start)
    weight = (1 - _progress(step, total_steps, warmup_steps)) ** power
    return weight + (1 - weight) * end


def multistep(
    step: int,
    milestones: Sequence[int],
    gamma: float = 0.1,
    warmup_steps: int = 0,
    start: float = 0.0,
    end: float = 0.0,
) -> float:
    """Multiply by gamma at each milestone, a step counted from 0; not below `end`."""
    if step < warmup_steps:
        return _warmup(step, warmup_steps, start)
    return max(gamma ** bisect_right(milestones, step), end)


def constant(step: int, warmup_steps: int = 0, start: float = 0.0) -> float:
    """Stay at 1 once warm."""
    return _warmup(step, warmup_steps, start) if step < warmup_steps else 1.0


def climb(epoch: int, epochs: int, first: float, last: float) -> float:
    """Go evenly from `first` in epoch 0 to `last` in the last of `epochs`, and stay."""
    end = epochs - 1
    return last if epoch >= end else first + (last - first) * epoch / end


def _warmup(step: int, warmup_steps: int, start: float) -> float:
    return start + (1 - start) * step / warmup_steps


def _progress(step: int, total_steps: int, warmup_steps: int) -> float:
    """Return the share of the decay that is over, in [0, 1]."""
    return min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
