"""Numbers that a config names before they are known: ${stable_ssl:max_iterations}."""

from dataclasses import dataclass

import pytest
from omegaconf import OmegaConf

from stable_ssl import ConfigError, load_config
from stable_ssl.config import Model

LR = "optim.lr=${stable_ssl:iterations_per_epoch}"
DECAY = "model.decay_steps=${stable_ssl:max_iterations}"
TEXT = "+mine.note='${stable_ssl:num_gpus} of ${stable_ssl:num_nodes}'"
STEPS = 9  # of an epoch of the digits


@dataclass
class TinyConfig(Model):
    decay_steps: int = 1
    name: str | None = "tiny"


@pytest.fixture
def asking(tiny):
    """Return a trainer that reads a runtime value as it builds its modules."""

    class Asking(tiny):
        model_config = TinyConfig

        def initialize_modules(self):
            super().initialize_modules()
            self.found = self.config.model.decay_steps

    return Asking


def quick(config, *overrides):
    return config("base", "++optim.epochs=3", f"++{DECAY}", *overrides)


def test_each_run_of_a_process_has_its_own(asking, config):
    first = asking(quick(config, LR, TEXT, "log.run=a"))
    second = asking(quick(config, "log.run=b", "optim.epochs=2", "data.batch_size=600"))
    first.setup()
    second.setup()  # while the first is alive
    assert first.found == first.config.model.decay_steps == 3 * STEPS
    assert second.found == second.config.model.decay_steps == 2
    assert first.optimizer.param_groups[0]["base_lr"] == first.config.optim.lr == STEPS
    assert first.config.mine.note == "0 of 1"
    for trainer in (first, second):
        trainer.cleanup()


def test_the_written_config_has_the_numbers_and_reproduces_the_run(
    asking, config, rows, tmp_path
):
    small = ["optim.steps_per_epoch=4", "optim.epochs=1", "log.every_n_steps=1"]
    schedule = ["optim.scheduler.name=polynomial"]
    schedule += ["optim.scheduler.power=${stable_ssl:iterations_per_epoch}"]
    trainer = asking(quick(config, *small, *schedule))
    trainer.run()
    text = (trainer.run_dir / "config.yaml").read_text()
    assert "stable_ssl:" not in text
    written = OmegaConf.create(text)
    assert (written.model.decay_steps, written.optim.scheduler.power) == (4, 4)
    written.log.run = "again"
    again = asking(written)
    again.run()
    assert rows(again.run_dir) == rows(trainer.run_dir)


def test_an_evaluation_needs_none(asking, config):
    run = asking(config("base", "++optim.epochs=1", "log.run=a"))
    run.run()
    weights = f"log.load_from={run.run_dir / 'ckpts' / 'last.ckpt'}"
    asks = [LR, "mode=test", weights, "log.run=b"]
    test = asking(config("base", *asks, "+mine.total=${stable_ssl:max_iterations}"))
    test.run()
    assert test.config.mine.total is None
    assert "test/acc1" in test.metrics


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "data.batch_size=${stable_ssl:max_iterations}",
            r"data.batch_size=.* is known only when the data are there",
        ),
        ("optim.epochs=${stable_ssl:num_nodes}", "optim.epochs=.* give a number"),
        ("log.every_n_steps=${stable_ssl:max_iterations}", "log.every_n_steps=.*"),
        (
            "optim.lr=${stable_ssl:max_iteration}",
            "no stable_ssl:max_iteration; did you mean 'max_iterations'.*num_gpus",
        ),
        (
            "optim.nesterov='a ${stable_ssl:num_gpus}'",
            "optim.nesterov=a 1 must be true or false",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_words(override, words):
    with pytest.raises(ConfigError, match=words):
        load_config("base", [override])


def test_limits_hold_for_the_value_too(asking, config):
    momentum = "optim.momentum=${stable_ssl:max_iterations}"
    trainer = asking(config("base", momentum))
    with pytest.raises(ConfigError, match="optim.momentum=18.0 must be at most 1"):
        trainer.setup()
    trainer.cleanup()


@pytest.mark.slow
def test_a_sweep_has_the_value_of_each_job(shell, main, tmp_path):
    quick = ["optim.epochs=1", "log.eval.untrained=false", "log.eval.few_labels=[]"]
    lr = "optim.scheduler.warmup_lr=${stable_ssl:iterations_per_epoch}"
    sweep = ["-m", "optim.steps_per_epoch=2,3", "log.pictures=null", *quick, lr]
    done = shell(main, "-cn", "base", "++model.name=simclr", *sweep)
    assert done.returncode == 0, done.stderr
    folders = sorted((tmp_path / "logs" / "runs" / "default").iterdir())
    found = [OmegaConf.load(f / "config.yaml").optim.scheduler for f in folders]
    assert [scheduler.warmup_lr for scheduler in found] == [2, 3]
