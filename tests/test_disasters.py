"""Real runs on disks that are full, read-only or have lost a part of a file.

The same command always goes on where the last good checkpoint was, and ends exactly as
the run that nothing happened to.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stable_ssl.checkpoint import equal, load

MAIN = Path(__file__).resolve().parents[1] / "runs" / "main.py"
OPTIONS = [
    "--config-name=supervised",
    "optim.epochs=16",  # of 9 steps
    "log.run=run",
    "log.every_n_steps=1",
    "log.checkpoint.every_n_epochs=null",
    "log.checkpoint.every_n_steps=40",
    "log.eval.every_n_epochs=8",
    "log.eval.untrained=false",
    "log.eval.few_labels=[]",
    "log.pictures=null",
]


def run_dir(folder):
    return folder / "runs" / "supervised" / "run"


def checkpoints(folder):
    """Return the checkpoints of a run, the newest last."""
    paths = (run_dir(folder) / "ckpts").glob("e*.ckpt")
    return sorted(paths, key=lambda path: path.stem[-6:])


def state(folder):
    """Return what must be equal at the end of a run."""
    last = load(run_dir(folder) / "ckpts" / "last.ckpt")
    other = ("config", "rows", "metrics", "logged")  # wall-clock fields, the folder
    return {name: last[name] for name in last if name not in other}


def contents(folder):
    """Return the bytes of all files."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


def launch(folder):
    """Start the one command line of these tests, writing to a folder."""
    return subprocess.Popen(
        [sys.executable, MAIN, *OPTIONS, f"log.folder={folder}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Return the exit code and the standard error of a process."""
    errors = process.communicate(timeout=240)[1]
    return process.returncode, errors


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    code, errors = finish(launch(folder))
    assert code == 0, errors
    return folder


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The run after SIGTERM some steps after a checkpoint; for tests to copy."""
    folder = tmp_path_factory.mktemp("interrupted")
    process = launch(folder)
    wait_for_a_checkpoint(folder, process)
    metrics = run_dir(folder) / "metrics.jsonl"
    while metrics.read_bytes().count(b"\n") < 45:  # a step later than the checkpoint
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    code, errors = finish(process)
    assert code == 128 + signal.SIGTERM, errors
    return folder


@pytest.fixture
def start():
    """Return `launch`; what still runs at the end of the test is killed."""
    processes = []

    def launched(folder):
        processes.append(launch(folder))
        return processes[-1]

    yield launched
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def disk(tmp_path):
    """Return a folder to be a small disk, and what mounts or remounts it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        line = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        try:
            done = subprocess.run(line, capture_output=True, text=True)
        except FileNotFoundError as error:
            pytest.skip(f"no disk can be mounted: {error}")
        if done.returncode:
            pytest.skip(f"no disk can be mounted: {done.stderr.strip()}")

    yield folder, mount
    subprocess.run(["umount", "--lazy", folder], capture_output=True)


def wait_for_a_checkpoint(folder, process):
    while not checkpoints(folder):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def assert_one_line(errors, *words):
    """Check that an error is the last line, and no traceback comes with it."""
    assert "Traceback" not in errors
    line = errors.strip().splitlines()[-1]
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def assert_goes_on_exactly(start, folder, whole, rows):
    """Start the same command again; it must end as the run that never stopped."""
    code, errors = finish(start(folder))
    assert code == 0, errors
    assert "resumed at" in (run_dir(folder) / "console.log").read_text()
    assert equal(state(folder), state(whole))
    assert rows(run_dir(folder)) == rows(run_dir(whole))
    assert not list(folder.rglob(".*.tmp"))
    return errors


def test_a_truncated_checkpoint_costs_the_steps_since_the_one_before(
    start, whole, interrupted, rows, tmp_path
):
    folder = shutil.copytree(interrupted, tmp_path / "truncated")
    before, newest = checkpoints(folder)
    os.truncate(newest, newest.stat().st_size // 2)
    step = load(before)["step"]
    errors = assert_goes_on_exactly(start, folder, whole, rows)
    assert f"{newest} is truncated" in errors
    assert "trying the one before" in errors
    assert f"step {step} from" in (run_dir(folder) / "console.log").read_text()


def test_a_disk_that_is_full_for_a_checkpoint(start, whole, rows, disk):
    folder, mount = disk
    size = checkpoints(whole)[-1].stat().st_size
    mount(f"size={int(2.5 * size)}")  # the third does not fit
    code, errors = finish(start(folder))
    assert code == 2
    assert_one_line(
        errors,
        "e013_s000120.ckpt: No space left on device",
        "the earlier checkpoints are intact",
        "free some space and start the same command again to resume",
    )
    assert [load(path)["step"] for path in checkpoints(folder)] == [40, 80]
    assert not list(folder.rglob(".*.tmp"))
    mount(f"remount,size={8 * size}")
    assert_goes_on_exactly(start, folder, whole, rows)


def test_a_disk_that_is_full_for_a_row(start, whole, rows, disk):
    folder, mount = disk
    mount(f"size={8 * checkpoints(whole)[-1].stat().st_size}")
    process = start(folder)
    wait_for_a_checkpoint(folder, process)
    process.send_signal(signal.SIGSTOP)  # or it might end before the disk is full
    filler = folder / "filler"
    with pytest.raises(OSError, match="No space"), open(filler, "wb", 0) as file:
        while True:
            file.write(bytes(4096))
    process.send_signal(signal.SIGCONT)
    code, errors = finish(process)
    assert code == 2
    assert_one_line(errors, "metrics.jsonl could not be written: No space left")
    assert (run_dir(folder) / "metrics.jsonl").read_bytes().endswith(b"\n")
    filler.unlink()
    assert_goes_on_exactly(start, folder, whole, rows)


def test_a_run_folder_that_became_read_only(start, interrupted, disk):
    folder, mount = disk
    mount(f"size={8 * checkpoints(interrupted)[-1].stat().st_size}")
    shutil.copytree(interrupted, folder, dirs_exist_ok=True)
    mount("remount,ro")
    code, errors = finish(start(folder))
    assert code == 2
    assert_one_line(errors, f"{run_dir(folder)}: Read-only file system", "log.folder")
    assert contents(folder) == contents(interrupted)
