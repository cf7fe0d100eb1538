"""What is composed of remembered files is what Hydra composes of them anew."""

import pickle
from dataclasses import dataclass

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf

from stable_ssl.config import alone, complete, compose, hydra_session, with_numbers
from stable_ssl.config.composer import Composer, copier
from stable_ssl.schema import ConfigError

LINES = [
    "",
    "optim.lr=0.1",
    "optim.lr=0.1 optim.lr=0.2",
    "++log.run='20261120' mode=test fast_dev_run=true",
    "data=digits data.batch_size=3 ++data.batch_size=4",
    "+mine.a=1 mine.a=2",
    "++mine.a=1 ++mine={b:3}",
    "~optim.lr ++optim.lr=3",
    "~log.eval.linear ++log.eval.linear.lr=1",
    "hydra/launcher=submitit_local hydra.run.dir=. optim.lr=1",
    "optim={lr:2} optim.lr=3",
    "optim.lr=3 optim={lr:2,epochs:${optim.lr}}",
    "log.tags=[a,b] log.monitor=null log.folder=${oc.env:HOME}",
    "optim.lr=3 hydra.job.config.override_dirname.exclude_keys=[optim.lr]",
    "log.eval=null",
    "~data optim.lr=1",
    "hydra.searchpath=[pkg://stable_ssl.recipes] optim.lr=2",
    # what Hydra refuses
    "nosuch=1",
    "optim.nosuch=1",
    "optim.lr.x=1",
    "+optim.lr=3",
    "data=nosuch optim.lr=1",
    "optim.lr=0.1,0.2",
    "data.batch_size=3 data=null",
    "log.eval=null log.eval.knn=null",
    "data@x=digits",
    "optim.lr=[",
]


def outcome(loader, line):
    """Return all there is of a composition, or the error."""
    try:
        made = loader.load_configuration("simclr", line.split(), RunMode.RUN)
    except Exception as error:
        return type(error), str(error)
    flags = [OmegaConf.is_struct(made), OmegaConf.is_readonly(made.hydra)]
    return OmegaConf.to_container(made), str(OmegaConf.get_type(made.hydra)), flags


@pytest.mark.parametrize("line", LINES)
def test_it_composes_as_hydra_does(line):
    with hydra_session() as session:
        composer = session.config_loader
        by_hydra = outcome(composer.loader, line)
        for _ in range(2):  # of files that are read, and of what they made
            assert outcome(composer, line) == by_hydra


def test_a_job_of_a_sweep_is_composed_as_hydra_does():
    with hydra_session() as session:
        composer = session.config_loader
        line = ["hydra.sweep.dir=a", "optim.lr=1,2"]
        master = composer.load_configuration("simclr", line, RunMode.MULTIRUN)
        for loader in (composer, composer.loader):
            job = loader.load_sweep_config(master, ["optim.lr=2"])
            assert (job.optim.lr, job.hydra.sweep.dir) == (2, "a")
            assert job.hydra.overrides.task == ["optim.lr=2"]


def test_what_it_remembers_is_no_part_of_what_is_sent_to_a_slurm_job():
    with hydra_session() as session:
        session.config_loader.load_configuration("simclr", [], RunMode.RUN)
        sent = pickle.loads(pickle.dumps(session.config_loader))
        assert isinstance(sent, Composer) and sent.of_files == {}
        assert outcome(sent, "optim.lr=3") == outcome(sent.loader, "optim.lr=3")


def test_copies_of_a_config_whose_class_is_local():
    @dataclass
    class Mine:
        size: int = 3

    config = OmegaConf.structured(Mine)
    made = copier(config)
    config.size = made().size = 4
    assert made() == OmegaConf.structured(Mine)


NUMBERS = [
    {"optim.lr": 1},  # an integer where the key is no whole number
    {"optim.lr": 0.5, "optim.weight_decay": 0.25},
    {"data.batch_size": 64, "hardware.seed": 3},
    {"log.eval.knn.k": 7, "model.temperature": 0.3, "mine.size": 2},
    {"optim.lr": -1.0},  # and what is refused
    {"log.eval.every_n_steps": 2.5},
    {"optim.accumulate": 0},
    {"hardware.processes": 0},
]


@pytest.mark.parametrize("numbers", NUMBERS, ids=str)
def test_other_numbers_in_a_config_are_completed_as_the_whole(numbers):
    def composed(numbers):
        return compose("simclr", [f"++{key}={n}" for key, n in numbers.items()])

    first = {key: type(number)(1) for key, number in numbers.items()}
    full = complete(composed(first))
    assert alone(full, first)
    try:
        whole = complete(composed(numbers))
    except ConfigError as error:
        with pytest.raises(ConfigError) as refused:
            with_numbers(copier(full)(), numbers)
        assert str(refused.value) == str(error)
    else:
        assert with_numbers(copier(full)(), numbers) == whole


@pytest.mark.parametrize(
    "overrides",
    [
        ["optim.lr=1", "++mine.twice=${optim.lr}"],  # another group sees it
        ["++optim.lr=1", "optim={lr:2}"],  # it is not what was given
    ],
)
def test_numbers_that_are_seen_elsewhere_are_not_alone(overrides):
    assert not alone(complete(compose("simclr", overrides)), {"optim.lr": 1})
