"""What the setup of a run refuses, and what it says of keys that do nothing."""

from __future__ import annotations

from collections.abc import Iterator

from stable_ssl.data.check import check_batch, check_split, check_train, check_views
from stable_ssl.evaluation.labels import require_labels
from stable_ssl.evaluation.monitor import check_monitor
from stable_ssl.optim import out_of_reach
from stable_ssl.run import Run
from stable_ssl.schema import ConfigError

WRITTEN = ("initialize_modules", "forward", "compute_loss")  # by every subclass


def refuse_incomplete(trainer: type[Run], base: type[Run]) -> None:
    """Refuse a trainer's class that lacks what each one writes besides its base.

    Raises:
        ConfigError: names what it lacks.
    """
    lacks = [n for n in WRITTEN if getattr(trainer, n) is getattr(base, n)]
    if lacks:
        raise ConfigError(
            f"{trainer.__name__} must define {', '.join(lacks)}; a trainer is a"
            f" subclass of stable_ssl.BaseTrainer that defines {', '.join(WRITTEN)}"
        )


def refuse_data(run: Run) -> None:
    """Refuse data that lack what the method or the mode needs.

    Args:
        run: whose loaders are built.

    Raises:
        ConfigError: names what the data lack.
    """
    method = type(run).__name__
    views = max(run.min_views, getattr(run.config.model, "global_views", 1))
    check_views(run.train_loader, run.views, views, method)
    if run.needs_labels:
        require_labels(run.train_loader, run.num_classes, method)
    if run.config.mode == "fit":
        check_train(run.train_loader, run.config.optim.accumulate, run.world_size)
        check_batch(run.train_loader, run.min_batch, method)
    else:
        check_split(run.config.mode, run.loaders)


def refuse_monitor(run: Run) -> None:
    """Refuse a monitored metric that nobody will report.

    Args:
        run: whose evaluators are built.

    Raises:
        ConfigError: as of `check_monitor`.
    """
    if run.config.mode == "fit":
        measured = run.num_classes, run.evaluation.evaluators
        check_monitor(run.settings, run.loaders, *measured)


def hints(run: Run) -> Iterator[str]:
    """Say which keys the training is too short for; its schedules are built."""
    if run.config.mode == "fit" and not run.config.fast_dev_run:
        steps = run.total_steps
        yield from out_of_reach(
            run.config, run.scheduler, steps / run.steps_per_epoch, steps
        )
