"""How a run begins and ends as processes: its name, its ranks, its last words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stable_ssl import distributed
from stable_ssl.loggers.run_folder import mark_failed, reserve, run_path
from stable_ssl.preemption import Preempted


class Diverged(RuntimeError):
    """The training loss is not finite."""


def name_run(config: DictConfig) -> None:
    """Fix the run's name, once for all processes; synchronises ranks."""
    log = config.log
    if log.run is None and distributed.is_main():
        log.run = f"{reserve([None if config.fast_dev_run else log])}_0"
    log.run = distributed.broadcast_object(log.run)


def run_on_ranks(trainer: Any, processes: int) -> float | None:
    """Run a trainer in several processes of this machine, each with one like it.

    Returns:
        What rank 0's `run` returns.

    Raises:
        Diverged: in one of them.
        RankFailed: another error, or a process died.
    """
    name_run(trainer.config)
    config = OmegaConf.to_container(trainer.config)
    work = type(trainer), config, trainer.overrides
    try:
        return distributed.spawn(_run, processes, work)
    except distributed.RankFailed as error:
        mark_failed(run_path(trainer.config.log), str(error))
        if isinstance(error.__cause__, Diverged):
            raise error.__cause__ from None
        raise


def _run(cls: type, config: dict[str, Any], overrides: list[str]) -> float | None:
    """Be one of the processes of a run."""
    trainer = cls(config)
    trainer.overrides = overrides
    return trainer.run()


@contextmanager
def ended_in_words(trainer: Any) -> Iterator[None]:
    """Write how a run ends to its folder, clean up, and let a signal take its course.

    A run that a signal stopped ends the context, and most often the process, without
    an error; every other error goes on.
    """

    def end(status: str, reason: str) -> None:
        if folder := trainer.records.folder:
            folder.say(f"{status} {reason}".strip())
            folder.status(status, reason)

    preempted = False
    try:
        yield
        step, why = trainer.step, trainer.stopped
        end("finished", f"stopped at step {step}: {why}" if why else "")
    except Preempted as error:
        preempted = True
        end("preempted", str(error))
        if trainer.step and not trainer.config.fast_dev_run:
            run = trainer.config.log.run
            trainer.say(f"{error}; saved: the same command and log.run={run} go on")
    except KeyboardInterrupt:
        end("preempted", "interrupted twice from the keyboard; not saved")
        raise
    except Diverged as error:
        end("diverged", str(error))
        raise
    except Exception as error:
        end("failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        trainer.cleanup()
    if preempted:
        trainer.preemption.chain()
