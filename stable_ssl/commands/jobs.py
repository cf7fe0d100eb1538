"""The jobs of a command line: their overrides and names, and what is refused of them.

All of them are looked at before one is started or submitted.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stable_ssl import distributed
from stable_ssl.commands.rehearsal import distinct, rehearse
from stable_ssl.config import alone, complete, resolver, with_numbers
from stable_ssl.config.composer import copier
from stable_ssl.loggers.run_names import check_names, reserve, run_path
from stable_ssl.schema import ConfigError, first_line

if TYPE_CHECKING:
    from stable_ssl.trainer import BaseTrainer

NUMBER = "${hydra:job.num}"  # of a job, in the name of its run
NUMBERED = re.compile(  # sets a key below a group, none of Hydra's own, to a number
    r"(?!hydra\.)(\w+(?:\.\w+)+)=(-?(?:0|[1-9]\d*)(\.\d+|(?:\.\d+)?e[-+]?\d+)?)",
    re.ASCII,
)


def quoted(text: str) -> str:
    """Return a text as a value of the command line that Hydra reads back as it is."""
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # which would be an interpolation
    text = re.sub(r'(\\*)"', r'\1\1\\"', text)
    return '"' + re.sub(r"(\\*)$", r"\1\1", text, count=1) + '"'


def expanded(override: str) -> tuple[str, list[str]]:
    """Return the key of a sweep's override, and one override for each of its values.

    There are none of a range, `interval(0,1)`, that a search expands.

    Raises:
        ConfigError: Hydra can read the values, and not go through them.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    loader = GlobalHydra.instance().config_loader()  # of the options for glob(*)
    (parsed,) = OverridesParser.create(loader).parse_overrides([override])
    key, values = parsed.get_key_element(), [override]
    if parsed.is_discrete_sweep():
        try:
            values = [f"{key}={value}" for value in parsed.sweep_string_iterator()]
            reason = "it has no values"
        except (OmegaConfBaseException, HydraException, ValueError) as error:
            values, reason = [], first_line(error)
        if not values:
            raise ConfigError(
                f"{override} is no sweep: {reason}; write the values out, a,b,c, or one"
                " of range(0,3), choice(a,b) and glob(*) alone"
            )
    elif parsed.is_sweep_override():
        values = []
    return key, values


def run_names(
    jobs: Sequence[DictConfig], several: bool, searches: bool
) -> tuple[list[str], list[str]]:
    """Reserve the folders of the runs; return their names, and overrides to set them.

    A name is time and job number, or the name given and the job number where a sweep
    would write all its runs to one folder.
    """
    if jobs[0].log.run is not None:
        folders = {run_path(job.log) for job in jobs}
        if len(folders) == len(jobs) and not searches:
            return [str(job.log.run) for job in jobs], []
        stem = str(jobs[0].log.run)
    else:
        logs = [None if job.fast_dev_run else job.log for job in jobs]
        stem = reserve(logs if distributed.this_process().rank == 0 else [])
    names = [f"{stem}_{number}" for number in range(len(jobs))]
    check_names(jobs[0].log.folder, jobs[0].log.experiment, names[-1])
    number = NUMBER if several else 0
    start = quoted(f"{stem}_").removesuffix('"')
    return names, [f'++log.run={start}{number}"']


def use_own_modules() -> None:
    """Let a user's own modules, in the working folder and its `src`, be imported."""
    for folder in (Path.cwd(), Path.cwd() / "src"):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


def trainer_class(
    trainer: type[BaseTrainer] | None, config: DictConfig
) -> type[BaseTrainer]:
    """Return the trainer to run: the one given, or what `model.name` names."""
    from stable_ssl.methods import checked_trainer, method_class

    if trainer is None:
        return method_class(OmegaConf.select(config, "model.name"))
    name = getattr(trainer, "__name__", trainer)
    return checked_trainer(trainer, f"launch was given {name}, which")


def check_jobs(
    jobs: Sequence[DictConfig],
    trainer: type[BaseTrainer] | None,
    here: bool,
    searches: bool,
) -> None:
    """Refuse all jobs where one could not run, before the first is started.

    On this machine, jobs of a sweep are also rehearsed; of those that differ in what
    cannot matter, such as the learning rate, one. A search makes its jobs as it goes,
    and each value of a choice is rehearsed once. Jobs for Slurm or another launcher are
    not rehearsed, since the data may be elsewhere, nor where torchrun or srun started
    this process beside others.

    Args:
        jobs: composed.
        trainer: as for `launch`.
        here: whether they run on this machine.
        searches: whether these are a search's choices.

    Raises:
        ConfigError: as `check` and `rehearse`; of several jobs, it names which.
    """
    lines = [OmegaConf.to_container(job.hydra.overrides.task) for job in jobs]
    shared = set.intersection(*map(set, lines))
    own = [[o for o in line if o not in shared] for line in lines]
    checked: list[DictConfig] = []
    first: dict[Any, Callable[[], DictConfig]] = {}
    for job, line, overrides in zip(jobs, lines, own, strict=True):
        with named(overrides):
            full = _completed(job, line, trainer_class(trainer, job), first)
            check(full, here)
            checked.append(full)
    if not here or len(jobs) == 1 or distributed.this_process().world_size > 1:
        return
    for i in distinct(checked):
        one_value = len({*lines[i]} - {*lines[0]}) < 2  # is another than the first's
        if checked[i].mode == "fit" and (one_value or not searches):
            with named(own[i]):
                rehearse(trainer_class(trainer, jobs[i]), checked[i])


@contextmanager
def named(words: Sequence[str]) -> Iterator[None]:
    """Begin an error inside with what its job is told by, such as its overrides."""
    try:
        yield
    except ConfigError as error:
        job, text = " ".join(words), str(error)
        raise ConfigError(text if text.startswith(job) else f"{job}: {text}") from error


def _completed(
    job: DictConfig,
    line: Sequence[str],
    trainer: type[BaseTrainer],
    first: dict[Any, Callable[[], DictConfig]],
) -> DictConfig:
    """Return a composed job with all defaults, checked by itself.

    Args:
        job: composed.
        line: its overrides.
        trainer: that runs it.
        first: by what they share, the first of jobs that differ in numbers alone, as
            a `copier`. The others are made of it, in a fraction of the time.
    """
    numbers, others = {}, []
    for override in line:
        if found := NUMBERED.fullmatch(override):
            text = found[2]
            numbers[found[1]] = int(text) if found[3] is None else float(text)
        else:
            others.append(override)
    kind = *others, *((key, type(number)) for key, number in numbers.items())
    if kind in first:
        return with_numbers(first[kind](), numbers)
    full = complete(job, trainer.model_config)
    if alone(full, numbers):
        first[kind] = copier(full)
    return full


def check(full: DictConfig, here: bool) -> None:
    """Refuse a job that could not run, before anything is started.

    Args:
        full: its configuration, with all defaults.
        here: whether it runs on this machine, whose devices are then looked at.

    Raises:
        ConfigError: names the key and what to change.
    """
    from stable_ssl.data.build import build_views
    from stable_ssl.data.datasets import check_name
    from stable_ssl.data.nodes import named_nodes
    from stable_ssl.evaluation.suite import asked_for
    from stable_ssl.loggers.trackers import check_installed
    from stable_ssl.optim import check_optimizer, check_scheduler
    from stable_ssl.tensor_files import refuse_folder
    from stable_ssl.tool_registry import check_tools

    if full.mode == "fit":
        with resolver.stand_ins():
            check_optimizer(full.optim)
            lr, scaled = full.optim.lr, full.optim.scale_lr_by is not None
            known = None if scaled or resolver.asked(full) else lr
            check_scheduler(full.optim.scheduler, known)
    if full.log.eval.linear is not None:
        check_optimizer(full.log.eval.linear, at="log.eval.linear")
    if here:
        distributed.choose_device(full.hardware)
        distributed.processes_asked(full.hardware)
        resume, weights = full.log.resume, full.log.load_from
        for name, path in (("resume", resume), ("load_from", weights)):
            if path in (None, "auto"):
                continue
            refuse_folder(Path(path))
            if not Path(path).is_file():
                raise ConfigError(
                    f"log.{name}={path} is not a file; give the path of a checkpoint,"
                    " such as ckpts/last.ckpt of a run's folder"
                )
    check_installed(full.log.api)
    check_tools(full.log.export.types)
    list(asked_for(OmegaConf.to_object(full.log.eval)))  # each can be built
    nodes = [node for _, _, node in named_nodes(full.data)]
    if full.mode == "predict" and isinstance(full.data.predict, DictConfig):
        nodes.append(full.data.predict)
    for node in nodes:
        check_name(node.dataset)
        build_views(node.dataset.get("image_transform"))
