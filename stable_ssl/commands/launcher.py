"""The command line: Hydra, with a check of every job before one starts or is submitted.

Unlike Hydra itself, wrong input ends with one message, before any job is started; a
chosen launcher is used with or without `-m`; and the name of a run is fixed once,
before it is submitted.
"""

from __future__ import annotations

import argparse
import itertools
import math
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from stable_ssl import distributed, recorded
from stable_ssl.commands import trust
from stable_ssl.commands.jobs import (
    NUMBER,
    check_jobs,
    expanded,
    quoted,
    run_names,
    trainer_class,
    use_own_modules,
)
from stable_ssl.config import composed, experiments, hydra_session, located
from stable_ssl.loggers.run_names import run_path
from stable_ssl.loggers.table import printable
from stable_ssl.schema import ConfigError

if TYPE_CHECKING:
    from stable_ssl.trainer import BaseTrainer

SLURM = ("sbatch", "srun")  # its programs that submitit calls
GPUS = {"gpus", "gpus_per_node", "gpus_per_task", "gres"}  # how Slurm is asked for some
REQUEUES = 1000  # of a job that runs into its time limit, again and again
HYDRA = [  # Hydra writes no files: the run folder holds what would be in them
    "hydra.output_subdir=null",
    "hydra.run.dir=.",
    "hydra.sweep.dir=${log.folder}",
    "hydra.sweep.subdir=.",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
]


def start(
    argv: Sequence[str],
    trainer: type[BaseTrainer] | None = None,
    config_name: str | None = None,
    config_path: str | Path | None = None,
    script: Path | None = None,
) -> None:
    """Run a command line, and exit as `launch` does where something is wrong.

    Args:
        argv: arguments after the program's name.
        trainer: as for `launch`, and so are config_name and config_path.
        config_name: recipe where argv names none.
        config_path: folder of recipes.
        script: folder that relative config paths start from; None: the working folder.
    """
    try:
        command = Command(argv, trainer, config_name, config_path, script or Path.cwd())
        failures = command.execute()
    except ConfigError as error:
        failures = [error]
        print(f"error: {_in_a_terminal(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        sys.exit(130)
    if failures:
        sys.exit(2 if all(isinstance(f, ConfigError) for f in failures) else 1)


def _in_a_terminal(error: Exception) -> str:
    return printable(str(error), kept="\n")


class Job:
    """What Hydra calls for every run, here or, pickled, in a Slurm job."""

    def __init__(self, trainer: type[BaseTrainer] | None):
        self.trainer = trainer

    def __call__(self, config: DictConfig) -> float | Exception | None:
        """Run; return the monitored value, or the error once it was printed."""
        from hydra.core.hydra_config import HydraConfig

        from stable_ssl.trainer import Diverged

        try:
            run = trainer_class(self.trainer, config)(config)
            overrides = OmegaConf.to_container(HydraConfig.get().overrides.task)
            run.overrides = [  # with the number of this job
                f"++log.run={quoted(config.log.run)}"
                if NUMBER in override
                else override
                for override in overrides
            ]
            return run.run()
        except (ConfigError, Diverged, distributed.RankFailed) as error:
            kind = "diverged" if isinstance(error, Diverged) else "error"
            print(f"{kind}: {_in_a_terminal(error)}", file=sys.stderr)
            return error
        except Exception as error:  # a sweep goes on, and ends with its table
            traceback.print_exc()
            return error


def option_parser() -> argparse.ArgumentParser:
    """Return a parser of the command line: Hydra's options, and KEY=VALUE."""
    from hydra import __version__

    parser = argparse.ArgumentParser(add_help=False)
    option = parser.add_argument
    option("overrides", nargs="*", help="KEY=VALUE, what differs from the recipe")
    option("--help", "-h", action="store_true", help="this text")
    option("--hydra-help", action="store_true", help="the keys below `hydra`")
    version = f"Hydra {__version__}"
    option("--version", action="version", version=version, help="that of Hydra")
    option("--config-name", "-cn", help="the recipe")
    option("--config-path", "-cp", help="folder of recipes, from the script's folder")
    option("--config-dir", "-cd", help="folder of recipes, from the working folder")
    option("--run", "-r", action="store_true", help="start one run, the default")
    option("--multirun", "-m", action="store_true", help="one for each value of a,b,c")
    parts = ("job", "hydra", "all")
    text = f"show the configuration, one of {', '.join(parts)}"
    option("--cfg", "-c", choices=parts, help=text)
    option("--package", "-p", help="the group that --cfg shows")
    option("--resolve", action="store_true", help="interpolations, for --cfg, --help")
    kinds = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    text = f"show what Hydra found, one of {', '.join(kinds)}"
    option("--info", "-i", nargs="?", const="all", choices=kinds, help=text)
    text = "of keys and values, by install=SHELL or uninstall=SHELL"
    option("--shell-completion", "-sc", action="store_true", help=text)
    text = "of a run folder's config, --config-dir RUN --config-name config"
    option("--trust", action="store_true", help=f"execute all that is named; {text}")
    return parser


class Command:
    """One command line: which recipe, which jobs, and where they run; see `start`."""

    def __init__(
        self,
        argv: Sequence[str],
        trainer: type[BaseTrainer] | None,
        config_name: str | None,
        config_path: str | Path | None,
        script: Path,
    ):
        self.trainer = trainer
        self.parser = option_parser()
        self.args = self.parser.parse_intermixed_args(list(argv))
        named = self.args.config_name or config_name
        name = named or ("simclr" if trainer is None else "base")
        self.script = script
        name, self.folders, self.run_folder = recorded.kept_apart(
            *located(name, self._folders(config_path, script))
        )
        if self.run_folder is not None:
            self.folders = [
                folder
                for folder in self.folders
                if not trust.among_runs(Path(folder), self.run_folder)
            ]
        with hydra_session(self.folders) as self.session:
            self.name, self.overrides = experiments.arranged(
                name, self.args.overrides, named=bool(named)
            )

    def _folders(self, config_path: str | Path | None, script: Path) -> list[Path]:
        """Return the folders of recipes, those named on the command line first."""
        named = self.args.config_path or config_path
        folders = [Path(self.args.config_dir)] if self.args.config_dir else []
        folders += [script / named] if named else []
        for folder in folders:
            if not folder.is_dir():
                raise ConfigError(
                    f"no folder of recipes at {folder}; --config-path is relative to"
                    " the script, --config-dir to the current folder"
                )
        configs = script / "configs"
        return [*folders, configs] if configs.is_dir() else folders

    def execute(self) -> list[Exception]:
        """Answer a question about the configuration, or check and run the jobs.

        Returns:
            The errors of the runs that failed.
        """
        if self._answered():
            return []
        jobs = self._jobs()
        if self.run_folder is None or self._agreed(self.run_folder, jobs):
            use_own_modules()
        choices = jobs[0].hydra.runtime.choices
        launcher = choices["hydra/launcher"]
        several = self.args.multirun or launcher != "basic"
        searches = self.args.multirun and choices["hydra/sweeper"] != "basic"
        check_jobs(jobs, self.trainer, launcher == "basic", searches)
        overrides = [*self.overrides, *HYDRA]
        if searches:
            jobs = jobs[:1]  # each result decides what the next job is
            overrides += self._direction(jobs[0])
        elif several and launcher == "basic":  # each is composed as it starts
            overrides.insert(0, "hydra.sweeper.max_batch_size=1")  # a user's wins
        if launcher.startswith("submitit"):
            overrides += self._submitit(jobs[0])
        absent = [program for program in SLURM if shutil.which(program) is None]
        if launcher == "submitit_slurm" and absent:
            raise ConfigError(
                f"hydra/launcher={launcher}, and this machine has no"
                f" {' and no '.join(absent)}; start it where Slurm is, or choose"
                " hydra/launcher=submitit_local"
            )
        names, naming = run_names(jobs, several, searches)
        overrides += naming
        with hydra_session(self.folders, self.session) as hydra:
            if several:
                overrides.append("hydra.mode=MULTIRUN")
                with _submission(launcher):
                    batches = hydra.multirun(self.name, Job(self.trainer), overrides)
                returned = [r for batch in batches or [] for r in batch]
            else:
                returned = [hydra.run(self.name, Job(self.trainer), overrides)]
        if several:
            _show_sweep(jobs, names, searches)
        values = [r.return_value for r in returned]
        return [value for value in values if isinstance(value, Exception)]

    def _answered(self) -> bool:
        """Print what an option asks for; return whether one asked."""
        args, name, overrides = self.args, self.name, self.overrides
        with hydra_session(self.folders, self.session) as hydra:
            if args.help:
                hydra.app_help(name, self.parser, args)
            elif args.hydra_help:
                hydra.hydra_help(name, self.parser, args)
            elif args.cfg:
                hydra.show_cfg(name, overrides, args.cfg, args.package, args.resolve)
            elif args.info:
                hydra.show_info(args.info, name, overrides)
            elif args.shell_completion:
                hydra.shell_completion(name, overrides)
            else:
                return False
        return True

    def _jobs(self) -> list[DictConfig]:
        """Compose every job of the command line, the node `hydra` included."""
        with hydra_session(self.folders, self.session):
            jobs = self._composed_jobs()
            if self.args.multirun and self._sweeps_by_the_file(jobs[0].hydra):
                jobs = self._composed_jobs()
        if self.args.multirun and jobs[0].hydra.job.chdir:
            raise ConfigError(
                "hydra.job.chdir=true would move each job of a sweep to another folder,"
                " from which log.folder and data.root are others; set it to false"
            )
        return jobs

    def _composed_jobs(self) -> list[DictConfig]:
        lines = self._overrides_of_jobs()
        return [composed(self.name, [*line, *HYDRA]) for line in lines]

    def _sweeps_by_the_file(self, hydra: DictConfig) -> bool:
        """Take `hydra.sweeper.params` of a recipe for overrides of the command line.

        A key that is there already stays as it is. A search reads its params itself.

        Returns:
            Whether there are any.
        """
        swept = hydra.sweeper.get("params")
        if not swept or hydra.runtime.choices["hydra/sweeper"] != "basic":
            return False
        given = {expanded(override)[0].lstrip("+") for override in self.overrides}
        more = [f"{k}={v}" for k, v in swept.items() if k.lstrip("+") not in given]
        self.overrides = [*more, *self.overrides, "hydra.sweeper.params=null"]
        return True

    def _agreed(self, run: Path, jobs: Sequence[DictConfig]) -> bool:
        """Ask, where a run's config.yaml names what is not the user's own.

        Returns:
            Whether modules of the working folder may be needed.

        Raises:
            ConfigError: there is no yes to it.
        """
        own = None if self.trainer is None else self.script
        configs = map(OmegaConf.to_container, jobs)
        named = [use for config in configs for use in trust.uses(run, config, own)]
        named = list(dict.fromkeys(named))
        asked = trust.of_the_record(run, named) + trust.of_the_working_folder(run)
        trust.agree(run, asked, self.args.trust)
        return own is not None or bool(named)

    def _overrides_of_jobs(self) -> list[list[str]]:
        """Return the overrides of each job: all combinations of the values a,b,c."""
        if not self.args.multirun:
            return [self.overrides]
        values = dict(map(expanded, self.overrides))  # of two for a key the last wins
        if all(values.values()):
            return [list(job) for job in itertools.product(*values.values())]
        return [[ones[0] for ones in values.values() if len(ones) == 1]]  # a search

    def _direction(self, job: DictConfig) -> list[str]:
        """Return the override that tells Optuna to maximise or minimise `log.monitor`.

        Without it Optuna minimises.

        Raises:
            ConfigError: nothing is monitored.
        """
        if job.log.monitor is None:
            raise ConfigError(
                "a search needs log.monitor, the metric that a run is judged by"
            )
        if self._sets("sweeper.direction") or "direction" not in job.hydra.sweeper:
            return []
        direction = "maximize" if job.log.monitor_mode == "max" else "minimize"
        return [f"hydra.sweeper.direction={direction}"]

    def _submitit(self, job: DictConfig) -> list[str]:
        """Return the overrides of submitit that the command line does not set.

        A job that has timed out is requeued, which is not submitit's default; a job of
        several GPUs or processes a machine gets a task for each; and the GPUs that
        `hardware.gpus` names are asked for, unless the launcher asks for some.

        Raises:
            ConfigError: a time limit of which Slurm would warn the job as it starts.
        """
        hardware, launcher = job.hardware, job.hydra.launcher
        limit, delay = launcher.get("timeout_min"), launcher.get("signal_delay_s")
        if None not in (limit, delay) and 60 * limit - delay < 60:
            raise ConfigError(
                f"hydra.launcher.timeout_min={limit} leaves no time to train: Slurm"
                f" warns the job signal_delay_s={delay} s before the limit, and up to"
                f" 30 s early; use timeout_min={math.ceil(delay / 60) + 1} or more"
            )
        ids = None if hardware.gpus is None else distributed.named_ids(hardware.gpus)
        tasks = hardware.processes or len(ids or [0])  # -1, all GPUs: one task
        wanted = {  # submitit's default, and the value to set where it was not changed
            "max_num_timeout": (0, REQUEUES),
            "tasks_per_node": (1, tasks),
            "nodes": (1, hardware.num_nodes),
        }
        more = launcher.get("additional_parameters") or {}
        asked = any(launcher.get(k) is not None or k in more for k in GPUS)
        if ids and not asked:
            wanted["gpus_per_node"] = (None, max(ids) + 1)
        return [
            f"hydra.launcher.{key}={value}"
            for key, (default, value) in wanted.items()
            if launcher.get(key) == default != value
            and not self._sets(f"launcher.{key}")
        ]

    def _sets(self, key: str) -> bool:
        """Return whether the command line sets a key."""
        return any(f"{key}=" in override for override in self.overrides)


@contextmanager
def _submission(launcher: str) -> Iterator[None]:
    """Say what Slurm says where it is to take jobs, and refuses them."""
    if launcher != "submitit_slurm":
        yield
        return
    from submitit.core.utils import FailedJobError

    try:
        yield
    except FailedJobError as error:
        if not isinstance(error.__cause__, subprocess.CalledProcessError):
            raise  # of a job that was submitted
        said = (str(error).strip() or "nothing").splitlines()[-1]
        raise ConfigError(
            f"Slurm refused the jobs; sbatch said: {said}; correct hydra.launcher, or"
            " ask whether Slurm runs"
        ) from None


def _show_sweep(
    jobs: Sequence[DictConfig], names: Sequence[str], searches: bool
) -> None:
    """Print a table of the runs of a sweep that ran to their end, and the best."""
    from stable_ssl.tools.summary import overview

    runs = [run_path(job.log, name) for job, name in zip(jobs, names, strict=True)]
    if searches:
        stem = runs[0].name.removesuffix("0")
        runs = runs[0].parent.glob(f"{stem}*")
        runs = sorted(runs, key=lambda run: int(run.name.removeprefix(stem)))
    runs = [run for run in runs if (run / "metrics.jsonl").exists()]
    if runs:
        print(overview(runs))
    results = Path(jobs[0].log.folder) / "optimization_results.yaml"
    if searches and results.exists():
        best = OmegaConf.load(results)
        keys = " ".join(f"{k}={v}" for k, v in best.get("best_params", {}).items())
        print(f"\nbest: {keys}, {jobs[0].log.monitor} {best.get('best_value')}")
