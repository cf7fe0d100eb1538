"""The command line, as a user types it, in processes of its own."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

MY_IDEA = """
import stable_ssl
from stable_ssl import losses, models


class MyIdea(stable_ssl.BaseTrainer):
    def initialize_modules(self):
        self.backbone = models.backbone(self.config.model.backbone)
        self.projector = models.mlp(self.backbone.dim, 64, 32)

    def forward(self, x):
        return self.backbone(x)

    def compute_loss(self):
        views, labels = self.data
        z1, z2 = (self.projector(self(view)) for view in views)
        return losses.nt_xent(z1, z2, temperature=0.5)


if __name__ == "__main__":
    stable_ssl.launch(MyIdea)
"""
QUICK = [
    "optim.epochs=1",
    "log.eval.untrained=false",
    "log.eval.few_labels=[]",
    "log.pictures=null",
    "++model.backbone.width=4",
]


@pytest.fixture
def my_idea(tmp_path):
    path = tmp_path / "my_idea.py"
    path.write_text(MY_IDEA)
    return path


def runs(folder, experiment="simclr"):
    return sorted((Path(folder) / "logs" / "runs" / experiment).iterdir())


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").open()]


# --- wrong input ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("fast_dev_run=2", "fast_dev_run=2 must be true or false"),
        ("optim.lr=[1]", r"optim.lr=\[1\] must be a number"),
        ("++data.lr=2", "data.lr is not a key.*did you mean 'optim.lr'"),
        ("data=nosuch", "no 'nosuch' of the group 'data'.*digits"),
        ("--config-name=nosuch", "no recipe 'nosuch'.*simclr"),
        ("++log.eval.a={_target_: no.Such}", "log.eval.a: no.Such cannot be imported"),
        ("++hardware.gpus=99", "hardware.gpus=99 asks for GPU 98"),
        ("++model.temperatur=1", "model.temperatur .*did you mean 'temperature'"),
        ("--config-path=nosuch", "no folder of recipes at .*nosuch"),
        (
            "log.experiment=\u00e9",
            "log.experiment=\u00e9 cannot be read; quote the value",
        ),
    ],
)
def test_wrong_input_ends_with_one_message_and_no_run(
    shell, main, tmp_path, argument, words
):
    import re

    done = shell(main, argument, timeout=60)
    assert done.returncode == 2
    (message,) = done.stderr.strip().splitlines()
    assert re.search(f"^error: .*{words}", message), message
    assert done.stdout == ""
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_a_time_limit_that_a_job_would_meet_as_it_starts(shell, main):
    slurm = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=2"]
    done = shell(main, *slurm, timeout=60)
    assert done.returncode == 2
    assert "timeout_min=2 leaves no time to train" in done.stderr
    assert "use timeout_min=3 or more" in done.stderr


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ("++optim.lr=0.1,-1", "optim.lr=-1.0"),
        ("optim.optimizer=sgd,adamx", "optim.optimizer=adamx"),
        ("log.eval.linear.optimizer=adamw,adamx", "log.eval.linear.optimizer=adamx"),
        ("optim.optimizer=sgd,adamw optim.nesterov=true", "optim.nesterov=True"),
    ],
)
def test_one_wrong_job_stops_a_sweep_before_it_starts(
    shell, main, tmp_path, sweep, words
):
    done = shell(main, "-m", *sweep.split(), *QUICK)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_diverging_run_exits_with_1(shell, main, tmp_path):
    done = shell(main, "++optim.lr=1e20", "log.every_n_steps=1", *QUICK)
    assert done.returncode == 1
    assert "diverged: train/loss is" in done.stderr
    assert "Traceback" not in done.stderr
    (run,) = runs(tmp_path)
    assert json.loads((run / "status.json").read_text())["status"] == "diverged"


# --- right input ----------------------------------------------------------------------


def test_a_sweep_gives_a_folder_each_and_a_table(shell, main, tmp_path):
    done = shell(main, "--config-name=simclr", "-m", "++optim.lr=0.1,0.3,1.0", *QUICK)
    assert done.returncode == 0, done.stderr
    folders = runs(tmp_path)
    assert [f.name[-2:] for f in folders] == ["_0", "_1", "_2"]
    assert len({f.name[:15] for f in folders}) == 1
    for folder, lr in zip(folders, ("0.1", "0.3", "1.0"), strict=True):
        assert f"optim.lr={lr}" in (folder / "overrides.yaml").read_text()
    table = done.stdout[done.stdout.rindex("3 runs") :]
    for folder in folders:
        assert folder.name in table
    assert "optim.lr" in table


def test_a_sweep_may_stand_in_the_recipe(shell, main, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text(
        "defaults: [simclr, _self_]\n"
        "hydra: {sweeper: {params: {optim.lr: '0.1,0.2', log.tags: '[a]'}}}\n"
    )
    line = ["--config-dir", "configs", "--config-name=mine", "-m", "log.run=x", *QUICK]
    wrong = shell(main, *line, "optim.lr=0.1,-5")
    assert wrong.returncode == 2 and "optim.lr=-5.0" in wrong.stderr
    done = shell(main, *line, "hydra.job.chdir=true")
    assert done.returncode == 2 and "set it to false" in done.stderr
    assert not (tmp_path / "logs").exists()
    assert shell(main, *line).returncode == 0
    assert [run.name for run in runs(tmp_path)] == ["x_0", "x_1"]
    texts = [(run / "config.yaml").read_text() for run in runs(tmp_path)]
    assert ["lr: 0.1" in texts[0], "lr: 0.2" in texts[1]] == [True, True]
    line[4] = "log.run=y"  # all that the recipe sweeps is given: one job
    assert shell(main, *line, "optim.lr=0.3", "log.tags=[b]").returncode == 0
    assert [run.name for run in runs(tmp_path)] == ["x_0", "x_1", "y"]


def test_a_sweep_that_is_given_again_goes_on(shell, main, tmp_path):
    quick = ["optim.epochs=null", *QUICK[1:]]
    line = ["-m", "optim.lr=0.1,0.2", "log.run=x", "optim.scheduler.name=constant"]
    for steps in (2, 4):
        done = shell(main, *line, *quick, f"optim.steps={steps}")
        assert done.returncode == 0, done.stderr
    assert [run.name for run in runs(tmp_path)] == ["x_0", "x_1"]
    for run in runs(tmp_path):
        assert "resumed at epoch 0, step 2" in (run / "console.log").read_text()
        assert rows(run)[-1]["step"] == 4


def test_the_documented_command_lines_compose(shell, main):
    for arguments in (
        ["--config-name=simclr_cifar10_sgd", "--config-path", "configs/"],
        ["--config-name=simclr_cifar10_sgd", "++optim.epochs=4", "++optim.lr=1"],
        ["--config-name=simclr", "++optim.lr=2"],
    ):
        done = shell(main, *arguments, "--cfg", "job")
        assert done.returncode == 0, done.stderr
        assert "name: simclr" in done.stdout


def test_a_documented_line_for_slurm_reaches_its_launcher(shell, main):
    wanted = {"timeout_min": 1800, "cpus_per_task": 4, "gpus_per_task": 1}
    wanted["partition"] = "gpu-he"
    line = ["--config-name=simclr_cifar10_sgd", "++optim.epochs=4", "++optim.lr=1"]
    line += ["hydra/launcher=submitit_slurm"]
    line += [f"hydra.launcher.{key}={value}" for key, value in wanted.items()]
    done = shell(main, *line, "--cfg", "hydra", "-p", "hydra.launcher")
    assert done.returncode == 0, done.stderr
    for key, value in wanted.items():
        assert f"\n{key}: {value}\n" in done.stdout


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["mode=predict", "++data.predict={dataset: {name: digitz}}"], "'digits'"),
        (
            ["log.api=[tensorboard]"],
            "log.api names tensorboard, which is not installed",
        ),
        (
            ["log.export.types=[safetensors]"],
            "names safetensors, which is not installed",
        ),
    ],
)
def test_what_a_job_would_refuse_is_refused_before_it_is_submitted(
    tmp_path, monkeypatch, overrides, words
):
    from stable_ssl.commands import jobs, launcher
    from stable_ssl.config import complete
    from stable_ssl.loggers import trackers
    from stable_ssl.tools import export

    for module in (export, trackers):
        monkeypatch.setattr(module, "find_spec", lambda _: None)
    command = launcher.Command(overrides, None, None, None, tmp_path)
    (job,) = command._jobs()
    with pytest.raises(launcher.ConfigError, match=words):
        jobs.check(complete(job), here=False)


@pytest.mark.parametrize("gpus", ["4", "'4'", "'0,1,2,3,'", "[0,1,2,3]"])
def test_gpus_and_machines_become_tasks_and_nodes_of_slurm(tmp_path, gpus):
    from stable_ssl.commands.launcher import Command

    line = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=60"]
    line += [f"hardware.gpus={gpus}", "hardware.num_nodes=2"]
    command = Command(line, None, None, None, tmp_path)
    (job,) = command._jobs()
    added = command._submitit(job)
    wanted = {"tasks_per_node": 4, "nodes": 2, "gpus_per_node": 4}
    assert {f"hydra.launcher.{k}={v}" for k, v in wanted.items()} < set(added)
    (requeues,) = [o for o in added if "max_num_timeout" in o]
    assert int(requeues.partition("=")[2]) >= 100  # Hydra's own default is none


@pytest.mark.parametrize(
    "asked",
    [
        ["hydra.launcher.gpus_per_task=1", "hardware.gpus=4"],
        ["hydra.launcher.gpus_per_node=8", "hardware.gpus=4"],
        ["hydra.launcher.gres=gpu:a100:4", "hardware.gpus=4"],
        ["+hydra.launcher.additional_parameters={gpus: 8}", "hardware.gpus=4"],
        ["hardware.gpus=0"],
        ["hardware.gpus=-1"],
        [],
    ],
)
def test_slurm_is_asked_for_gpus_as_its_launcher_says(tmp_path, asked):
    from stable_ssl.commands.launcher import Command

    command = Command(
        ["hydra/launcher=submitit_slurm", *asked], None, None, None, tmp_path
    )
    (job,) = command._jobs()
    assert not any("gpus_per_node" in added for added in command._submitit(job))


def test_help_shows_the_groups_and_the_whole_configuration(shell, main):
    done = shell(main, "-h")
    assert done.returncode == 0
    groups = "data: cifar10, cifar10_asymmetric, cifar10_few, cifar10_small"
    for text in (groups, "lr: 0.3", "precision: float32", "seed: 0"):
        assert text in done.stdout
    info = shell(main, "--info", "config")
    assert info.returncode == 0
    assert "stable_ssl.recipes" in info.stdout


def test_the_console_command_finds_shipped_and_own_recipes(tmp_path):
    command = Path(sys.executable).with_name("stable-ssl")
    if not command.exists():
        pytest.skip("the package is not installed beside this Python")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "custom.yaml").write_text(
        "defaults: [simclr, _self_]\nlog: {experiment: mine}\n"
    )
    line = [command, "-cd", "configs", "-cn", "custom", *QUICK]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run,) = runs(tmp_path, "mine")
    assert rows(run)[-1]["test/knn_acc1"] > 0.5


def test_a_trainer_of_ones_own(shell, my_idea, tmp_path):
    done = shell(my_idea, "-m", "++optim.lr=0.1,0.2", *QUICK)
    assert done.returncode == 0, done.stderr
    for run, lr in zip(runs(tmp_path, "default"), ("0.1", "0.2"), strict=True):
        assert f"lr: {lr}" in (run / "config.yaml").read_text()


def test_recipes_beside_ones_own_script(shell, my_idea, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tuned.yaml").write_text(
        textwrap.dedent("""
        defaults: [base, _self_]
        optim: {lr: 0.7}
        log: {experiment: tuned}
        """)
    )
    done = shell(my_idea, "-cn", "tuned", *QUICK)
    assert done.returncode == 0, done.stderr
    (run,) = runs(tmp_path, "tuned")
    assert "lr: 0.7" in (run / "config.yaml").read_text()


def test_a_trainer_by_its_dotted_path(shell, main, my_idea, tmp_path):
    done = shell(main, "-cn", "base", "+model.name=my_idea.MyIdea", *QUICK)
    assert done.returncode == 0, done.stderr
    assert len(runs(tmp_path, "default")) == 1


def test_the_written_config_alone_reproduces_the_run(shell, my_idea, tmp_path):
    assert shell(my_idea, "++optim.lr=0.3", "log.run=first", *QUICK).returncode == 0
    first = tmp_path / "logs" / "runs" / "default" / "first"
    done = shell(my_idea, "-cd", first, "-cn", "config", "log.run=second")
    assert done.returncode == 0, done.stderr
    again = [
        {k: v for k, v in row.items() if k != "time" and not k.startswith("perf/")}
        for run in (first, first.with_name("second"))
        for row in rows(run)
    ]
    assert again[: len(again) // 2] == again[len(again) // 2 :]


@pytest.mark.slow
def test_a_launcher_is_used_without_multirun(shell, main, tmp_path):
    """Hydra alone would run this in the same process, silently."""
    done = shell(main, "hydra/launcher=submitit_local", *QUICK)
    assert done.returncode == 0, done.stderr
    (run,) = runs(tmp_path)
    assert json.loads((run / "status.json").read_text())["status"] == "finished"
    assert list((tmp_path / "logs" / ".submitit").rglob("*_result.pkl"))


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Return a runner of one job in this process."""
    from hydra.core.hydra_config import HydraConfig

    from stable_ssl import config
    from stable_ssl.commands.launcher import Job

    def run(*overrides):
        composed = config.compose("simclr", [f"log.folder={tmp_path}", *overrides])
        monkeypatch.setattr(HydraConfig.instance(), "cfg", composed)
        return Job(None)(composed)

    return run


@pytest.mark.parametrize("outcome", ["right", "wrong"])
def test_a_job_leaves_the_process_as_it_was(job, outcome, monkeypatch):
    import torch

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    epochs = "optim.steps_per_epoch=1" if outcome == "right" else "optim.lr=1e20"
    settings = ["hardware.threads=2", "hardware.deterministic=true", epochs]
    job(*QUICK, *settings)
    assert torch.get_num_threads() == 1
    assert not torch.are_deterministic_algorithms_enabled()
    # without it a GPU's matrix products refuse to be deterministic
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_the_job_returns_the_monitored_value(job, tmp_path):
    value = job(*QUICK)
    (run,) = sorted((tmp_path / "runs" / "simclr").iterdir())
    assert value == next(r["val/knn_acc1"] for r in rows(run) if "val/knn_acc1" in r)


@pytest.mark.slow
def test_train_and_test_are_main_by_other_names(shell, main, tmp_path):
    line = ["--config-name=supervised", *QUICK]
    done = shell(main.with_name("train.py"), *line, "log.run=run")
    assert done.returncode == 0, done.stderr
    weights = tmp_path / "logs" / "runs" / "supervised" / "run" / "ckpts" / "last.ckpt"
    done = shell(main.with_name("test.py"), *line, f"log.load_from={weights}")
    assert done.returncode == 0, done.stderr
    (row,) = rows(next(r for r in runs(tmp_path, "supervised") if r.name != "run"))
    assert "test/acc1" in row


@pytest.mark.parametrize("what", ["data", "model"])
def test_each_profiler_is_a_script(shell, main, tmp_path, what):
    line = ["log.run=run", "++model.backbone.width=4"]
    done = shell(main.with_name(f"{what}_profiler.py"), *line)
    assert done.returncode == 0, done.stderr
    (run,) = runs(tmp_path)
    assert json.loads((run / f"profile_{what}.json").read_text())
    assert f"profile_{what}.json" in done.stdout
    assert "images a second" in done.stdout or "images/s trained" in done.stdout
