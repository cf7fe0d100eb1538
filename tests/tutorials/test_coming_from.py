"""COMING_FROM.rst: commands and scripts run, each word of this library exists."""

import importlib
import re
import textwrap
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from stable_ssl.config import Config
from stable_ssl.losses import nt_xent
from stable_ssl.methods.supervised import SupervisedConfig

TEXT = (Path(__file__).parents[2] / "COMING_FROM.rst").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^   (stable-ssl .*)$", TEXT, re.MULTILINE)
ROWS = re.findall(r"^(``.*?)  +(\S.*)$", TEXT, re.MULTILINE)
SMALL = ["optim.epochs=1", "log.eval.untrained=false", "log.eval.few_labels=[]"]
SMALL += ["log.pictures=null"]
FREE = ("model.heads", "model.backbone.")  # of a method, of a constructor


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(desk, command):
    desk.type(command)


def test_every_key_is_one_of_the_configuration():
    config = OmegaConf.structured(Config)
    config.model = OmegaConf.structured(SupervisedConfig)
    config.log.run = "run"
    ours = " ".join(right for _, right in ROWS)
    keys = re.findall(r"(?<![\w.])((?:data|model|optim|hardware|log)\.[\w.]+)", ours)
    assert len(keys) > 40
    for key in keys:
        if not key.startswith(FREE):
            group, _, name = key.rpartition(".")
            assert name in OmegaConf.select(config, group), key


def test_every_name_can_be_imported():
    names = re.findall(r"``(stable_ssl\.[\w.]+)``", TEXT)
    assert len(names) > 5
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_each_table_is_small():
    tables = re.split(r"^-+$", TEXT, flags=re.MULTILINE)[1:]
    assert len(tables) == 8
    assert all(4 <= len(re.findall(r"^``", t, re.MULTILINE)) <= 15 for t in tables)


def block(word):
    """Return what the one code block with a word in it defines."""
    found = re.findall(r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", TEXT)
    (code,) = [textwrap.dedent(text) for text in found if word in text]
    defined = {"__name__": __name__}
    exec(code, defined)
    return defined


def test_an_average_is_evaluated_and_a_second_value_is_logged(config, rows):
    averaged = block("class Averaged")["Averaged"]
    trainer = averaged(config("simclr", "optim.epochs=1"))
    trainer.run()
    assert any("train/norm" in row for row in rows(trainer.run_dir))
    x = torch.rand(4, 1, 8, 8)
    trainer.eval()
    assert not torch.equal(trainer.encode(x), trainer(x))  # the teacher lags behind
    assert torch.equal(trainer.encode(x), trainer.average.module(x))


def test_lightlys_script_runs(tmp_path, rows):
    pytest.importorskip("lightly", reason='pip install -e ".[peers]"')
    for i in range(512):
        path = tmp_path / "images" / str(i % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (i % 256, 40, 200)).save(path)
    changes = [*SMALL, f"log.folder={tmp_path}", "log.run=run", "data.num_classes=2"]
    block("LightlySimCLR")["pretrain"](str(tmp_path / "images"), changes)
    found = rows(next((tmp_path / "runs").glob("*/run")))
    assert any("train/loss" in row for row in found)


def test_stable_pretrainings_script_runs_and_has_the_same_loss(tmp_path, rows):
    pytest.importorskip("stable_pretraining", reason='pip install -e ".[peers]"')
    colours = [(i % 256, i // 2, 200) for i in range(512)]
    images = [(Image.new("RGB", (32, 32), c), c[0] % 2) for c in colours]
    script = block("class Moved")
    quick = partial(script["DataLoader"], num_workers=0)  # workers import theirs, too
    script["DataLoader"] = lambda *a, num_workers, **options: quick(*a, **options)
    changes = [*SMALL, f"log.folder={tmp_path}", "log.run=run", "data.num_classes=2"]
    trainer = script["after"](images, changes)
    assert any("train/probe_loss" in row for row in rows(trainer.run_dir))

    theirs = script["module"]().train()
    for name in ("backbone", "projector"):
        state = getattr(trainer, name).state_dict()
        getattr(theirs, name).load_state_dict(state)
    views = [{"image": torch.rand(8, 3, 32, 32)} for _ in range(2)]
    theirs.log = lambda *arguments, **options: None  # which asks for its trainer
    expected = theirs({"views": views}, "fit")["loss"]
    trainer.data = [view["image"] for view in views], None
    torch.testing.assert_close(trainer.train().compute_loss(), expected)
    z = [trainer.projector(trainer(view["image"])) for view in views]
    torch.testing.assert_close(nt_xent(*z, temperature=0.5), expected)
