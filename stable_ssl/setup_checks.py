"""What the setup of a run refuses, and what it says of keys that do nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import default_collate

from stable_ssl.data.batch_sizes import is_shared_out, sizes_of
from stable_ssl.data.check import check_sizes
from stable_ssl.data.combined import Combined, named_parts
from stable_ssl.data.loading.loader import Loader
from stable_ssl.data.nodes import EVALUATED
from stable_ssl.evaluation.labels import require_labels
from stable_ssl.evaluation.monitor import check_monitor
from stable_ssl.models.norm import batch_norms
from stable_ssl.optim import out_of_reach
from stable_ssl.run import Run
from stable_ssl.schema import ConfigError

WRITTEN = ("initialize_modules", "forward", "compute_loss")  # by every subclass
HALVES = ("embed", "loss_of")  # may be written instead of compute_loss


def refuse_incomplete(trainer: type[Run], base: type[Run]) -> None:
    """Refuse a trainer's class that lacks what each one writes besides its base.

    Raises:
        ConfigError: names what it lacks.
    """
    lacks = [n for n in WRITTEN if getattr(trainer, n) is getattr(base, n)]
    halves = [n for n in HALVES if getattr(trainer, n) is getattr(base, n)]
    if "compute_loss" in lacks and len(halves) < len(HALVES):
        lacks = [n for n in lacks if n != "compute_loss"] + halves
    if lacks:
        raise ConfigError(
            f"{trainer.__name__} must define {', '.join(lacks)}; a trainer is a"
            f" subclass of stable_ssl.BaseTrainer that defines {', '.join(WRITTEN)}"
        )


def refuse_sharded_export(run: Run) -> None:
    """Refuse to write files for deployment of weights that no process has whole.

    Raises:
        ConfigError: says how to write them.
    """
    config = run.config
    asked = config.mode == "export" or config.log.export.types
    if config.hardware.sharding == "full" and asked:
        raise ConfigError(
            "hardware.sharding=full trains weights that no process has whole; export"
            " them afterwards, by mode=export hardware.sharding=none"
        )


# --- data -----------------------------------------------------------------------------


def refuse_data(run: Run) -> None:
    """Refuse data that lack what the method or the mode needs.

    Args:
        run: whose loaders are built.

    Raises:
        ConfigError: names what the data lack.
    """
    mode, method = run.config.mode, type(run).__name__
    minimum = max(run.min_views, getattr(run.config.model, "global_views", 1))
    refuse_views(run.train_loader, run.views, minimum, method)
    if run.needs_labels:
        require_labels(run.train_loader, run.num_classes, method)
    if mode == "fit":
        refuse_batches(run)
        warn_of_ranks(run.train_loader, run.world_size)
    split = EVALUATED.get(mode)
    if split and not any(name.partition("_")[0] == split for name in run.loaders):
        raise ConfigError(f"mode={mode} needs data.{split}, which is null")


def refuse_views(
    loader: Any, exact: int | dict[str, int] | None, minimum: int, method: str
) -> None:
    """Refuse a train loader that makes more or fewer views than a method needs.

    Args:
        loader: its `views` are counted; one without that attribute passes.
        exact: views of an image, of each loader by name where there are several; None
            asks for `minimum` or more.
        minimum: see `exact`.
        method: name of the trainer's class, for the message.

    Raises:
        ConfigError: says how many there are and how many are needed.
    """
    if not isinstance(exact, dict):
        views = 0 if isinstance(loader, Combined) else _count_views(loader)
        if views and (views < minimum or exact not in (None, views)):
            raise ConfigError(
                f"data.train.dataset.image_transform makes views: {views}, and"
                f" {method} needs {exact or f'{minimum} or more'}; one list of ops is"
                " one view, a list of lists several, global ones first"
            )
    elif loader is not None:
        parts = named_parts(loader).items()
        counts = {name: _count_views(part) for name, part in parts if name}
        if counts != exact:
            raise ConfigError(
                f"data.train makes the views {counts}, and {method} needs {exact};"
                " write it as data=digits_few does"
            )


def _count_views(loader: Any) -> int:
    """Return how many views a loader makes: a dataset may have several images each."""
    count = len(getattr(loader, "views", ()))
    read = isinstance(loader, Loader) and not loader.streams and loader.workers
    return len(loader.example.views) if count == 1 and read else count


def refuse_batches(run: Run) -> None:
    """Refuse batches of a size that the training cannot have; see `check_sizes`.

    Args:
        run: of a loader of another library, what is no DataLoader passes.
    """
    for part in named_parts(run.train_loader).values():
        sizes = part.sampler if isinstance(part, Loader) else sizes_of(part)
        if sizes is not None:
            # several share the minimum, and a collate_fn may make more images of one
            plain = getattr(part, "collate_fn", None) in (None, default_collate)
            whole = part is run.train_loader and plain
            check_sizes(
                sizes,
                train=True,
                accumulate=run.config.optim.accumulate,
                minimum=run.min_batch if whole else 1,
                method=type(run).__name__,
            )


def warn_of_ranks(loader: Iterable | None, ranks: int) -> None:
    """Warn of a train loader of another library that gives all processes the same."""
    for part in named_parts(loader).values():
        if ranks > 1 and not is_shared_out(part) and not isinstance(part, Loader):
            warnings.warn(
                f"the train loader, a {type(part).__name__}, has no DistributedSampler:"
                f" {ranks} processes see the same samples",
                stacklevel=2,
            )


# --- modules --------------------------------------------------------------------------


def refuse_exact_batch(run: Run, base: type[Run]) -> None:
    """Refuse `optim.exact_batch` of a method or model that cannot have it.

    Args:
        run: whose modules are built.
        base: of its class.

    Raises:
        ConfigError: says what stands in the way.
    """
    method = type(run)
    if method.compute_loss is not base.compute_loss:
        raise ConfigError(
            f"optim.exact_batch=true needs embed(views) and loss_of(embeddings), and"
            f" {method.__name__} has a compute_loss of its own; write it as these two,"
            " or set optim.exact_batch=false"
        )
    if run.config.optim.per_micro_batch_norm:
        return
    for name, norm in batch_norms(run):
        raise ConfigError(
            f"optim.exact_batch=true, but {name}, a {type(norm).__name__}, sees a"
            " micro-batch at a time; choose a model without batch norm, such as"
            " model.backbone.name=vit, or accept it by optim.per_micro_batch_norm=true"
        )


# --- what is read after the data ------------------------------------------------------


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
        optim, steps = run.config.optim, run.total_steps
        if optim.exact_batch and optim.accumulate == 1:
            yield "optim.exact_batch=true changes nothing at optim.accumulate=1"
        yield from out_of_reach(
            run.config, run.scheduler, steps / run.steps_per_epoch, steps
        )
