"""The groups experiment, local and debug: after the recipe, before the command line."""

import json
from pathlib import Path

import pytest

from stable_ssl import ConfigError, SimCLR, load_config
from stable_ssl.commands.launcher import Command
from stable_ssl.config import RECIPES
from stable_ssl.lifecycle import preserve_settings

GLOBAL = "# @package _global_\n"


@pytest.fixture
def write(tmp_path):
    """Return a writer of a file below tmp_path/configs, and that folder."""

    def write(name, text):
        path = tmp_path / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(GLOBAL + text)
        return tmp_path / "configs"

    return write


def jobs(*arguments, script, trainer=None):
    """Return the composed jobs of a command line."""
    return list(Command(arguments, trainer, None, None, script)._jobs())


def test_an_experiment_wins_over_the_recipe_and_loses_to_the_command_line(write):
    """Hydra alone lets the recipe's own keys win: base.yaml comes before them."""
    text = "optim: {epochs: 3}\nmodel: {temperature: 0.25}\nlog: {experiment: mine}\n"
    folder = write("experiment/mine", text)
    (job,) = jobs("-cn", "simclr", "experiment=mine", script=folder.parent)
    assert (job.optim.epochs, job.model.temperature) == (3, 0.25)
    assert job.log.experiment == "mine"
    line = ["experiment=mine", "optim.epochs=2"]
    (job,) = jobs("-cd", str(folder), "-cn", "simclr", *line, script=Path("/"))
    assert (job.optim.epochs, job.log.experiment) == (2, "mine")
    config = load_config("simclr", ["optim.epochs=2", "experiment=mine"], [folder])
    assert (config.optim.epochs, config.log.experiment) == (2, "mine")


def test_an_experiment_may_build_on_a_recipe_and_on_another_experiment(write):
    text = "defaults: [/byol, {override /data: cifar10}, _self_]\noptim: {lr: 0.7}\n"
    write("experiment/base/ssl/byol", text)
    text = "defaults: [/experiment/base/ssl/byol, _self_]\noptim: {epochs: 7}\n"
    folder = write("experiment/custom/byol", text)
    (job,) = jobs("experiment=custom/byol", script=folder.parent)
    assert (job.model.name, job.optim.lr, job.optim.epochs) == ("byol", 0.7, 7)
    assert job.data.train.dataset.name == "CIFAR10"
    assert "temperature" not in job.model  # of simclr, the recipe where none is named


def test_an_experiment_without_a_recipe_changes_the_default_one(write, tiny):
    folder = write("experiment/mine", "optim: {lr: 0.7}\n")
    (job,) = jobs("experiment=mine", script=folder.parent)
    assert (job.model.name, job.optim.lr) == ("simclr", 0.7)
    (job,) = jobs("experiment=mine", script=folder.parent, trainer=tiny)
    assert ("name" in job.model, job.optim.lr) == (False, 0.7)


def test_experiments_can_be_swept(write):
    write("experiment/a", "optim: {lr: 0.1}\n")
    folder = write("experiment/b", "optim: {lr: 0.2}\n")
    found = jobs("-m", "experiment=a,b", script=folder.parent)
    assert [job.optim.lr for job in found] == [0.1, 0.2]
    write("experiment/c", "defaults: [/byol, _self_]\n")
    write("experiment/d", "defaults: [/simclr, _self_]\n")
    found = jobs("-m", "experiment=c,d", "debug=fast", script=folder.parent)
    assert [job.model.name for job in found] == ["byol", "simclr"]


def test_a_machines_own_default_is_picked_up(write):
    folder = write("local/default", "data: {root: /scratch}\noptim: {lr: 0.5}\n")
    write("local/other", "data: {root: /other}\n")
    write("experiment/mine", "data: {root: /nowhere}\nlog: {experiment: mine}\n")

    def root(*arguments):
        (job,) = jobs(*arguments, script=folder.parent)
        return job.data.root

    assert root("experiment=mine") == "/scratch"
    assert root("-cn", "byol") == "/scratch"
    assert root("-cn", "byol", "data.root=/mine") == "/mine"
    assert root("-cn", "byol", "local=other") == "/other"
    assert root("-cn", "byol", "local=null") not in ("/scratch", "/other")


def test_it_leaves_the_written_config_of_a_run_alone(write, tmp_path):
    folder = write("local/default", "optim: {lr: 0.5}\n")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("model: {name: simclr}\noptim: {lr: 0.1}\n")
    (job,) = jobs("-cd", str(run), "-cn", "config", script=folder.parent)
    assert job.optim.lr == 0.1


def test_a_recipe_that_lists_the_group_itself_is_overridden_as_hydra_does(write):
    write("experiment/a", "optim: {lr: 0.1}\n")
    write("experiment/b", "optim: {lr: 0.2}\n")
    folder = write("mine", "defaults: [simclr, experiment: a, _self_]\n")
    for overrides, lr in ([], 0.1), (["experiment=b"], 0.2):
        assert load_config("mine", overrides, [folder]).optim.lr == lr


def test_one_that_there_is_not_is_named_with_those_there_are():
    with pytest.raises(ConfigError, match="no 'fats' of.*mean 'fast'.*one_batch"):
        load_config("simclr", ["debug=fats"])


@pytest.mark.parametrize("recipe", ["ijepa", "fixmatch", "supervised_cifar10_sgd"])
def test_any_recipe_can_be_debugged(recipe):
    (job,) = jobs("-cn", recipe, "debug=fast", script=Path("/"))
    assert (job.optim.epochs, job.optim.steps, job.optim.steps_per_epoch) == (
        1,
        None,
        5,
    )
    assert job.log.experiment == "debug"


def test_shipped_experiments_compose():
    from importlib.resources import files

    names = [p.name[:-5] for p in (files(RECIPES) / "experiment").iterdir()]
    assert names
    for name in names:
        (job,) = jobs(f"experiment={name}", script=Path("/"))
        assert job.log.experiment == name


def test_one_batch_is_the_same_batch_in_new_views(config, rows):
    class Watched(SimCLR):
        seen = []

        def before_train_step(self):
            self.seen.append((self.data[1], self.data[0][0]))

    quick = ["debug=one_batch", "optim.epochs=3", "log.eval.knn=null"]
    small = ["data.batch_size=16", "++model.backbone.width=4", "log.monitor=null"]
    Watched(config("simclr", *quick, *small)).run()
    labels, views = zip(*Watched.seen, strict=True)
    assert len(labels) == 3 and all(y.equal(labels[0]) for y in labels)
    assert not views[0].equal(views[1])


def test_the_operation_that_makes_a_gradient_nan_is_named(tiny, config, recwarn):
    class Wrong(tiny):
        def compute_loss(self):
            return super().compute_loss() + (self.layer.weight * 0).sqrt().sum()

    trainer = Wrong(config("base", "debug=detect_anomaly"))
    with preserve_settings(), pytest.raises(RuntimeError, match="Sqrt|MulBackward0"):
        trainer.run()
    assert any("compute_loss" in str(w.message) for w in recwarn)
    status = json.loads((trainer.run_dir / "status.json").read_text())
    assert status["status"] == "failed"


def test_a_command_line(write, shell, main, tmp_path):
    """All three at once, from `-cd`, in a process of its own."""
    write("experiment/mine", "defaults: [/byol, _self_]\noptim: {lr: 0.05}\n")
    write("local/default", "log: {folder: scratch}\n")
    line = ["-cd", "configs", "experiment=mine", "debug=fast", "log.run=run"]
    done = shell(main, *line)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "scratch" / "runs" / "debug" / "run"
    text = (run / "config.yaml").read_text()
    assert "name: byol" in text and "lr: 0.05" in text
    assert "+debug=fast" in (run / "overrides.yaml").read_text()
