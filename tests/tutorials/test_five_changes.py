"""Five changes of a researcher, as the documentation prints them: short, they do it."""

import re
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from stable_ssl import SimCLR, load_config
from stable_ssl.tools.runs import read_run

CHAPTER = Path(__file__).resolve().parents[2] / "docs" / "trainer.rst"
QUICK = ("optim.epochs=null", "optim.steps=4", "data.batch_size=64", "log.monitor=null")
QUICK += ("log.every_n_steps=1", "log.eval.few_labels=[]", "log.pictures=null")
QUICK += ("log.eval.untrained=false", "optim.scheduler.warmup_epochs=0")


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Return a maker of what a block of the chapter defines, at most 25 lines long."""

    def make(name, language="python"):
        pattern = rf"\.\. code-block:: {language}\n\n((?:   .*\n|\n)+)"
        found = [b for b in re.findall(pattern, CHAPTER.read_text()) if name in b]
        (block,) = map(textwrap.dedent, found)
        lines = [line for line in block.splitlines() if line.strip()]
        assert len(lines) <= 25
        if language == "yaml":
            return block
        module = name.lower()
        (tmp_path / f"{module}.py").write_text(block)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, module, raising=False)
        return getattr(__import__(module), name)

    return make


@pytest.fixture
def trained(tmp_path):
    """Return a runner of a few steps of a class."""

    def run(cls, name, *overrides, recipe="simclr", folders=()):
        keys = [*QUICK, f"log.folder={tmp_path}", f"log.run={name}", *overrides]
        trainer = cls(load_config(recipe, keys, folders))
        trainer.run()
        return trainer

    return run


def test_mixup_in_train_step(example, trained):
    plain, mixed = trained(SimCLR, "plain"), trained(example("Mixup"), "mixed")
    assert mixed.metrics["train/loss"] != plain.metrics["train/loss"]
    assert mixed.step == plain.step == 4
    trained(example("Mixup"), "two", "hardware.processes=2")
    folders = [mixed.run_dir, mixed.run_dir.with_name("two")]
    one, again = (read_run(folder).values()["train/loss"] for folder in folders)
    assert again == pytest.approx(one, rel=1e-4)


def test_a_second_optimizer(example, trained):
    trainer = trained(example("Judged"), "judged")
    assert list(trainer.optimizers) == ["main", "judge"] and trainer.step == 4
    assert "train/lr_judge" in trainer.metrics
    state = torch.load(trainer.run_dir / "ckpts" / "last.ckpt", weights_only=True)
    assert state["optimizers"]["judge"]["state"]


def test_a_schedule_of_ones_own_from_yaml(example, trained, tmp_path):
    halving = example("halving")
    recipe = example("halving.halving", "yaml").replace("every: 50", "every: 2")
    (tmp_path / "mine.yaml").write_text(recipe)
    quick = [key for key in QUICK if "warmup" not in key]
    keys = [*quick, f"log.folder={tmp_path}", "optim.lr=1", "log.run=halved"]
    trainer = SimCLR(load_config("mine", keys, [tmp_path]))
    trainer.run()
    assert trainer.metrics["train/lr"] == halving(3, 2) == 0.5


def test_an_evaluator_of_ones_own(example, trained):
    example("Margin")
    node = "++log.eval.mine={_target_: margin.Margin}"
    trainer = trained(SimCLR, "measured", node)
    assert trainer.metrics["test/margin"] != 0


def test_a_batch_of_three(example, trained):
    trusting = example("Trusting")
    splits = ("train", "val", "test")
    names = [f"data.{split}.dataset.name=trusted_digits" for split in splits]
    trainer = trained(trusting, "trusting", *names, recipe="supervised")
    assert len(trainer.data) == 3 and 0 < trainer.metrics["train/loss"] < 3
