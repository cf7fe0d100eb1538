"""What only a run's setup can refuse, asked of all jobs of a sweep before the first.

A rehearsal is the setup of a job and its first validation, of one batch, as with
`fast_dev_run`: in one process on the CPU, in a temporary folder, in silence. Nothing is
trained, and nothing of it is left: global random numbers, torch's settings and warnings
are as before.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from stable_ssl.schema import ConfigError
from stable_ssl.torch_errors import translated_torch_errors

if TYPE_CHECKING:
    from stable_ssl.trainer import BaseTrainer

FREE = (  # in what setup does not depend on; the group hardware is that of a rehearsal
    "hardware log.folder log.experiment log.run log.tags log.entity log.project"
    " log.every_n_steps log.checkpoint log.pictures"
).split()
FEW = 8  # images of a batch of the validation


def distinct(configs: Iterable[DictConfig]) -> list[int]:
    """Return which of several configs, each complete, are worth a rehearsal.

    Of those that differ in `FREE` and in the numbers of an optimizer or schedule alone,
    it is the first.
    """
    first: dict[frozenset[Any], int] = {}
    for number, config in enumerate(configs):
        first.setdefault(frozenset(_what_matters(config)), number)
    return list(first.values())


def _what_matters(config: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, value as text) of what a setup may depend on."""
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config)
    if at in FREE:
        return
    if isinstance(config, Mapping) and config:
        for name, value in config.items():
            yield from _what_matters(value, f"{at}.{name}" if at else str(name))
    elif at.startswith("optim.") and isinstance(config, float):
        yield at, repr(config) if config in (0, 1) else ""  # 0 and 1 may turn off
    else:
        yield at, repr(config)


def rehearse(trainer: type[BaseTrainer], config: DictConfig) -> None:
    """Build all that a job needs, as far as the job itself would get to a refusal.

    What fails in another way is left to the job, and so is what depends on several
    processes, a GPU, or the run's own folder.

    Args:
        trainer: the class.
        config: complete, with mode=fit.

    Raises:
        ConfigError: as the job would.
    """
    short: dict[str, Any] = OmegaConf.to_container(config)
    short["fast_dev_run"] = True
    short["hardware"] = {"seed": config.hardware.seed, "accelerator": "cpu"}
    few = min(config.data.eval_batch_size or FEW, FEW)
    short["data"] |= {"eval_batch_size": few, "compile": False, "in_memory": 0.0}
    short["log"] |= {"run": "rehearsal", "resume": None}
    with _undisturbed():
        try:
            run = trainer(short)
            try:
                with translated_torch_errors():
                    run.setup()
                    run.validate()
            finally:
                run.cleanup()
        except ConfigError:
            raise
        except Exception:  # the job itself shows it, with its traceback
            return


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave no trace of what happens inside."""
    from stable_ssl import seeding
    from stable_ssl.lifecycle import preserve_settings

    with (
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
        preserve_settings(),
        seeding.preserve_rng(),
    ):
        warnings.simplefilter("ignore")
        yield
