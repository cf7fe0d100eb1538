"""How a run begins and ends as processes: its name, its ranks, its last status."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from stable_ssl import distributed
from stable_ssl.data import Loader
from stable_ssl.data.combined import named_parts
from stable_ssl.distributed.config import Hardware
from stable_ssl.lock import is_held
from stable_ssl.loggers.run_folder import mark_failed
from stable_ssl.loggers.run_names import reserve, run_path
from stable_ssl.memory import keep_freed
from stable_ssl.preemption import Preempted
from stable_ssl.run import Run

SMALL = 2**17  # values in one view of a batch


class Diverged(RuntimeError):
    """The training loss is not finite."""


def name_run(config: DictConfig) -> None:
    """Fix the run's name, once for all processes; synchronises ranks."""
    log = config.log
    if log.run is None and distributed.is_main():
        log.run = f"{reserve([None if config.fast_dev_run else log])}_0"
    log.run = distributed.broadcast_object(log.run)


def apply_settings(hardware: Hardware) -> None:
    """Set what is of the whole process: memory, threads, determinism, anomalies."""
    keep_freed()
    if hardware.threads is not None:
        torch.set_num_threads(hardware.threads)
    if hardware.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch asks it
        torch.use_deterministic_algorithms(True)
    if hardware.detect_anomaly:
        torch.autograd.set_detect_anomaly(True)


def share_threads(hardware: Hardware, loaders: Mapping[str, Any]) -> None:
    """Settle how many threads a CPU computes with.

    On small batches threads wait for one another longer than they compute: unless
    `hardware.threads` says how many, there is one then, and torch's choice otherwise,
    as for loaders of another library and streams, whose batches are not known before.
    """
    if small_batches(hardware, loaders):
        torch.set_num_threads(1)


def small_batches(hardware: Hardware, loaders: Mapping[str, Any]) -> int:
    """Return the values of a view of a train batch where they are few, otherwise 0."""
    if hardware.threads is not None:
        return 0
    counts = [
        loader.example.views[0].numel() * loader.batch_size // distributed.world_size()
        for combined in list(loaders.values())[:1]
        for loader in named_parts(combined).values()
        if isinstance(loader, Loader) and not loader.streams and _is_array(loader)
    ]
    return sum(counts) if sum(counts) < SMALL else 0


def _is_array(loader: Loader) -> bool:
    return isinstance(loader.example.views[0], torch.Tensor)


@contextmanager
def preserve_settings() -> Iterator[None]:
    """Restore torch's settings of the whole process: the next run has its own."""
    threads = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    anomaly = torch.is_anomaly_enabled()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict, warn_only=warn)
        torch.autograd.set_detect_anomaly(anomaly)


def run_on_ranks(run: Run, processes: int) -> float | None:
    """Run a trainer in several processes of this machine, each with one like it.

    Returns:
        What rank 0's `run` returns.

    Raises:
        Diverged: in one of them.
        RankFailed: another error, or a process died.
    """
    name_run(run.config)
    config = OmegaConf.to_container(run.config)
    arguments = type(run), config, run.data_objects, run.overrides
    try:
        return distributed.spawn(_run, processes, arguments)
    except distributed.RankFailed as error:
        if not is_held(path := run_path(run.config.log)):  # by another launch
            mark_failed(path, str(error))
        if isinstance(error.__cause__, Diverged):
            raise error.__cause__ from None
        raise


def _run(
    trainer: Callable[..., Run],
    config: dict[str, Any],
    data_objects: dict[str, Any],
    overrides: list[str],
) -> float | None:
    """Run a trainer's class in one of the processes of a run."""
    run = trainer(config)
    run.data_objects, run.overrides = data_objects, overrides
    return run.run()


@contextmanager
def awaited_checkpoint(run: Run) -> Iterator[None]:
    """Wait, however the run ends, until the checkpoint in flight is on the disk.

    Raises:
        ConfigError: it could not be written; a warning beside another error.
    """

    def wait() -> None:
        if run.checkpoints is not None:  # setup got so far
            with distributed.patient():
                run.checkpoints.background.wait()

    try:
        yield
    except BaseException:
        try:
            wait()
        except Exception as error:
            warnings.warn(str(error), stacklevel=2)
        raise
    wait()


@contextmanager
def recorded_end(run: Run) -> Iterator[None]:
    """Write how a run ends to its folder, clean up, and let a signal act.

    A run that a signal stopped ends the context, and most often the process, without
    an error; every other error is raised again.
    """

    def end(status: str, reason: str) -> None:
        if folder := run.records.folder:
            folder.say(f"{status} {reason}".strip())
            folder.status(status, reason)

    preempted = False
    try:
        yield
        step, why = run.step, run.stopped
        end("finished", f"stopped at step {step}: {why}" if why else "")
    except Preempted as error:
        preempted = True
        end("preempted", str(error))
        if run.step and not run.config.fast_dev_run:
            name = run.config.log.run
            run.say(f"{error}; saved: the same command and log.run={name} go on")
    except KeyboardInterrupt:
        end("preempted", "interrupted twice from the keyboard; not saved")
        raise
    except Diverged as error:
        end("diverged", str(error))
        raise
    except BaseException as error:  # of sys.exit, too
        end("failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        run.cleanup()
    if preempted:
        run.preemption.chain()
