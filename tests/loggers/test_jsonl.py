"""metrics.jsonl: whole rows, on the disk when a checkpoint refers to them."""

import errno
import os

import pytest

from stable_ssl import ConfigError
from stable_ssl.loggers.jsonl import JsonLines


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def written(path, count):
    """Write so many rows; return the length of the file after each."""
    lines = JsonLines(path)
    lengths = []
    for step in range(count):
        lines.write({"step": step, "loss": float("nan")})
        lengths.append(lines.position)
    lines.close()
    return lengths


def test_rows_after_a_position_are_written_again(path):
    first, _ = written(path, 2)
    lines = JsonLines(path, first)
    lines.write({"step": 7})
    lines.close()
    assert path.read_text() == '{"step": 0, "loss": null}\n{"step": 7}\n'


def test_sync_brings_the_rows_to_the_disk(path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    lines = JsonLines(path)
    lines.write({"step": 1})
    lines.sync()
    assert synced == [lines.position]
    lines.close()


@pytest.mark.parametrize("half", [0, 5])
def test_a_file_shorter_than_the_checkpoint_says_is_no_secret(path, half):
    first, second, third = written(path, 3)
    os.truncate(path, first + half)  # half a row was on the disk
    with pytest.warns(UserWarning, match=f"has {first + half} bytes, but had {third}"):
        lines = JsonLines(path, third)
    lines.write({"step": 3})
    lines.close()
    assert path.read_text() == '{"step": 0, "loss": null}\n{"step": 3}\n'


def test_a_row_is_not_appended_to_one_without_an_end(path):
    """A flipped newline would take the next row with it, and so would half a row."""
    first, second = written(path, 2)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.warns(UserWarning, match=f"last whole row there ends at {first}"):
        lines = JsonLines(path, second)
    lines.close()
    with open(path, "ab") as file:
        file.write(b'{"step": 1, "lo')
    lines = JsonLines(path)  # an evaluation, which keeps all
    lines.write({"step": 7})
    lines.close()
    assert path.read_text().splitlines()[1:] == ['{"step": 1, "lo', '{"step": 7}']


def test_a_row_that_does_not_fit_is_not_left_half(path, monkeypatch):
    class Full:
        """A disk that takes ten bytes more."""

        def __init__(self, file):
            self.file = file

        def write(self, data):
            if len(data) <= 10:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data[:10])

        def __getattr__(self, name):
            return getattr(self.file, name)

    lines = JsonLines(path)
    lines.write({"step": 1})
    whole, lines.file = lines.file, Full(lines.file)
    with pytest.raises(ConfigError, match="metrics.jsonl could not be .*: No space"):
        lines.write({"step": 20})
    assert path.read_text() == '{"step": 1}\n'
    lines.file = whole
    lines.write({"step": 3})
    lines.close()
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(ConfigError, match="could not be written: Is a directory"):
        JsonLines(tmp_path)
