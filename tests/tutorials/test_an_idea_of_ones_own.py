"""From an idea to its tables: the README of stable-SSL that this library follows."""

import json
import shutil

import pytest
import yaml

pytestmark = pytest.mark.slow
OWN = """
import torch

import stable_ssl


class MyIdea(stable_ssl.BaseTrainer):
    predicts = True  # p(y|x), not features

    def initialize_modules(self):
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    def forward(self, x):
        return self.net(x)

    def compute_loss(self):
        images, labels = self.data
        return torch.nn.functional.cross_entropy(self(images), labels)


class Told(MyIdea):
    pass


def telling(name):
    def method(self, *args):
        print("called", name)
        return getattr(super(Told, self), name)(*args)

    return method


ORDER = '''
  seed_everything initialize_modules initialize_optimizer initialize_scheduler
  load_checkpoint before_train_epoch before_train_step train_step after_train_step
  after_train_epoch
'''
for name in ORDER.split():
    setattr(Told, name, telling(name))

if __name__ == "__main__":
    stable_ssl.launch(Told)
"""
ONE_VIEW = "data.train.dataset.image_transform='${data.transforms.view}'"
CIFAR = "++optim.epochs=1 ++data.batch_size=20 ++hardware.precision=float32"  # no GPU


def rows(run):
    """Return the lines of a run's metrics.jsonl."""
    return list(map(json.loads, (run / "metrics.jsonl").read_text().splitlines()))


@pytest.fixture(scope="module")
def clone(clone):
    clone.write("my_idea.py", OWN)
    return clone


@pytest.fixture(scope="module")
def sweep(clone, cifar):
    """Launch the multi-run of the README; return what it prints and its folders."""
    line = "cd runs && python3 main.py --config-name=simclr_cifar10_sgd"
    said = clone.type(f"{line} -m ++optim.lr=2,5,10 {CIFAR}", **cifar)
    return said, clone.runs("simclr_cifar10_sgd", "runs/logs")


def test_three_methods_train_in_the_order_that_is_stated(clone):
    line = "python my_idea.py optim.steps=3 optim.epochs=null log.run=own"
    said = clone.type(f"{line} {ONE_VIEW} log.eval.linear=null log.monitor=val/acc1")
    called = [w.split()[1] for w in said.splitlines() if w.startswith("called")]
    step = ["before_train_step", "train_step", "after_train_step"]
    assert called == [
        "seed_everything",
        "initialize_modules",
        "initialize_optimizer",
        "initialize_scheduler",
        "load_checkpoint",
        "before_train_epoch",
        *3 * step,
        "after_train_epoch",
    ]


def test_the_accuracy_is_that_of_forward_against_the_labels(clone):
    script = """
    import sys

    import torch
    from my_idea import MyIdea

    from stable_ssl import load_config
    from stable_ssl.checkpoint import load

    trainer = MyIdea(load_config("base", ["mode=test", *sys.argv[1:]]))
    trainer.run()
    right = torch.cat([trainer(x).argmax(1) == y for x, y in trainer.loaders["test"]])
    print("found", trainer.metrics["test/acc1"], right.float().mean().item())
    """
    clone.write("accuracy.py", script)
    keys = "log.load_from=logs/runs/default/own/ckpts/last.ckpt log.eval.linear=null"
    said = clone.type(f"python accuracy.py {keys} log.monitor=null")
    (line,) = [line for line in said.splitlines() if line.startswith("found")]
    _, told, counted = line.split()
    assert float(told) == pytest.approx(float(counted), abs=1e-6)


def test_a_multi_run_starts_a_run_for_each_value(sweep):
    said, runs = sweep
    rates = [yaml.safe_load((run / "config.yaml").read_text())["optim"] for run in runs]
    assert [optim["lr"] for optim in rates] == [2, 5, 10]
    for run in runs:
        status = json.loads((run / "status.json").read_text())
        assert status["status"] == "finished"
        assert "val/knn_acc1" in rows(run)[-1]
    assert "optim.lr" in said


def test_the_results_become_a_table_and_a_figure(clone, sweep):
    which = "--rows optim.lr --value val/knn_acc1"
    clone.type(f"stable-ssl table runs/logs/runs {which} --out table.tex")
    text = (clone.folder / "table.tex").read_text()
    assert r"\toprule" in text and all(f"\n{lr}" in text for lr in (2, 5, 10))
    clone.type("stable-ssl plot runs/logs/runs --kind sweep --value val/knn_acc1")
    assert list(clone.folder.rglob("sweep*.pdf"))


def test_default_files_are_found_by_name_and_by_path(clone, cifar):
    line = "cd runs && python3 train.py --config-name=simclr_cifar10_sgd"
    by_path = f"{line} --config-path configs/ fast_dev_run=true {CIFAR}"
    assert "val/knn_acc1" in clone.type(by_path, **cifar)


@pytest.mark.parametrize(
    ("override", "status"),
    [
        ("++optim.lr=2", 0),
        ("optim.lr=2", 0),
        ("++mine.size=2", 0),
        ("+mine.size=2", 0),
        ("mine.size=2", 2),  # it is not in the file
    ],
)
def test_a_parameter_is_modified_or_added(clone, override, status):
    line = "cd runs && python3 main.py --config-name=simclr_cifar10_sgd"
    said = clone.type(f"{line} {override} --cfg job", status=status)
    if status:
        assert "++mine." in said
    else:
        group, key = override.lstrip("+").removesuffix("=2").split(".")
        assert yaml.safe_load(said)[group][key] == 2


@pytest.mark.skipif(shutil.which("sbatch") is not None, reason="there is a Slurm")
def test_without_slurm_a_job_for_slurm_does_not_run_here(clone):
    """Where there is one, tests/slurm runs these very lines."""
    line = "cd runs && python3 main.py hydra/launcher=submitit_slurm"
    said = clone.type(f"{line} hydra.launcher.timeout_min=3 log.run=never", status=2)
    assert "sbatch" in said or "Slurm" in said
    assert not list(clone.folder.rglob("never*/metrics.jsonl"))
