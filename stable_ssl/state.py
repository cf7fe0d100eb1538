"""What a run is at a step: taken for a checkpoint, restored from one."""

from __future__ import annotations

from typing import Any

from stable_ssl import checkpoint, distributed, seeding
from stable_ssl.config import masked
from stable_ssl.data.loader import known_length
from stable_ssl.models import EMA


def take(run: Any) -> dict[str, Any]:
    """Return all that a resumed run needs: tensors and plain Python types.

    Synchronises the host and the ranks.

    Args:
        run: a trainer after `setup`.
    """
    own = {  # of each rank
        "rng": seeding.get_rng_state(),
        "rng_at_epoch": run._rng_at_epoch,
        "logged": run.records.training.state(),
    }
    return {
        "trainer": type(run).__name__,
        "config": masked(run.config),
        "epoch": run.epoch,
        "step": run.step,
        "lengths": (known_length(run.train_loader), run.images_per_step),
        "modules": run.state_dict(),
        "optimizers": {n: o.state_dict() for n, o in run.optimizers.items()},
        "schedulers": {n: s.state_dict() for n, s in run.schedulers.items()},
        "scaler": run.scaler.state_dict(),
        "probe": run.online.state(),
        "ranks": distributed.all_gather_object(own),
        "metrics": run.metrics,
        "validated": run._validated,
        **run.records.folder.positions,
    }


def restore(run: Any, state: dict[str, Any]) -> None:
    """Make a trainer, of which all is built, what it was when `state` was taken.

    Raises:
        ConfigError: the state is of another model.
    """
    checkpoint.load_modules(run, state["modules"])
    _restore_place(run, state)
    if run.steps_per_epoch:  # the last epoch of `optim.steps` may be a part of one
        run.epoch = min(run.epoch, run.step // run.steps_per_epoch)
    run.metrics.clear()
    run.metrics.update(state["metrics"])
    ranks = state["ranks"]
    if len(ranks) != run.world_size:
        run.say(
            f"saved by {len(ranks)} processes, resumed by {run.world_size}: what"
            " draws from global generators, such as dropout, goes on otherwise"
        )
    own = ranks[run.rank % len(ranks)]
    if run.optimizer is not None:
        run._validated = state["validated"]
        for name, optimizer in run.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        for name, scheduler in run.schedulers.items():
            scheduler.load_state_dict(state["schedulers"][name])
        run.scaler.load_state_dict(state["scaler"])
        run.records.training.load_state(own["logged"])
    run._rng_at_epoch = own["rng_at_epoch"]
    seeding.set_rng_state(own["rng"])


def restore_weights(run: Any, state: dict[str, Any], strict: bool) -> None:
    """Load weights alone, and say which.

    Args:
        run: a trainer of which all is built.
        state: of this or of another method.
        strict: to evaluate: all of them, the probe's too, or fail. Else, to train on:
            what fits is loaded and the rest named; of a teacher that the state lacks,
            the student is copied.

    Raises:
        ConfigError: the state is of another model.
    """
    saved = state["modules"]
    report = checkpoint.load_modules(run, saved, strict)
    run.say(f"weights of {run.config.log.load_from}: {report}")
    if strict:
        _restore_place(run, state)
        return
    for name, module in run.named_modules():
        if isinstance(module, EMA) and not any(k.startswith(f"{name}.") for k in saved):
            module.restart()
            run.say(f"{name}: not in the checkpoint, so a copy of its student")


def _restore_place(run: Any, state: dict[str, Any]) -> None:
    run.online.load_state(state["probe"])
    run.epoch, run.step = state["epoch"], state["step"]
