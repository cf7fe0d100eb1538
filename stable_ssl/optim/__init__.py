"""Optimization: parameter groups from a config, LARS, schedules."""

from stable_ssl.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "stable_ssl.optim.build": "base_lr build_optimizer check_optimizer",
        "stable_ssl.optim.lars": "LARS",
        "stable_ssl.optim.schedules": (
            "Scheduler build_schedule build_schedulers check_scheduler count_steps "
            "decay_scheduler out_of_reach"
        ),
    },
)
