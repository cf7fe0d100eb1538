"""What a run is at a step: taken for a checkpoint, restored from one.

A state is tensors and plain Python types; `FORMAT` counts its forms.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from stable_ssl import attributes, checkpoint, distributed, seeding
from stable_ssl.data.batch import known_length, to_device
from stable_ssl.data.build import TRAINING
from stable_ssl.models import EMA
from stable_ssl.optim.collect import MAIN
from stable_ssl.schema import ConfigError
from stable_ssl.secrets import masked

FORMAT = 3  # 1 had one optimizer and no attributes, 2 one evaluator with a state


def take(run: Any) -> dict[str, Any]:
    """Return all that a resumed run needs: tensors and plain Python types.

    Synchronises the host and the ranks.

    Args:
        run: a trainer after `setup`.
    """
    own = {  # of each rank
        "rng": seeding.get_rng_state(),
        "rng_at_epoch": run.rng_at_epoch,
        "logged": run.records.training.state(),
    }
    everyone = distributed.all_gather_object((own, run.subclass_attributes.state()))
    return {
        "format": FORMAT,
        "trainer": type(run).__name__,
        "config": masked(run.config),
        "epoch": run.epoch,
        "step": run.step,
        "lengths": (known_length(run.train_loader), run.images_per_step),
        "modules": run.state_dict(),
        "unsaved": _unsaved(run),
        "attributes": attributes.merged([kept for _, kept in everyone]),
        "optimizers": {n: o.state_dict() for n, o in run.optimizers.items()},
        "schedulers": {n: s.state_dict() for n, s in run.schedulers.items()},
        "scaler": run.scaler.state_dict(),
        "evaluators": run.evaluation.state_dict(),
        "ranks": [own for own, _ in everyone],
        "metrics": run.metrics,
        "validated": run.validated,
        "stopped": run.stopped,
        "patience": run.early_stopping and run.early_stopping.state_dict(),
        **run.records.folder.positions,
    }


def begin(run: Any, defaults: dict[str, Any]) -> dict[str, Any] | None:
    """Resume the state that a run's config asks for, or load weights alone, or neither.

    Synchronises the ranks.

    Args:
        run: a trainer of which all is built; with `mode=fit`, its `resumed_state` is
            the state that it goes on from.
        defaults: of a config's keys; a state may be older than a key.

    Returns:
        The lengths of the run's files to go on from; None keeps all that is in them.

    Raises:
        ConfigError: the state is of another run or model, or there is none to evaluate.
    """
    log, fit = run.config.log, run.config.mode == "fit"
    state, own = checkpoint.choose(log.resume, run.checkpoints.folder)
    distributed.barrier()  # all have read it before rank 0 deletes later ones
    if not fit and log.load_from is not None:
        state, own = None, False  # it is these weights that are asked about
    if state is not None:
        _resume(run, state, own, defaults)
    elif log.load_from is not None:
        restore_weights(run, checkpoint.load(log.load_from), strict=not fit)
    elif run.config.mode not in TRAINING:
        raise ConfigError(
            f"mode={run.config.mode} needs weights: set log.load_from to a checkpoint,"
            " or log.run to a run that has some"
        )
    if not fit:
        return None
    return state if own else {}


def _resume(
    run: Any, state: dict[str, Any], own: bool, defaults: dict[str, Any]
) -> None:
    """Restore a state, the run's own or another's, and say so."""
    fit = run.config.mode == "fit"
    if fit:
        checkpoint.refuse_other_settings(state["config"], masked(run.config), defaults)
        lengths = known_length(run.train_loader), run.images_per_step
        longer = checkpoint.length_changed(
            state, run.config.optim, run.total_steps, lengths
        )
        if longer:
            run.say(longer)
            state["stopped"] = None
        run.resumed_state = state
    restore(run, state)
    if (saved := len(state["ranks"])) != run.world_size:
        run.say(
            f"saved by {saved} processes, resumed by {run.world_size}: what draws from"
            " global generators, such as dropout, goes on otherwise"
        )
    if own and fit and run.rank == 0:
        run.checkpoints.resume(state)
    whose = "its own state" if own else run.config.log.resume
    run.say(f"resumed at epoch {run.epoch}, step {run.step} from {whose}")


def restore(run: Any, state: dict[str, Any]) -> None:
    """Make a trainer, of which all is built, what it was when `state` was taken.

    Raises:
        ConfigError: the state is of another model.
    """
    state = upgraded(state)
    checkpoint.load_modules(run, state["modules"])
    _load_unsaved(run, state["unsaved"])
    _restore_place(run, state)
    if run.steps_per_epoch:  # the last epoch of `optim.steps` may be a part of one
        run.epoch = min(run.epoch, run.step // run.steps_per_epoch)
    run.metrics.clear()
    run.metrics.update(state["metrics"])
    ranks = state["ranks"]
    own = ranks[run.rank % len(ranks)]
    if run.optimizer is not None:
        run.validated, run.stopped = state["validated"], state["stopped"]
        if run.early_stopping is not None and state["patience"] is not None:
            run.early_stopping.load_state_dict(state["patience"])
        if run.optimizers.keys() != state["optimizers"].keys():
            raise ConfigError(
                f"the checkpoint has the optimizers {', '.join(state['optimizers'])},"
                f" the trainer {', '.join(run.optimizers)}; choose another log.run"
            )
        for name, optimizer in run.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        for name, scheduler in run.schedulers.items():
            if name in state["schedulers"]:
                scheduler.load_state_dict(state["schedulers"][name])
        run.subclass_attributes.load_state(attributes.of_rank(state["attributes"]))
        run.scaler.load_state_dict(state["scaler"])
        run.records.training.load_state(own["logged"])
    run.rng_at_epoch = own["rng_at_epoch"]
    seeding.set_rng_state(own["rng"])


def upgraded(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state of an earlier format in today's.

    Raises:
        ConfigError: it is of a later one.
    """
    number = state.get("format", 1)
    if number > FORMAT:
        raise ConfigError(
            f"the checkpoint has format {number}, and this version reads up to"
            f" {FORMAT}; install a newer stable-SSL"
        )
    if number < 3:
        probe = state["probe"]
        state = {**state, "evaluators": {} if probe is None else {"probe": probe}}
    if number > 1:
        return state
    scheduler = state["scheduler"]
    return {
        **state,
        "optimizers": {MAIN: state["optimizer"]},
        "schedulers": {} if scheduler is None else {MAIN: scheduler},
        "unsaved": {},
        "stopped": None,
        "patience": None,
        "attributes": {"alike": {"objects": {}, "values": {}}},
    }


def _unsaved(module: nn.Module) -> dict[str, Any]:
    """Return what modules hold and their state dicts leave out, by module and name.

    Those are buffers that are not persistent, and the states of torchmetrics.
    """
    saved, found = module.state_dict().keys(), {}
    for path, child in module.named_modules():
        own = {n: b for n, b in child.named_buffers(path, recurse=False)}
        own = {n.rpartition(".")[2]: b for n, b in own.items() if n not in saved}
        if own | getattr(child, "metric_state", {}):
            found[path] = own | getattr(child, "metric_state", {})
    return found


def _load_unsaved(module: nn.Module, saved: dict[str, Any]) -> None:
    """Restore what `_unsaved` returned, of the modules that are there."""
    there = dict(module.named_modules())
    for path, values in saved.items():
        for name, value in values.items() if path in there else ():
            setattr(there[path], name, to_device(value, module.device))


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
    state = upgraded(state)
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
    run.evaluation.load_state_dict(state["evaluators"])
    run.epoch, run.step = state["epoch"], state["step"]
