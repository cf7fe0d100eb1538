"""Whole runs under trackers: the same numbers everywhere, whatever fails."""

import json
import os
import signal

import pytest
import torch
from PIL import Image

from stable_ssl.checkpoint import equal, load
from stable_ssl.loggers.run_names import run_path
from stable_ssl.methods import SimCLR

from .conftest import from_csv, from_tensorboard, from_wandb, same, truth

ALL = "log.api=[csv,tensorboard,wandb]"
SCRIPT = """
import os, signal, sys
import torch
from stable_ssl import load_config
from tests.conftest import Tiny

class Killed(Tiny):
    def optimizer_step(self):
        if self.step == int(os.environ.get("KILL_AT", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        super().optimizer_step()

Killed.__name__ = "Tiny"
torch.set_num_threads(1)
Killed(load_config("base", sys.argv[1:])).run()
"""


def weights(run_dir):
    return load(run_dir / "ckpts" / "last.ckpt")["modules"]


@pytest.mark.slow
def test_a_killed_run_ends_with_equal_mirrors(
    tmp_path, shell, tiny, config, rows, main, assert_mirrored
):
    """Killed at step 14, with a checkpoint of step 9, whose val row comes after it."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    path = str(main.parents[1])
    keys = [
        *(f"log.folder={tmp_path}", "log.run=run", "optim.epochs=2", ALL),
        *("log.eval.untrained=false", "log.eval.few_labels=[]", "log.every_n_steps=3"),
        *("log.eval.every_n_epochs=1", "log.eval.spectrum=true", "optim.lr=0.1"),
        *("log.checkpoint.every_n_epochs=null", "log.checkpoint.every_n_steps=9"),
        *("optim.scheduler.warmup_epochs=0", "log.pictures.every_n_epochs=1"),
    ]
    killed = shell(script, *keys, KILL_AT="14", PYTHONPATH=path)
    run_dir = tmp_path / "runs" / "default" / "run"
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert truth(run_dir)[-1]["step"] == 12
    assert len((run_dir / "spectra.jsonl").read_text().splitlines()) == 1
    resumed = shell(script, *keys, PYTHONPATH=path)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed at epoch 0, step 9" in (run_dir / "console.log").read_text()
    assert_mirrored(run_dir, folders=2)
    pictures = from_tensorboard(run_dir)[1]
    assert pictures == {"views": 2, "neighbours": 2, "features": 2}

    whole = tiny(config("base", "log.run=whole", *keys[4:]))
    whole.run()
    assert rows(whole.run_dir) == rows(run_dir)
    assert equal(weights(whole.run_dir), weights(run_dir))
    spectra = "spectra.jsonl"
    assert (whole.run_dir / spectra).read_bytes() == (run_dir / spectra).read_bytes()


def test_observers_leave_weights_and_rows_alone(config, rows, assert_mirrored):
    every = "log.pictures.every_n_epochs=1"
    watched = SimCLR(config("simclr", "log.run=a", ALL, every))
    watched.run()
    alone = SimCLR(config("simclr", "log.run=b", "log.pictures=null"))
    alone.run()
    assert equal(weights(watched.run_dir), weights(alone.run_dir))
    assert rows(watched.run_dir) == rows(alone.run_dir)
    assert_mirrored(watched.run_dir)
    drawn = {path.name for path in (watched.run_dir / "figures").glob("*_e*.png")}
    names = ("views", "neighbours", "features")
    assert drawn == {f"{name}_e00{epoch}.png" for name in names for epoch in (1, 2)}
    with Image.open(watched.run_dir / "figures" / "views_e001.png") as image:
        assert image.info["step"] == "9"
    assert not list((alone.run_dir / "figures").glob("*_e*.png"))


def test_a_row_says_what_a_step_costs_and_the_gradient_it_had(tiny, config):
    norms = []

    class Watched(tiny):
        def optimizer_step(self):
            grads = [p.grad.flatten() for p in self.parameters()]
            norms.append(torch.cat(grads).norm().item())
            super().optimizer_step()

    trainer = Watched(config("base", "log.every_n_steps=4", "log.eval.linear=null"))
    trainer.run()
    train = [row for row in truth(trainer.run_dir) if "train/loss" in row]
    assert [row["step"] for row in train] == [4, 8, 12, 16, 18]
    for row in train:
        assert row["train/grad_norm"] == pytest.approx(norms[row["step"] - 1], rel=1e-5)
        assert 0 < row["perf/data_wait"] < 1
        assert 0.05 < row["perf/memory_gib"] < 16
        assert row["perf/images_per_s"] > 0


def test_waiting_for_data_is_seen(tiny, config):
    class Slow(tiny):
        def initialize_data(self):
            super().initialize_data()
            from time import sleep

            loader = self.train_loader
            each = type(loader).__iter__
            slow = type("Slow", (type(loader),), {})
            slow.__iter__ = lambda self: (sleep(0.05) or batch for batch in each(self))
            loader.__class__ = slow

    trainer = Slow(config("base", "optim.epochs=1", "log.eval.linear=null"))
    trainer.run()
    train = [row for row in truth(trainer.run_dir) if "train/loss" in row]
    for row in train:  # of 3 steps of 128 images
        seconds = 3 * 128 / row["perf/images_per_s"]
        assert 3 * 0.05 <= row["perf/data_wait"] * seconds <= seconds


def test_pictures_are_drawn_where_nothing_was_evaluated(tiny, config, rows):
    quiet = ["log.eval.every_n_epochs=null", "log.monitor=null", "optim.epochs=3"]
    drawn = tiny(config("base", "log.run=a", "log.pictures.every_n_epochs=2", *quiet))
    drawn.run()
    plain = tiny(config("base", "log.run=b", "log.pictures=null", *quiet))
    plain.run()
    assert rows(drawn.run_dir) == rows(plain.run_dir)
    assert (drawn.run_dir / "figures" / "neighbours_e002.png").exists()
    assert (drawn.run_dir / "figures" / "neighbours_e003.png").exists()


def test_data_that_are_no_images_have_no_pictures(tiny, config):
    class Vectors(tiny):
        def initialize_data(self):
            super().initialize_data()
            batches = [(torch.rand(8, 64), torch.arange(8)) for _ in range(3)]
            self.train_loader, self.loaders = batches, {"val": batches}

    trainer = Vectors(config("base", "log.eval.knn=null", "log.monitor=null"))
    trainer.run()
    assert not list((trainer.run_dir / "figures").glob("*_e*.png"))


# --- wandb fails: at the start, in the middle, at the end -----------------------------


@pytest.fixture
def plain(tiny, config, rows):
    """Return weights and rows of the run that nothing befell."""
    trainer = tiny(config("base", "log.run=plain", "optim.epochs=1"))
    trainer.run()
    return weights(trainer.run_dir), rows(trainer.run_dir)


def is_as(plain, run_dir, rows):
    return equal(weights(run_dir), plain[0]) and rows(run_dir) == plain[1]


WANDB = ["optim.epochs=1", "log.api=[wandb]"]

FAILING = """
import json, os, signal, sys
from pathlib import Path

import torch
from tests.conftest import Tiny
from stable_ssl.loggers import wandb

def kill_wandb():
    own = f"PPid:\\t{os.getpid()}\\n"
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = status.with_name("cmdline").read_bytes()
            if own in status.read_text() and b"wandb-core" in command:
                os.kill(int(status.parent.name), signal.SIGKILL)
                print("killed")
        except OSError:
            pass  # a process that has ended

class Abandoned(Tiny):
    def after_train_step(self):
        if sys.argv[1] == "in the middle" and self.step == 5:
            kill_wandb()

    def test(self):
        super().test()
        if sys.argv[1] == "at the end":
            kill_wandb()

wandb.SETTINGS["init_timeout"] = 1
torch.set_num_threads(1)
Abandoned(json.loads(Path("config.json").read_text())).run()
"""


@pytest.fixture
def failing(tmp_path, shell, config, main):
    """Return a runner of the tiny run in a process of its own, whose wandb fails."""

    def run(when, **environment):
        from omegaconf import OmegaConf

        container = OmegaConf.to_container(config("base", *WANDB))
        (tmp_path / "config.json").write_text(json.dumps(container))
        (tmp_path / "script.py").write_text(FAILING)
        path = str(main.parents[1])
        return shell("script.py", when, PYTHONPATH=path, **environment)

    return run


def test_wandb_without_network(failing, rows, plain, tmp_path):
    nowhere = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    out = failing("at the start", WANDB_API_KEY=40 * "a", **nowhere)
    assert out.returncode == 0, out.stderr
    assert out.stderr.count("log.api: wandb failed") == 1
    assert is_as(plain, tmp_path / "runs" / "default" / "run", rows)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc"), reason="finds a process by /proc")
@pytest.mark.parametrize("when", ["in the middle", "at the end"])
def test_wandb_dies(when, failing, rows, plain, tmp_path):
    out = failing(when)
    assert out.returncode == 0, out.stderr
    assert out.stdout.count("killed") == 1
    assert out.stderr.count("log.api: wandb failed") == 1
    assert is_as(plain, tmp_path / "runs" / "default" / "run", rows)


def test_wandb_with_a_broken_folder(tiny, config, rows, plain, tmp_path):
    trainer = tiny(config("base", *WANDB))
    run_dir = tmp_path / "runs" / "default" / "run"
    run_dir.mkdir(parents=True)
    (run_dir / "wandb").write_text("a file")
    with pytest.warns(UserWarning, match="log.api: wandb failed") as caught:
        trainer.run()
    assert len([w for w in caught if "log.api" in str(w.message)]) == 1
    assert is_as(plain, trainer.run_dir, rows)


# --- secrets and ranks ----------------------------------------------------------------


def test_a_secret_of_the_environment_is_in_no_file(tiny, config, monkeypatch):
    monkeypatch.setenv("API_KEY", "hush-hush-42")
    monkeypatch.setattr("sys.argv", ["main.py", "+mine.login=${oc.env:API_KEY}"])
    keys = [
        *("+mine.login=${oc.env:API_KEY}", "+mine.again=${mine.login}"),
        *("+mine.url='https://me:${oc.env:API_KEY}@x.org'", "+mine.number=42"),
    ]
    trainer = tiny(config("base", ALL, *keys))
    trainer.overrides = keys
    trainer.run()
    assert trainer.config.mine.again == "hush-hush-42"
    _, _, known = from_wandb(trainer.run_dir, 1)
    assert known["mine"] == {
        "login": "***",
        "again": "***",
        "url": "https://me:***@x.org",
        "number": 42,
    }
    files = [path for path in trainer.run_dir.rglob("*") if path.is_file()]
    assert len(files) > 15
    for path in files:
        assert b"hush-hush" not in path.read_bytes(), path


@pytest.mark.slow
def test_one_rank_writes(config):
    keys = ["optim.epochs=1", "log.api=[csv,wandb]", "hardware.processes=2"]
    trainer = SimCLR(config("simclr", *keys, "log.pictures.every_n_epochs=1"))
    trainer.run()
    run_dir = run_path(trainer.config.log)
    assert same(from_csv(run_dir), truth(run_dir))
    assert len(list((run_dir / "wandb").glob("offline-run-*"))) == 1
    assert len(list((run_dir / "figures").glob("*_e001.png"))) == 3
