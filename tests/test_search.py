"""Hydra's Optuna sweeper, as a user types it."""

import json

import pytest
from omegaconf import OmegaConf

QUICK = ["log.eval.untrained=false", "log.eval.few_labels=[]", "log.pictures=null"]
SEARCH = ["hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=0", "-m"]


@pytest.fixture(autouse=True)
def optuna():
    pytest.importorskip("optuna", reason="optuna is in the extra of that name")


@pytest.mark.slow
def test_a_search_finds_a_better_learning_rate_in_a_few_trials(shell, main, tmp_path):
    short = [
        "optim.epochs=3",
        "optim.scheduler.warmup_epochs=1",
        "log.monitor=val/acc1",
    ]
    space = ["optim.lr=tag(log,interval(0.01,3))", "hydra.sweeper.n_trials=6"]
    done = shell(main, "-cn", "simclr", *SEARCH, *space, *short, *QUICK, timeout=600)
    assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "logs" / "runs" / "simclr").iterdir())
    assert [run.name[-2:] for run in runs] == [f"_{number}" for number in range(6)]
    values = {run: last(run, "val/acc1") for run in runs}
    best = OmegaConf.load(tmp_path / "logs" / "optimization_results.yaml")
    assert best.best_value == max(values.values())  # the plugin's default is the least
    assert f"best: optim.lr={best.best_params['optim.lr']}, val/acc1" in done.stdout
    assert "6 runs" in done.stdout
    line = ["-m", "optim.lr=0.01,3", "log.experiment=ends"]  # of the interval
    done = shell(main, "-cn", "simclr", *line, *short, *QUICK)
    assert done.returncode == 0, done.stderr
    ends = (tmp_path / "logs" / "runs" / "ends").iterdir()
    assert best.best_value > 0.05 + max(last(run, "val/acc1") for run in ends)


def last(run, name):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    return [row[name] for row in rows if name in row][-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["log.monitor=null"], "a search needs log.monitor"),
        (["hydra/sweeper=basic"], "does not support sweep type : INTERVAL_SWEEP"),
        (["optim.momentum=2"], "optim.momentum=2.0 must be at most 1"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_words(
    shell, main, tmp_path, arguments, words
):
    space = "optim.lr=interval(0.01,3)"
    done = shell(main, "-cn", "simclr", *SEARCH[::2], space, *arguments)
    assert done.returncode == 2
    (message,) = done.stderr.strip().splitlines()
    assert words in message
    assert not list(tmp_path.rglob("metrics.jsonl"))


@pytest.mark.slow
def test_what_diverges_is_a_result_of_a_search(shell, main, tmp_path):
    """It goes on; the others are found."""
    space = ["optim.lr=choice(1e20,0.1)", "hydra.sweeper.n_trials=4", "log.run=mine"]
    short = ["optim.epochs=1", "optim.steps_per_epoch=2", "log.every_n_steps=1"]
    done = shell(main, "-cn", "simclr", *SEARCH, *space, *short, *QUICK)
    assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "logs" / "runs" / "simclr").iterdir())
    assert [run.name for run in runs] == ["mine_0", "mine_1", "mine_2", "mine_3"]
    ends = {json.loads((run / "status.json").read_text())["status"] for run in runs}
    assert ends == {"diverged", "finished"}
    assert "best: optim.lr=0.1" in done.stdout
