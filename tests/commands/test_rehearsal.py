"""A sweep is refused whole, before its first job, for what only setup can know."""

import random
import warnings

import numpy
import pytest
import torch
from omegaconf import OmegaConf

from stable_ssl import BaseTrainer, commands
from stable_ssl.commands import jobs, launcher
from stable_ssl.commands.rehearsal import distinct, rehearse
from stable_ssl.schema import ConfigError

QUICK = ["log.eval.untrained=false", "log.eval.few_labels=[]", "log.pictures=null"]
SMALL = ["++model.backbone.width=4", "++model.projector=[8]"]


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """Return a starter of command lines that train nothing; it returns the message."""

    def fit(trainer):
        raise AssertionError("a job was started")

    def run(*line):
        with pytest.raises(SystemExit) as ended:
            commands.main(["-cn", "simclr", *line, *QUICK])
        assert ended.value.code == 2
        shown = capfd.readouterr()
        (message,) = shown.err.splitlines()
        assert shown.out == "" and message.startswith("error: ")
        assert list(tmp_path.iterdir()) == []
        return message.removeprefix("error: ")

    monkeypatch.setattr(BaseTrainer, "fit", fit)
    monkeypatch.chdir(tmp_path)
    return run


@pytest.mark.parametrize(
    ("sweep", "job", "words"),
    [
        ("model.backbone.name=convnet,resnet19", None, "did you mean 'resnet18'"),
        ("data.batch_size=128,1000000", None, "the train split has 1197 samples"),
        ("data.num_classes=10,3", None, "but train has labels up to 9"),
        ("log.monitor=val/acc1,val/nosuch", None, "is never reported"),
        ("optim.accumulate=1,10", None, "an epoch of the train data is 9 batches"),
        ("log.eval.knn.k=20,2000", None, "the bank has 1,197 images"),
        ("data.num_classes=10,100000000000", "data.num_classes=1", "not enough memory"),
        (
            "optim.weight_decay=0.1,0 optim.weight_decay_end=0.2",
            "optim.weight_decay=0",
            "has no start",
        ),
        (
            "optim.lr=0.1,0.0001 optim.scheduler.min_lr=0.001",
            "optim.lr=0.0001",
            "min_lr=0.001 is above the value 0.0001",
        ),
        (
            "optim.lr=0.1,0.2 hardware.seed=0,1 model.name=simclr,supervised",
            "optim.lr=0.1 hardware.seed=0 model.name=supervised",
            "temperature",
        ),
    ],
)
def test_one_job_that_setup_refuses_stops_a_sweep(refused, sweep, job, words):
    message = refused("-m", *sweep.split())
    swept, _, values = sweep.partition(" ")[0].partition("=")
    assert message.startswith(job or f"{swept}={values.split(',')[-1]}")
    assert words in message


class Logs(BaseTrainer):
    """Logs a metric in a hook, and looks at the global state."""

    predicts = True
    seen = 0

    def initialize_modules(self):
        self.layer = torch.nn.Linear(64, 10)
        warnings.warn("as every job says", stacklevel=1)
        print("a line of a job")

    def forward(self, x):
        return self.layer(x.flatten(1))

    def compute_loss(self):
        raise AssertionError("a rehearsal trains nothing")

    def after_eval_step(self):
        Logs.seen += 1
        self.log({"val/mine": torch.rand(())})


def test_what_a_hook_logs_is_known_from_the_first_validation(config):
    rehearse(Logs, config("base", "log.monitor=val/mine"))
    with pytest.raises(ConfigError, match="val/mint is never reported.*'val/mine'"):
        rehearse(Logs, config("base", "log.monitor=val/mint"))


def test_a_rehearsal_leaves_no_trace(config, tmp_path, capfd, recwarn):
    def state():
        drawn = random.getstate()[1][:3], numpy.random.get_state()[1][:3].tolist()
        return *drawn, torch.get_rng_state().tolist(), torch.get_num_threads()

    made = config("base", "hardware.threads=3", "hardware.deterministic=true")
    before, seen = state(), Logs.seen
    rehearse(Logs, made)
    assert Logs.seen == seen + 1  # one batch of val
    assert state() == before
    assert not torch.are_deterministic_algorithms_enabled()
    assert capfd.readouterr() == ("", "") and not recwarn.list
    assert list(tmp_path.iterdir()) == []
    assert (made.fast_dev_run, made.log.run, made.hardware.threads) == (False, "run", 3)


@pytest.mark.parametrize("when", ["initialize_modules", "after_eval_epoch"])
def test_what_fails_otherwise_is_left_to_the_job(config, monkeypatch, when):
    def fail(self):
        raise RuntimeError("of this machine")

    monkeypatch.setattr(Logs, when, fail)
    rehearse(Logs, config("base"))


@pytest.mark.parametrize(
    ("changes", "worth"),
    [
        ([{"optim": {"lr": 0.1 + i / 1000}} for i in range(50)], 1),
        ([{"hardware": {"seed": i}} for i in range(5)], 1),
        ([{"log": {"run": f"{i}", "experiment": f"e{i}"}} for i in range(5)], 1),
        ([{"optim": {"weight_decay": i}} for i in (0.0, 0.1, 0.2)], 2),  # 0: none
        ([{"optim": {"scheduler": {"min_lr": i}}} for i in (0.0, 0.1, 0.2)], 2),
        ([{"optim": {"steps": i}} for i in (1, 2)], 2),
        ([{"model": {"temperature": i}} for i in (0.1, 0.2)], 2),
        ([{"data": {"batch_size": i}} for i in (1, 2, 1)], 2),
        ([{"log": {"monitor": i}} for i in ("a", "b")], 2),
        ([{"log": {"eval": {"knn": {"k": i}}}} for i in (1, 2)], 2),
        ([{"mine": {"width": i}} for i in (1, 2)], 2),  # of a trainer of one's own
    ],
)
def test_jobs_that_setup_sees_alike_are_rehearsed_once(config, changes, worth):
    made = OmegaConf.to_container(config("simclr"))
    configs = [OmegaConf.merge(made, change) for change in changes]
    assert distinct(configs)[0] == 0 and len(distinct(configs)) == worth


@pytest.mark.parametrize(
    ("line", "times"),
    [
        ("-m optim.lr=0.1,0.2", 1),
        ("-m optim.lr=0.1,0.2 model.temperature=0.1,0.2", 2),
        ("-m optim.lr=0.1", 0),  # a job refuses itself
        ("-m optim.lr=0.1,0.2 mode=profile_data", 0),
        ("-m model.temperature=0.1,0.2 hydra/launcher=submitit_slurm", 0),
    ],
)
def test_who_is_rehearsed(tmp_path, monkeypatch, line, times):
    rehearsed = []
    monkeypatch.setattr(jobs, "rehearse", lambda *job: rehearsed.append(job))
    command = launcher.Command(line.split(), None, "simclr", None, tmp_path)
    composed = command._jobs()
    here = composed[0].hydra.runtime.choices["hydra/launcher"] == "basic"
    jobs.check_jobs(composed, None, here, searches=False)
    assert len(rehearsed) == times


def test_a_search_rehearses_each_value_once(tmp_path, monkeypatch):
    rehearsed = []
    monkeypatch.setattr(jobs, "rehearse", lambda _, job: rehearsed.append(job))
    space = ["model.temperature=0.1,0.2,0.3", "data.batch_size=64,128"]
    command = launcher.Command(["-m", *space], None, "simclr", None, tmp_path)
    jobs.check_jobs(command._jobs(), None, here=True, searches=True)
    found = [(job.model.temperature, job.data.batch_size) for job in rehearsed]
    assert found == [(0.1, 64), (0.1, 128), (0.2, 64), (0.3, 64)]


def test_a_sweep_that_is_right_trains_and_says_each_thing_once(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    line = ["-m", "hardware.seed=0,1", "optim.epochs=1", *QUICK, *SMALL]
    commands.main(["-cn", "simclr", *line])
    shown = capfd.readouterr()
    assert shown.out.count("is beyond the training") == 2  # a job each
    assert shown.err == ""
    assert len([*tmp_path.glob("logs/runs/simclr/*")]) == 2


@pytest.mark.parametrize(
    ("line", "files", "completed"),
    [
        ("fast_dev_run=true", 1, 1),
        ("-m optim.lr=range(1,30)", 3, 1),  # of a job, the sweep, and its jobs
        ("-m optim.lr=range(1,4) data.batch_size=64,128", 3, 1),
        ("-m optim.lr=1,2 model.name=simclr,supcon", 3, 2),
        ("-m optim.lr=1,0.5", 3, 2),
        ("-m optim.lr=1,2 ++mine.lr=${optim.lr}", 3, 2),
    ],
)
def test_what_jobs_share_is_composed_once(
    tmp_path, monkeypatch, line, files, completed
):
    """Of a start, and of all jobs of a sweep with what Hydra composes of them."""
    composing, completing = [], []
    monkeypatch.setattr(launcher.Job, "__call__", lambda *_: None)
    monkeypatch.setattr(jobs, "rehearse", lambda *_: None)
    complete = jobs.complete
    monkeypatch.setattr(
        jobs, "complete", lambda *job: completing.append(job) or complete(*job)
    )
    line = [*line.split(), f"log.folder={tmp_path}"]
    command = launcher.Command(line, None, "simclr", None, tmp_path)
    hydra = command.session.config_loader.loader
    load = hydra.load_configuration
    monkeypatch.setattr(
        hydra, "load_configuration", lambda *a: composing.append(a) or load(*a)
    )
    command.execute()
    assert (len(composing), len(completing)) == (files, completed)
