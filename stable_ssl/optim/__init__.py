"""Optimization: parameter groups from a config, LARS, schedules."""

from stable_ssl.optim.build import (
    base_lr,
    build_optimizer,
    check_optimizer,
)
from stable_ssl.optim.lars import LARS
from stable_ssl.optim.schedules import (
    Scheduler,
    build_schedule,
    build_schedulers,
    check_scheduler,
    count_steps,
    decay_scheduler,
    out_of_reach,
)

__all__ = [
    "LARS",
    "Scheduler",
    "base_lr",
    "build_optimizer",
    "build_schedule",
    "build_schedulers",
    "check_optimizer",
    "check_scheduler",
    "count_steps",
    "decay_scheduler",
    "out_of_reach",
]
