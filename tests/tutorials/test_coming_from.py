"""COMING_FROM.rst: each command runs, each word of this library exists."""

import importlib
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from stable_ssl.config import Config
from stable_ssl.methods.supervised import SupervisedConfig

TEXT = (Path(__file__).parents[2] / "COMING_FROM.rst").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^   (stable-ssl .*)$", TEXT, re.MULTILINE)
ROWS = re.findall(r"^(``.*?)  +(\S.*)$", TEXT, re.MULTILINE)
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
    assert all(4 <= len(re.findall(r"^``", t, re.MULTILINE)) <= 9 for t in tables)
