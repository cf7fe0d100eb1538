"""Real runs on disks that are full, read-only or have lost a part of a file.

The same command always goes on where the last good checkpoint was, and ends exactly as
the run that nothing happened to.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from PIL import Image

from stable_ssl import ConfigError, load_config
from stable_ssl.checkpoint import equal, load
from stable_ssl.data import build_dataset
from stable_ssl.tools.runs import read_run
from tests.conftest import Tiny

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


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_checkpoint(start, whole, rows, disk):
    folder, mount = disk
    size = checkpoints(whole)[-1].stat().st_size
    mount(f"size={int(2.5 * size)}")  # the third does not fit
    code, errors = finish(start(folder))
    assert code == 2
    assert_one_line(
        errors,
        "e013_s000120.ckpt could not be written: No space left on device",
        "the earlier checkpoints are intact",
        "free some space and start the same command again to resume",
    )
    assert [load(path)["step"] for path in checkpoints(folder)] == [40, 80]
    ended = json.loads((run_dir(folder) / "status.json").read_text())
    assert ended["status"] == "failed" and "No space left" in ended["reason"]
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


# --- every file of a run folder, harmed while the run was stopped ---------------------


class Photos(Tiny):
    """The smallest trainer, on the grey pictures of a folder."""

    def forward(self, x):
        return self.layer(x[:, :1].flatten(1))


class Stopped(Photos):
    """The same, stopped after a step that is a checkpoint's own."""

    def after_train_step(self):
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)


Stopped.__name__ = "Photos"


def emptied(path):
    os.truncate(path, 0)


def halved(path):
    os.truncate(path, path.stat().st_size // 2)


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    with open(path, "r+b") as file:  # `last.ckpt` is the same file by another name
        file.write(content)


def deleted(path):
    path.unlink()


def made_a_folder(path):
    path.unlink()
    path.mkdir()


HARMS = [emptied, halved, flipped, deleted, made_a_folder]
REFUSED = {  # what ends in one sentence; whatever else is harmed, the run goes on
    halved: {"data/splits.csv"},
    flipped: {"data/splits.csv"},
    made_a_folder: {
        *("config.yaml", "config_tree.txt", "overrides.yaml", "environment.json"),
        *("console.log", "metrics.jsonl", "spectra.jsonl", "status.json"),
        *("data/params.yaml", "data/splits.csv"),
        *("ckpts/e001_s000003.ckpt", "ckpts/e001_s000004.ckpt"),
        *("ckpts/best.ckpt", "ckpts/last.ckpt"),
    },
}
ROWS_LOST = {("metrics.jsonl", h) for h in (emptied, halved, flipped, deleted)}
ROWS_LOST |= {("spectra.jsonl", h) for h in (emptied, halved, flipped, deleted)}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """What restores a run that was stopped; its config; the run that was not."""
    root = tmp_path_factory.mktemp("stopped")
    for split in ("train", "val"):
        digits = build_dataset({"name": "digits", "subset": split}, ".", False)
        for i in range(24):
            image, label = digits[i]
            path = root / "images" / split / str(label) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(path)
    keys = [
        *("optim.epochs=2", "data.batch_size=8", "optim.scheduler.warmup_epochs=0"),
        *("log.run=run", "log.every_n_steps=1", "log.checkpoint.every_n_steps=2"),
        *("log.eval.untrained=false", "log.eval.few_labels=[]", "data.test=null"),
        *("log.eval.every_n_epochs=1", "log.eval.spectrum=true", "log.eval.knn=null"),
        "log.monitor=val/acc1",
        *("log.api=[csv,tensorboard]", f"data.root={root / 'images'}"),
        *(f"data.{split}.dataset.name=image_folder" for split in ("train", "val")),
    ]

    def config(folder, *more):
        return load_config("base", [*keys, f"log.folder={root / folder}", *more])

    with pytest.raises(SystemExit):
        Stopped(config("stopped", "log.pictures.every_n_epochs=1")).run()
    Photos(config("stopped", "mode=predict", "data.predict=val")).run()
    whole = Photos(config("whole", "log.pictures=null"))
    whole.run()
    run = root / "stopped" / "runs" / "default" / "run"
    copy(run, root / "pristine")

    def restore():
        copy(root / "pristine", run)
        return run

    return restore, config("stopped", "log.pictures=null"), whole.run_dir


@pytest.fixture
def quick(monkeypatch):
    """Leave out what takes longest and reads no file of the run: figures, packages."""
    monkeypatch.setattr(
        "stable_ssl.tools.learning_curves.learning_curves", lambda folder: []
    )
    monkeypatch.setattr("stable_ssl.loggers.environment.packages", dict)


def again(trainer, config):
    """Run in-process; return what it warned of, and its refusal or None."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trainer(config).run()
            refusal = None
        except ConfigError as error:
            refusal = str(error)
    return "\n".join(str(warning.message) for warning in caught), refusal


SLOW_HARMS = [
    harm if harm is flipped else pytest.param(harm, marks=pytest.mark.slow)
    for harm in HARMS
]


@pytest.mark.parametrize("harm", SLOW_HARMS)
def test_a_run_outlives_harm_to_any_of_its_files(stopped, quick, rows, harm):
    """It goes on and ends with the same bits, or says in one line what to do."""
    restore, config, whole = stopped
    run = restore()
    paths = sorted(p.relative_to(run) for p in run.rglob("*") if p.is_file())
    names = {path.as_posix() for path in paths}
    assert {n for some in REFUSED.values() for n in some} <= names
    assert {p.parts[0] for p in paths} >= {"figures", "tensorboard", "predictions.csv"}
    for path in paths:
        name = path.as_posix()
        harm(restore() / path)
        said, refusal = again(Photos, config)
        if name in REFUSED.get(harm, ()):
            assert refusal and run.name in refusal and "\n" not in refusal, name
            assert "move" in refusal or "delete" in refusal, name
        else:
            assert refusal is None, (name, refusal)
            assert equal(end(run), end(whole)), name
            assert not list(run.rglob(".*.tmp")), name
            lost = (name, harm) in ROWS_LOST
            assert lost == (f"{path.name} has" in said or f"of {run / path}" in said)
            if name != "metrics.jsonl":
                assert rows(run) == rows(whole), name


def end(run):
    """Return what must be equal at the end of a run, whichever files were lost."""
    load(run / "ckpts" / "best.ckpt")  # of what is left, but whole
    last = load(run / "ckpts" / "last.ckpt")
    other = ("config", "rows", "spectra", "metrics", "logged", "best")
    return {name: last[name] for name in last if name not in other}


def copy(folder, to):
    """Make a folder a copy of another; files that are one by two names stay one."""
    shutil.rmtree(to, ignore_errors=True)
    subprocess.run(["cp", "-a", folder, to], check=True)


def test_predictions_take_the_place_of_harmed_ones(stopped, quick):
    restore, config, _ = stopped
    predict = {**config, "mode": "predict", "data": {**config.data, "predict": "val"}}
    content = (restore() / "predictions.csv").read_bytes()
    for harm in HARMS:
        run = restore()
        harm(run / "predictions.csv")
        _, refusal = again(Photos, predict)
        if harm is made_a_folder:
            assert "predictions.csv could not be written: Is a directory" in refusal
            assert "move away what is in its place" in refusal
        else:
            assert refusal is None and (run / "predictions.csv").read_bytes() == content


def test_figures_that_cannot_be_written_end_no_run(stopped):
    restore, config, whole = stopped
    run = restore()
    for name in ("views_e002.png", "learning_curves.pdf"):
        (run / "figures" / name).mkdir()
    drawn = {**config, "log": {**config.log, "pictures": {"every_n_epochs": 1}}}
    said, refusal = again(Photos, drawn)
    assert refusal is None and equal(end(run), end(whole))
    assert "no picture of views was drawn: IsADirectoryError" in said
    assert "no figure was drawn: IsADirectoryError" in said


# --- what is harmed while the run goes on ---------------------------------------------


def removed(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def emptied(path):
    """As by `rm -rf run/*`."""
    for inner in path.iterdir():
        removed(inner)


def replaced(path):
    """As by an editor, or by `sed -i`."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


MOMENTS = {"in training": 4, "in the last validation": 6}
WHILE_IT_RUNS = [  # fault, file, and what a warning says
    (removed, "metrics.jsonl", "metrics.jsonl was removed while"),
    (replaced, "metrics.jsonl", "metrics.jsonl was removed while"),
    (removed, "spectra.jsonl", "spectra.jsonl was removed while"),
    (removed, "lock.json", None),
    (removed, "status.json", None),
    (removed, "console.log", None),
    (removed, "csv", None),
    (removed, "ckpts", None),
    (emptied, ".", "run was removed while .* without the checkpoints"),
    (removed, ".", "run was removed while .* without the checkpoints"),
    (removed, "../../..", "run was removed while .* without the checkpoints"),
]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("fault", "file", "said"), WHILE_IT_RUNS)
def test_a_run_outlives_what_is_removed_while_it_goes_on(
    stopped, quick, rows, tmp_path, moment, fault, file, said
):
    """All rows and the last checkpoint are there in the end."""
    _, config, whole = stopped
    harmed = []

    class Harmed(Photos):
        def harm(self):
            if self.step == MOMENTS[moment] and not harmed:
                harmed.append(file)
                fault((self.run_dir / file).resolve())

        def after_train_step(self):
            if moment == "in training":
                self.harm()

        def after_eval_epoch(self):
            if moment != "in training":
                self.harm()

    Harmed.__name__ = "Photos"
    log = {**config.log, "folder": str(tmp_path / "logs"), "api": ["csv"]}
    config = {**config, "log": log}
    warned, refusal = again(Harmed, config)
    run = tmp_path / "logs" / "runs" / "default" / "run"
    assert refusal is None
    assert rows(run) == rows(whole)
    assert equal(end(run), end(whole))
    assert read_run(run).status == "finished"
    assert {"config.yaml", "environment.json"} <= {p.name for p in run.iterdir()}
    assert bool(said) == bool(re.search(str(said), warned)), warned
    before = contents(run)
    assert again(Photos, config)[1] is None  # the same command changes nothing
    assert rows(run) == rows(whole) and (run / "config.yaml").exists()
    assert before.keys() <= contents(run).keys()


class Ending(Photos):
    """Something happens to the disk after the last checkpoint."""

    def test(self):
        if self.step:
            self.at_the_end()


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_the_truth_about_the_end_on_a_bad_disk(stopped, quick, disk, fault):
    """What cannot be written anew is written over; what cannot at all is said."""
    _, config, _ = stopped
    folder, mount = disk
    mount("size=8m")

    def fill():
        with pytest.raises(OSError, match="No space"):
            with open(folder / "filler", "wb", 0) as file:
                while True:
                    file.write(bytes(4096))

    ends = {"full": fill, "read-only": lambda: mount("remount,ro")}
    trainer = type("Photos", (Ending,), {"at_the_end": lambda _: ends[fault]()})
    config = {**config, "log": {**config.log, "folder": str(folder), "api": []}}
    _, refusal = again(trainer, config)
    run = folder / "runs" / "default" / "run"
    status = json.loads((run / "status.json").read_text())["status"]
    if fault == "full":
        assert refusal is None and status == "finished"
    else:
        assert "status.json could not be written: Read-only file system" in refusal
        assert status == "running" and read_run(run).status == "lost"
    load(run / "ckpts" / "last.ckpt")
