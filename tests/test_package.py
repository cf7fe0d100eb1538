"""The package as pip installs it: recipes, command and pages are in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Install a copy of the sources into a folder of its own, without a network."""
    pytest.importorskip("setuptools", reason="pip builds with setuptools")
    folder = tmp_path_factory.mktemp("installed")
    ignored = shutil.ignore_patterns("__pycache__", "local")
    for name in ("stable_ssl", "runs"):
        shutil.copytree(REPOSITORY / name, folder / "source" / name, ignore=ignored)
    for name in ("setup.py", "README.rst", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation"]
    line = [*pip, "--no-deps", "--no-index", "--target", folder / "site"]
    done = subprocess.run(
        [*line, folder / "source"], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_a_public_name_is_what_it_says_however_it_is_asked_for():
    import stable_ssl
    from stable_ssl import BaseTrainer, commands, launch

    assert launch is stable_ssl.launch is commands.launch
    assert BaseTrainer is stable_ssl.BaseTrainer
    for name in stable_ssl.__all__:
        assert getattr(stable_ssl, name) is getattr(stable_ssl, name), name


def test_the_command_trains_from_any_folder(installed, tmp_path):
    (tmp_path / "mine").mkdir()
    recipe = "defaults: [/simclr, _self_]\nlog: {experiment: mine}\n"
    (tmp_path / "mine" / "own.yaml").write_text(recipe)
    command = [sys.executable, installed / "bin" / "stable-ssl", "-cd", "mine"]
    short = ["-cn", "own", "optim.epochs=null", "optim.steps=1", "log.pictures=null"]
    short += ["log.eval.untrained=false", "log.eval.few_labels=[]"]
    done = subprocess.run(
        [*command, *short],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "logs" / "runs" / "mine").iterdir()
    assert (run / "ckpts" / "last.ckpt").exists()


def test_all_recipes_and_pages_are_in_it(installed):
    for source, copy in (
        ("runs/configs", "stable_ssl/recipes"),
        ("stable_ssl", "stable_ssl"),
    ):
        for path in (REPOSITORY / source).rglob("*"):
            name = path.relative_to(REPOSITORY / source)
            shipped = path.suffix in (".py", ".yaml", ".html", ".css", ".js")
            if shipped and "local" not in name.parts:
                assert (installed / copy / name).is_file(), name
