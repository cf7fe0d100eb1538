"""What a run is at a step: captured for a checkpoint, restored from one.

`FORMAT` counts the forms that states have had.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_ssl import checkpoint, distributed, seeding, subclass_state
from stable_ssl.batch import generators, known_length, to_device
from stable_ssl.checkpoint import State
from stable_ssl.data.nodes import TRAINING
from stable_ssl.distributed.sharded_state import mapped_by_path
from stable_ssl.distributed.sharding import mesh_of, shared_out_like
from stable_ssl.evaluation.otherwise import otherwise, refuse_other_figures, watched
from stable_ssl.evaluation.suite import CADENCE
from stable_ssl.loggers.means import shared_out
from stable_ssl.models import EMA
from stable_ssl.models.norm import batch_norms
from stable_ssl.models.weights import load_networks, refuse_untrained
from stable_ssl.optim.collect import group_names
from stable_ssl.run import Run
from stable_ssl.schema import ConfigError, described
from stable_ssl.secrets import masked
from stable_ssl.tensor_files import is_sealed, read, verify

FORMAT, OLDEST = 4, 3  # 3 had no `groups`
COPIED_LATER = {"modules", "optimizers", "evaluators"}  # of a state: as they are loaded


def capture(run: Run) -> State:
    """Return all that a resumed run needs; synchronises the host and the ranks.

    Tensors that are shared out over the ranks stay so.

    Args:
        run: a trainer after `setup`.
    """
    rank_state = {
        "rng": generator_states(run),
        "rng_at_epoch": run.rng_at_epoch,
        "logged": run.records.training.state(),
    }
    local_states = rank_state, run.subclass_attributes.state()
    states = distributed.all_gather_object(local_states)
    rank_states, attribute_states = zip(*states, strict=True)
    return {
        "format": FORMAT,
        "trainer": type(run).__name__,
        "config": masked(run.config),
        "epoch": run.epoch,
        "step": run.step,
        "lengths": (known_length(run.train_loader), run.images_per_step),
        "modules": run.state_dict(),
        "unsaved": _unsaved(run),
        "attributes": subclass_state.merged(attribute_states),
        "trained": [n for n, p in run.named_parameters() if p.requires_grad],
        "groups": {n: group_names(o, run) for n, o in run.optimizers.items()},
        "optimizers": {n: o.state_dict() for n, o in run.optimizers.items()},
        "schedulers": {n: s.state_dict() for n, s in run.schedulers.items()},
        "scaler": run.scaler.state_dict(),
        "evaluators": run.evaluation.state_dict(),
        "ranks": list(rank_states),
        "metrics": run.metrics,
        "validated": run.validated,
        "measured": run.measured,
        "stopped": run.stopped,
        "patience": run.early_stopping and run.early_stopping.state_dict(),
        **run.records.folder.positions,
    }


def generator_states(run: Run) -> State:
    """Return what further draws depend on: global generators, a user's loader's own."""
    own = [generator.get_state() for generator in generators(run.train_loader)]
    return {**seeding.get_rng_state(), "loader": own}


def set_generator_states(run: Run, state: State) -> None:
    """Restore what `generator_states` returned, or an earlier state's part of it."""
    seeding.set_rng_state(state)
    for generator, own in zip(
        generators(run.train_loader), state.get("loader", []), strict=False
    ):
        generator.set_state(own.cpu())


def begin(
    run: Run, settle: Callable[[State], State]
) -> tuple[State | None, str | None]:
    """Resume the state that a run's config asks for, or load weights alone, or neither.

    Synchronises the ranks.

    Args:
        run: a trainer of which all is built; with `mode=fit`, its `resumed_state` is
            the state that it goes on from.
        settle: returns a config that may be older than some keys with their defaults,
            see `completed`.

    Returns:
        The lengths of the run's files to go on from, None to keep all that is in them;
        and whose weights are loaded, None of the run's own newest ones.

    Raises:
        ConfigError: the state is of another run or model, or there is none to evaluate.
    """
    log, fit = run.config.log, run.config.mode == "fit"
    run.checkpoints.background.wait()
    folder, mesh = run.checkpoints.folder, mesh_of(run)
    state, is_own = checkpoint.choose(log.resume, folder, mesh)
    distributed.barrier()  # all have read it before rank 0 deletes later ones
    weights = None
    if not fit and log.load_from is not None:
        state, is_own = None, False  # those weights are to be evaluated, not the run's
    if state is not None:
        with _read_from(run.checkpoints.folder if is_own else log.resume):
            _resume(run, state, is_own, settle)
        weights = None if is_own else str(log.resume)
    elif log.load_from is not None:
        with _read_from(log.load_from):
            path = Path(log.load_from)
            distributed.from_main(lambda: verify(path) if is_sealed(path) else None)
            content = read(path, verified=True)
            restore_weights(run, content, strict=not fit)
            if not fit and (own := own_state(content)) is not None:
                _say_otherwise(run, own, settle)
        if not checkpoint.is_newest(path, folder, run.step, run.epoch):
            weights = str(path)
    elif run.config.mode not in TRAINING:
        raise ConfigError(
            f"mode={run.config.mode} needs weights: set log.load_from to a checkpoint,"
            " or log.run to a run that has some"
        )
    if not fit:
        return None, weights
    return (state if is_own else {}), weights


@contextmanager
def _read_from(path: str | Path) -> Iterator[None]:
    """Say that a checkpoint, whole by its checksum, holds other than `capture` returns.

    Raises:
        ConfigError: with what failed, at the first entry that does not fit.
    """
    try:
        yield
    except (ConfigError, OSError, MemoryError, torch.OutOfMemoryError):
        raise  # it is no fault of the file
    except Exception as error:  # of any object that loads its state
        raise ConfigError(
            f"{path}: what it holds is no state of this run: {described(error)};"
            " choose another checkpoint, or another log.run to start afresh"
        ) from error


def _resume(
    run: Run, state: State, is_own: bool, settle: Callable[[State], State]
) -> None:
    """Restore a state, the run's own or that of another run, and say so."""
    _check_format(state)
    fit, saved = run.config.mode == "fit", len(state["ranks"])
    if fit:
        _refuse_other_batch(run, saved)
        now = masked(run.config)
        then = settle(state["config"])
        checkpoint.refuse_other_settings(then, now)
        _refuse_other_probes(state["evaluators"], then, now)
        _keep_figures(run, state, is_own, then, now)
        lengths = known_length(run.train_loader), run.images_per_step
        optim, total_steps = run.config.optim, run.total_steps
        if change := checkpoint.length_changed(state, optim, total_steps, lengths):
            run.say(change)
            state["stopped"] = None
        run.resumed_state = state
    restore(run, state)
    if not fit:
        _say_otherwise(run, state, settle)
    if fit and saved != run.world_size:
        for text in _changes(run, state["attributes"], saved):
            run.say(text)
    if is_own and fit and run.rank == 0:
        run.checkpoints.resume(state)
    source = "its own state" if is_own else run.config.log.resume
    run.say(f"resumed at epoch {run.epoch}, step {run.step} from {source}")


def _keep_figures(
    run: Run, state: State, is_own: bool, then: State, now: State
) -> None:
    """Let one folder have figures of one kind, and patience be of what is watched.

    Raises:
        ConfigError: they are of another kind in the run's own folder.
    """
    if is_own:
        refuse_other_figures(then, now)
    elif state["patience"] is not None and any(watched(then, now)):
        run.say("what is watched differs: log.early_stopping begins anew")
        state["patience"] = state["stopped"] = None


def completed(then: State, now: State, complete: Callable[[State], State]) -> State:
    """Return a config that may be older than some keys, with their defaults.

    Args:
        then: of a checkpoint or a folder.
        now: of today.
        complete: returns a part of a config with all defaults.
    """
    defaults: State = {}
    with suppress(ConfigError):  # other keys differ then, and are named
        defaults = complete(checkpoint.known_to(now, then))
    return checkpoint.filled(then, defaults)


def _say_otherwise(run: Run, state: State, settle: Callable[[State], State]) -> None:
    """Say what of an evaluation is not as in the training of a state."""
    if found := otherwise(settle(state["config"]), masked(run.config)):
        run.say(f"evaluated otherwise than the run was: {', '.join(found)}")


def _refuse_other_probes(trained: Iterable[str], then: State, now: State) -> None:
    """Refuse another setting of an evaluator that goes on with what it has learned."""
    for name in trained:
        node = "linear" if name == "probe" else name
        asked = [config["log"]["eval"].get(node) for config in (then, now)]
        if None not in asked:  # it may be added, or left out
            old, new = ({k: v for k, v in n.items() if k not in CADENCE} for n in asked)
            checkpoint.refuse_other(f"log.eval.{node}", old, new)


def _refuse_other_batch(run: Run, saved: int) -> None:
    """Refuse to go on with other processes where these say how large a batch is.

    Args:
        run: a trainer that goes on.
        saved: the processes that it was saved by.

    Raises:
        ConfigError: names the key, and how many processes there were.
    """
    size, now = run.config.data.batch_size_per_gpu, run.world_size
    if size and saved != now:
        raise ConfigError(
            f"data.batch_size_per_gpu={size} made batches of {saved * size} in the"
            f" {saved} processes that saved the state, and makes {now * size} in {now};"
            f" go on with {saved}: only a run of data.batch_size goes on with others"
        )


def _changes(run: Run, attributes: State, saved: int) -> Iterator[str]:
    """Say that other processes go on, and what does not go on as one would."""
    yield (
        f"saved by {saved} processes, resumed by {run.world_size}: what draws from"
        " global generators, such as dropout, goes on otherwise"
    )
    if not run.config.hardware.sync_batchnorm and any(batch_norms(run)):
        yield (
            "hardware.sync_batchnorm=false: batch norms see another part of a batch now"
        )
    for name in subclass_state.differing(attributes):
        yield (
            f"self.{name} differed between the processes that saved it: process r goes"
            f" on with that of process r modulo {saved}"
        )


def restore(run: Run, state: State) -> None:
    """Make a trainer, of which all is built, what it was when `state` was captured.

    Nothing keeps memory of the state's, which may be that of a file.

    Raises:
        ConfigError: the state is of another model.
    """
    state = mapped_by_path(state, lambda _, x: x)  # objects may change it
    state |= {k: copy.deepcopy(v) for k, v in state.items() if k not in COPIED_LATER}
    checkpoint.load_modules(run, state["modules"])
    _load_unsaved(run, state["unsaved"])
    _restore_position(run, state)
    if run.steps_per_epoch:  # the last epoch of `optim.steps` may be a part of one
        run.epoch = min(run.epoch, run.step // run.steps_per_epoch)
    run.metrics.clear()
    run.metrics.update(state["metrics"])
    rank_state = state["ranks"][run.rank % len(state["ranks"])]
    if run.optimizers:
        run.validated, run.measured = state["validated"], dict(state["measured"])
        run.stopped = state["stopped"]
        if run.early_stopping is not None and state["patience"] is not None:
            run.early_stopping.load_state_dict(state["patience"])
        if run.optimizers.keys() != state["optimizers"].keys():
            raise ConfigError(
                f"the checkpoint has the optimizers {', '.join(state['optimizers'])},"
                f" the trainer {', '.join(run.optimizers)}; choose another log.run"
            )
        _grow(run, state)
        for name, optimizer in run.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
            for parameter, values in optimizer.state.items():
                placed = partial(_placed, parameter)
                optimizer.state[parameter] = mapped_by_path(values, placed)
        for name, scheduler in run.schedulers.items():
            if name in state["schedulers"]:
                scheduler.load_state_dict(state["schedulers"][name])
        saved = subclass_state.of_rank(state["attributes"])
        run.subclass_attributes.load_state(saved, run.device)
        run.scaler.load_state_dict(state["scaler"])
        logged = rank_state["logged"]
        if len(state["ranks"]) != run.world_size:
            by_rank = [one["logged"] for one in state["ranks"]]
            logged = shared_out(by_rank, run.world_size)
        run.records.training.load_state(logged)
    if run.rank < len(state["ranks"]):
        run.rng_at_epoch = rank_state["rng_at_epoch"]
        set_generator_states(run, rank_state["rng"])
    else:  # a rank more than there were draws what no other one draws
        key = seeding.fold_in(run.config.hardware.seed, run.step)
        seeding.seed_everything(int(seeding.fold_in(key, run.rank)) % 2**63)
        run.rng_at_epoch = generator_states(run)


def _placed(parameter: Tensor, _path: str, value: Tensor) -> Tensor:
    """Return what an optimizer loaded for a parameter, shared out as that is, anew.

    An optimizer takes a tensor on the CPU as it is, and so the file's memory.
    """
    new = shared_out_like(value, parameter)
    return value.clone() if new is value and value.device.type == "cpu" else new


def own_state(content: Any) -> State | None:
    """Return what a file holds as a state of this library; None of another.

    Raises:
        ConfigError: it is of a format that this version does not read.
    """
    ours = isinstance(content, dict) and "modules" in content
    if ours:
        _check_format(content)
    return content if ours else None


def _check_format(state: State) -> None:
    """Refuse a state of another format.

    Raises:
        ConfigError: names it.
    """
    number = state.get("format")
    if number not in range(OLDEST, FORMAT + 1):
        raise ConfigError(
            f"the checkpoint has format {number}, and this version reads {OLDEST} to"
            f" {FORMAT}; use the stable-SSL that wrote it"
        )


def _grow(run: Run, state: State) -> None:
    """Add the groups that optimizers got during the training, as of layers unfrozen."""
    parameters = dict(run.named_parameters())
    for name, groups in state.get("groups", {}).items():
        for names in groups[len(run.optimizers[name].param_groups) :]:
            added = [parameters[n] for n in names]
            run.optimizers[name].add_param_group({"params": added})
    if "trained" in state:
        trained = set(state["trained"])
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in trained)


def _unsaved(run: Run) -> dict[str, State]:
    """Return what modules hold and their state dicts leave out, by module and name.

    Those are buffers that are not persistent, and the states of torchmetrics.
    """
    saved, unsaved = run.state_dict().keys(), {}
    for path, module in run.named_modules():
        values = {
            full_name.rpartition(".")[2]: buffer
            for full_name, buffer in module.named_buffers(path, recurse=False)
            if full_name not in saved
        }
        if values := values | getattr(module, "metric_state", {}):
            unsaved[path] = values
    return unsaved


def _load_unsaved(run: Run, unsaved: Mapping[str, State]) -> None:
    """Restore what `_unsaved` returned, of the modules that are there."""
    for path, module in run.named_modules():
        for name, value in unsaved.get(path, {}).items():
            setattr(module, name, to_device(value, run.device))


def restore_weights(run: Run, state: Any, strict: bool) -> None:
    """Load weights alone, and say which.

    Args:
        run: a trainer of which all is built.
        state: of this or of another method, or what a file of another library holds.
        strict: to evaluate: all of them, the probe's too, or fail; of another library,
            all that evaluation calls. Else, to train on: what fits is loaded and the
            rest named; of a teacher that the state lacks, the student is copied.

    Raises:
        ConfigError: the state is of another model.
    """
    path = run.config.log.load_from
    own = own_state(state)
    if own is None:
        saved, lines = load_networks(run, state, path)
        for line in lines:
            run.say(line)
        if strict:
            refuse_untrained(run, saved, path)
            run.evaluation.load_state_dict({})  # refuses an untrained probe
        else:
            _restart_teachers(run, saved)
        return
    saved = own["modules"]
    report = checkpoint.load_modules(run, saved, strict)
    run.say(f"weights of {path}: {report}")
    if strict:
        _restore_position(run, own)
    else:
        _restart_teachers(run, saved)


def _restart_teachers(run: Run, saved: Iterable[str]) -> None:
    """Copy the students of teachers of which no weights were saved, and say so."""
    for name, module in run.named_modules():
        if isinstance(module, EMA) and not any(k.startswith(f"{name}.") for k in saved):
            module.restart()
            run.say(f"{name}: not in the checkpoint, so a copy of its student")


def _restore_position(run: Run, state: State) -> None:
    run.evaluation.load_state_dict(copy.deepcopy(state["evaluators"]))
    run.epoch, run.step = state["epoch"], state["step"]
