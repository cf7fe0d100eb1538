"""The run folder: what it records, and what happens where it cannot be written."""

import errno
import json
import platform
import secrets
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from stable_ssl import ConfigError
from stable_ssl.loggers.environment import environment
from stable_ssl.loggers.run_folder import RunFolder
from stable_ssl.loggers.run_names import reserve


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    yield folder
    folder.close()


@pytest.fixture
def full(monkeypatch):
    """Let every file that is written as a whole fail."""

    def fail(self, *args, **kwargs):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    return lambda: monkeypatch.setattr(Path, "write_bytes", fail)


@pytest.mark.parametrize(
    ("status", "longer", "same"),
    [("finished", True, False), ("finished", False, True), ("preempted", True, True)],
)
def test_a_finished_run_that_is_made_longer_is_another_one_in_wandb(
    folder, status, longer, same
):
    path = folder.path / "wandb" / "run_id"
    path.parent.mkdir()
    path.write_text("a1")
    folder.status(status)
    folder.own(longer)
    assert path.exists() == same
    assert json.loads((folder.path / "status.json").read_text())["status"] == "running"


def test_no_secret_of_the_command_line_is_recorded(folder, config, monkeypatch):
    secret = secrets.token_hex(8)  # a word of this file might be in git's diff
    overrides = ["++log.tags=[a]", f"++mine.api_key={secret}"]
    monkeypatch.setattr(sys, "argv", ["main.py", *overrides])
    device = torch.device("cpu")
    folder.describe(config("base", *overrides), overrides, environment(device, object))
    for path in folder.path.iterdir():
        assert secret not in path.read_text(), path.name
    assert "- ++mine.api_key=***" in (folder.path / "overrides.yaml").read_text()
    (launch,) = json.loads((folder.path / "environment.json").read_text())
    assert launch["argv"] == ["main.py", "++log.tags=[a]", "++mine.api_key=***"]


def test_each_launch_is_recorded_after_those_before(tiny, config):
    for epochs in (1, 2):
        keys = ["optim.scheduler.name=constant", f"optim.epochs={epochs}"]
        trainer = tiny(config("base", *keys))
        trainer.run()
    first, second = json.loads((trainer.run_dir / "environment.json").read_text())
    assert first["time"] <= second["time"]
    assert second["packages"]["torch"] == version("torch")
    assert second["python"] == platform.python_version()
    assert second["host"] == platform.node() and second["device"] == "cpu"
    assert (second["processes"], second["argv"][0]) == (1, sys.argv[0])
    assert {"commit", "diff"} == second["git"].keys()
    console = (trainer.run_dir / "console.log").read_text()
    assert console.index("epoch 1/1") < console.index("resumed at epoch 1, step 9")
    assert console.count("finished") == 2


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(ConfigError, match="logs/run: Not a directory; set log.folder"):
        RunFolder(tmp_path / "logs" / "run")


def test_a_file_that_cannot_be_written_is_named(folder, config, full):
    full()
    with pytest.raises(ConfigError, match="config.yaml could not be written: No space"):
        folder.describe(config(), [], {})
    assert not list(folder.path.glob(".*"))


def test_a_status_is_written_over_the_old_one_on_a_full_disk(folder, full):
    folder.status("running")
    full()
    folder.status("failed", "full")
    assert json.loads((folder.path / "status.json").read_text())["status"] == "failed"
    assert not list(folder.path.glob(".*"))


def test_a_status_that_cannot_be_written_hides_no_error(folder):
    (folder.path / "status.json").mkdir()
    with pytest.warns(UserWarning, match="status failed: .*Is a directory"):
        folder.status("failed", "of another reason")
    for status in ("running", "finished"):
        with pytest.raises(ConfigError, match="Is a directory.*; move away"):
            folder.status(status)


def test_a_line_of_the_console_that_cannot_be_written_ends_no_run(folder):
    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    folder.say("before")
    folder.console.close()
    folder.console = Full()
    with pytest.warns(UserWarning, match="console.log is not complete: No space"):
        folder.say("lost")
    assert (folder.path / "console.log").read_text().endswith("before\n")


def test_runs_of_one_second_have_folders_of_their_own(tmp_path):
    from types import SimpleNamespace

    log = SimpleNamespace(folder=tmp_path, experiment="e", run=None)
    first, second = reserve([log, log]), reserve([log])
    assert first != second
    names = {path.name for path in (tmp_path / "runs" / "e").iterdir()}
    assert names == {f"{first}_0", f"{first}_1", f"{second}_0"}
