"""The runs that a paper's table needs: what each is called, and what starts it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from stable_ssl.commands.jobs import check, named, quoted, trainer_class
from stable_ssl.config import (
    complete,
    composed,
    experiments,
    hydra_session,
    located,
    with_numbers,
)
from stable_ssl.loggers.run_names import run_path
from stable_ssl.schema import ConfigError
from stable_ssl.tools.paper_file import Paper, Row
from stable_ssl.tools.paper_identity import (
    PLACES,
    as_recorded,
    hashed,
    without_places,
)
from stable_ssl.tools.paper_results import Planned
from stable_ssl.tools.run_keys import SEED

OWN = {  # what a table sets for each run, and what says so instead
    "log.folder": "; use --folder",
    "log.experiment": "",
    "log.run": "",
    SEED: "; use seeds of the file",
}


def plan(
    paper: Paper, name: str, folder: str, overrides: Sequence[str] = ()
) -> list[Planned]:
    """Return all runs of a table, each checked as its command line would be.

    Args:
        paper: its statement.
        name: of the experiment that the runs belong to.
        folder: `log.folder` of the runs.
        overrides: of the command line, for all runs; those of `PLACES` do not count as
            a change, nor do these keys in a machine's own `configs/local`.

    Raises:
        ConfigError: a run that could not start; names its row.
    """
    keys = {o: _key(o) for o in overrides}
    _refuse_own(paper, overrides)
    planned = []
    here = "hydra/launcher" not in keys.values()
    anywhere = None
    if _has_local(paper) or {"local", *PLACES} & {*keys.values()}:
        what = [o for o in overrides if keys[o] not in PLACES]
        anywhere = _composed(paper, [*what, "local=null"])
    for row, data, own, config in _composed(paper, overrides):
        titles = [*filter(None, [row.title, data])]
        with named(titles):
            model = trainer_class(None, config).model_config
            full = complete(config, model)
            check(full, here)
            if full.fast_dev_run:
                said = "keeps nothing, and a table is made of runs that are kept"
                raise ConfigError(f"fast_dev_run=true {said}; leave it out")
            stands_for, holds = hashed(full, model), as_recorded(full)
            if anywhere:
                stated = without_places(config, next(anywhere)[-1], model)
                stands_for = hashed(stated, model)
            for seed in row.seeds:
                with_numbers(full, {SEED: seed})  # each is checked
        words = [re.sub(r"[^\w.]+", "_", word) for word in (*titles, stands_for)]
        for seed in row.seeds:
            run = f"{'-'.join(words)}-s{seed}"
            names = {"folder": folder, "experiment": name, "run": run}
            line = [f"--config-name={row.recipe}", *own, f"{SEED}={seed}"]
            line += [f"log.{key}={quoted(text)}" for key, text in names.items()]
            path = run_path(OmegaConf.create(names))
            run_of = row.title, data, seed, stands_for, tuple(line)
            planned.append(Planned(*run_of, path, holds))
    if len({one.folder for one in planned}) < len(planned):
        raise ConfigError(
            "two rows or data sets have titles that differ in signs alone"
        )
    return planned


def beside() -> list[Path]:
    """Return the folder of a user's own configurations, if there is one."""
    return [*filter(Path.is_dir, [Path("configs").absolute()])]


def _has_local(paper: Paper) -> bool:
    """Return whether a machine's own configurations are beside those of a table."""
    folders = [*beside(), *(Path(row.recipe).parent for row in paper.rows)]
    return any((folder / "local").is_dir() for folder in folders)


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _refuse_own(paper: Paper, overrides: Sequence[str]) -> None:
    """Refuse overrides of what the table sets for each run, wherever they stand."""
    rows = ((row.title, row.overrides) for row in paper.rows)
    for where, texts in (
        ("the command line", overrides),
        ("overrides", paper.overrides),
        *((data or "data", texts) for data, texts in paper.data.items()),
        *rows,
    ):
        for key in map(_key, texts):
            if key in OWN:
                said = f"{where}: {key} is the table's own, one for each run"
                raise ConfigError(f"{said}{OWN[key]}")


def _composed(
    paper: Paper, overrides: Sequence[str]
) -> Iterator[tuple[Row, str, list[str], DictConfig]]:
    """Yield each row and data set of a table, its overrides, and its configuration."""
    searched, sessions = beside(), {}
    for row in paper.rows:
        name, folders = located(row.recipe, searched)
        for data, of_data in paper.data.items():
            own = [*paper.overrides, *of_data, *row.overrides, *overrides]
            known = sessions.get(tuple(folders))  # what was read is not read again
            with (
                named([*filter(None, [row.title, data])]),
                hydra_session(folders, known) as sessions[tuple(folders)],
            ):
                config = composed(*experiments.arranged(name, own))
            yield row, data, own, config
