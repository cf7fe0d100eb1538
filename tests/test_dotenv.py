"""The file .env: read in the working folder, never over the environment, never told."""

import os
import subprocess

import pytest

from stable_ssl import ConfigError, load_config
from stable_ssl.config.dotenv import read_env


@pytest.fixture
def env(tmp_path, monkeypatch):
    """Return a writer of .env in a working folder; the environment is restored."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.chdir(tmp_path)
    for name in ("DATA_ROOT", "OUTPUT_ROOT"):
        os.environ.pop(name, None)
    return lambda text: (tmp_path / ".env").write_text(text)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NAME=/data", "/data"),
        ("export NAME = /data ", "/data"),
        ("NAME='a # b' # why", "a # b"),
        ('NAME="a=b"', "a=b"),
        ("NAME=a#b # why", "a#b"),
        ("NAME=~/data", os.path.expanduser("~/data")),
        ("NAME='~/data'", "~/data"),
        ("NAME=", None),
        ("NAME= # empty", None),
        ("# NAME=no", None),
    ],
)
def test_a_line_is_read_as_a_shell_would(env, line, value):
    env(f"\n{line}\n")
    read_env()
    assert os.environ.get("NAME") == value


def test_both_roots_stand_in_the_file_of_the_working_folder(env):
    env("DATA_ROOT=/pictures\nOUTPUT_ROOT=/results\n")
    config = load_config("simclr")
    assert (config.data.root, config.log.folder) == ("/pictures", "/results")


def test_the_environment_wins_over_the_file(env):
    os.environ["DATA_ROOT"] = "/exported"
    env("DATA_ROOT=/pictures\nOUTPUT_ROOT=\n")
    config = load_config("simclr")
    assert (config.data.root, config.log.folder) == ("/exported", "./logs")


def test_a_trainer_without_hydra_reads_it_too(env, tiny):
    env("DATA_ROOT=/pictures\n")
    assert tiny({"data": {}}).config.data.root == "/pictures"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("DATA_ROOT=???", r"\.env: DATA_ROOT=\?\?\? is not filled in"),
        ("# a\nhush hush\n", r"\.env, line 2: expected NAME=value$"),
    ],
)
def test_what_is_not_filled_in_is_named(env, text, words):
    env(text)
    with pytest.raises(ConfigError, match=words):
        load_config("simclr")


def test_the_template_is_right_as_it_stands(env, main):
    env(main.parents[1].joinpath(".env.template").read_text())
    config = load_config("simclr")
    assert (config.data.root, config.log.folder) == ("./data", "./logs")


def test_git_ignores_it(main):
    git = ["git", "-C", main.parents[1], "check-ignore", "-q"]
    for name, ignored in ((".env", True), ("logs", True), (".env.template", False)):
        assert (subprocess.run([*git, name]).returncode == 0) == ignored, name


def test_no_file_of_a_run_holds_a_secret_of_it(env, shell, main, tmp_path):
    env("OUTPUT_ROOT=out\nMY_TOKEN=hush-hush\nWANDB_API_KEY=not-told\n")
    mine = ["+mine.url='https://me:${oc.env:MY_TOKEN}@host'", "+mine.tags=[a]"]
    quick = ["optim.steps_per_epoch=1", "optim.epochs=1", "log.api=[csv,tensorboard]"]
    environ = {n: v for n, v in os.environ.items() if n != "OUTPUT_ROOT"}
    done = shell(main, "-cn", "base", "+model.name=simclr", *mine, *quick, **environ)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "out" / "runs" / "default").iterdir()
    assert "https://me:***@host" in (run / "config.yaml").read_text()
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        told = path.read_bytes()
        assert b"hush-hush" not in told and b"not-told" not in told, path
    assert "hush-hush" not in done.stdout + done.stderr
