"""Checkpoints: atomic, checked, kept."""

import errno
import hashlib
import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from stable_ssl import ConfigError, checkpoint
from stable_ssl.checkpoint import (
    Checkpoints,
    CorruptCheckpoint,
    equal,
    load,
    newest_valid,
    save,
)


def state(value=0.0):
    return {
        "modules": {"w": torch.full((1000,), value)},
        "step": int(value),
        "best": [],
    }


def test_torch_opens_what_is_saved(tmp_path):
    path = tmp_path / "x.ckpt"
    save(path, state(3.0))
    assert torch.equal(
        torch.load(path, weights_only=True)["modules"]["w"], load(path)["modules"]["w"]
    )
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_what_torch_writes_with_its_checksum_as_the_comment(tmp_path):
    """Whichever way it was written: earlier files are read, later ones have no less."""
    path, buffer = tmp_path / "x.ckpt", io.BytesIO()
    many = {**state(3.0), "others": [torch.rand(2**18) for _ in range(8)]}
    save(path, many)
    torch.save(many, buffer)
    archive = buffer.getvalue()
    digest = hashlib.sha256(archive).hexdigest().encode()
    assert path.read_bytes() == archive[:-2] + b"\x40\x00" + digest


@pytest.mark.parametrize(
    "harm", ["truncate", "flip", "seal", "append", "empty", "foreign"]
)
def test_a_damaged_file_is_found_out(tmp_path, harm):
    path = tmp_path / "x.ckpt"
    save(path, state())
    content = bytearray(path.read_bytes())
    if harm == "truncate":
        del content[len(content) // 2 :]
    elif harm == "flip":
        content[len(content) // 2] ^= 1
    elif harm == "seal":
        content[-66] ^= 1
    elif harm == "append":
        content += b"x"
    elif harm == "empty":
        content.clear()
    else:
        torch.save(state(), path)
        content = bytearray(path.read_bytes())
    path.write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match="x.ckpt is truncated or not a"):
        load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no checkpoint at .*nosuch"):
        load(tmp_path / "nosuch.ckpt")


def test_the_one_before_is_taken_when_the_newest_is_damaged(tmp_path):
    keep = Checkpoints(tmp_path, top_k=0, last=True, largest=True)
    for step in (1, 2):
        newest = keep.save(state(step), 0, step, None)
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(UserWarning, match="s000002.ckpt is truncated.*the one before"):
        assert newest_valid(tmp_path)["step"] == 1


def test_a_run_does_not_start_over_where_no_checkpoint_can_be_read(tmp_path):
    keep = Checkpoints(tmp_path, top_k=0, last=True, largest=True)
    for step in (1, 2):
        path = keep.save(state(step), 0, step, None)
        path.write_bytes(path.read_bytes()[:100])
    with (
        pytest.warns(UserWarning, match="s000002.ckpt is truncated.*the one before"),
        pytest.raises(ConfigError, match="s000001.ckpt.*no other in .*start afresh"),
    ):
        newest_valid(tmp_path)


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.ckpt"
    save(path, state(1.0))
    monkeypatch.setattr(
        "os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OSError, match="full"):
        save(path, state(2.0))
    assert load(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("largest", "best"), [(True, [3, 1]), (False, [2, 4])])
def test_the_newest_two_and_the_best_are_kept(tmp_path, largest, best):
    values = {1: 0.7, 2: 0.1, 3: 0.9, 4: 0.2, 5: None, 6: 0.5}
    keep = Checkpoints(tmp_path, top_k=2, last=True, largest=largest)
    for step, value in values.items():
        keep.save(state(step), step, step, value)
    steps = {int(p.stem[-6:]) for p in tmp_path.glob("e*.ckpt")}
    assert steps == {5, 6, *best}
    assert load(tmp_path / "best.ckpt")["step"] == best[0]
    assert load(tmp_path / "last.ckpt")["step"] == 6
    assert [name for _, name in load(tmp_path / "last.ckpt")["best"]] == [
        f"e{s:03d}_s{s:06d}.ckpt" for s in best
    ]


def test_later_checkpoints_are_forgotten_on_resume(tmp_path):
    keep = Checkpoints(tmp_path, top_k=1, last=True, largest=True)
    for step in (1, 2):
        keep.save(state(step), 0, step, None)
    keep.resume({**state(1), "epoch": 0})
    assert newest_valid(tmp_path)["step"] == 1


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# --- one step, one checkpoint ---------------------------------------------------------


def test_a_later_checkpoint_of_a_step_takes_the_place_of_the_earlier(tmp_path):
    keep = Checkpoints(tmp_path, top_k=2, last=True, largest=True)
    keep.save(state(5), 0, 5, 0.9)
    keep.save(state(10), 0, 10, 0.8)
    keep.save(state(10), 1, 10, 0.8)
    assert keep.best == [(0.9, "e000_s000005.ckpt"), (0.8, "e001_s000010.ckpt")]
    assert names(tmp_path) == [
        "best.ckpt",
        "e000_s000005.ckpt",  # the newest but one is of another step
        "e001_s000010.ckpt",
        "last.ckpt",
    ]


def test_a_step_keeps_its_rank_where_its_later_checkpoint_has_no_value(tmp_path):
    keep = Checkpoints(tmp_path, top_k=1, last=True, largest=True)
    keep.save(state(10), 0, 10, 0.8)
    keep.save(state(10), 1, 10, None)
    assert keep.best == [(0.8, "e001_s000010.ckpt")]
    assert load(tmp_path / "best.ckpt")["best"] == keep.best


@pytest.mark.parametrize("earlier_first", [True, False])
def test_of_one_step_the_later_epoch_is_the_newest(
    tmp_path, monkeypatch, earlier_first
):
    """Both are there after a kill between the writing and the deletion."""
    paths = [tmp_path / f"e00{epoch}_s000010.ckpt" for epoch in (0, 1)]
    for epoch, path in enumerate(paths):
        save(path, {**state(10), "epoch": epoch})
    listed = paths if earlier_first else paths[::-1]
    monkeypatch.setattr(type(tmp_path), "glob", lambda self, pattern: iter(listed))
    assert newest_valid(tmp_path)["epoch"] == 1


# --- what a killed or failing save leaves ---------------------------------------------


def test_leftovers_of_dead_processes_are_deleted_by_the_next_save(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leftover = tmp_path / f".e000_s000001.ckpt.{dead.pid}.tmp"
    of_a_namesake = tmp_path / f".e000_s000001.ckpt.{os.getpid()}.tmp"
    of_the_living = tmp_path / f".e000_s000001.ckpt.{os.getppid()}.tmp"
    for path in (leftover, of_a_namesake, of_the_living):
        path.write_bytes(b"half")
    Checkpoints(tmp_path, top_k=0, last=False, largest=True).save(state(2), 0, 2, None)
    assert names(tmp_path) == [of_the_living.name, "e000_s000002.ckpt"]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "make .* writable")],
)
def test_a_failing_save_is_said_in_one_line(tmp_path, monkeypatch, number, remedy):
    keep = Checkpoints(tmp_path, top_k=1, last=True, largest=True)
    keep.save(state(1), 0, 1, 0.5)
    before, best = names(tmp_path), list(keep.best)

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fail)
    words = (
        f"e000_s000002.ckpt could not be written: {os.strerror(number)}; the"
        f" earlier checkpoints are intact; {remedy} and start the same command again"
    )
    with pytest.raises(ConfigError, match=words) as caught:
        keep.save(state(2), 0, 2, 0.6)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == before
    assert keep.best == best


def test_a_file_in_the_way_of_the_folder_is_said_in_one_line(tmp_path):
    (tmp_path / "run").write_text("a file")
    keep = Checkpoints(tmp_path / "run" / "ckpts", top_k=0, last=True, largest=True)
    with pytest.raises(ConfigError, match="could not be written: Not a directory"):
        keep.save(state(1), 0, 1, None)


class Killed(Exception):
    """Stands for the end of a process."""


@pytest.mark.parametrize("value", [0.1, 0.9])  # no new best, a new best
@pytest.mark.parametrize("background", [False, True])
def test_a_resume_sets_right_what_a_save_killed_anywhere_left(
    tmp_path, monkeypatch, value, background
):
    """At each of its file operations; names and files are those of no kill at all."""
    if background:
        monkeypatch.setattr(checkpoint, "LARGE", 0)

    def after(folder, operations):
        """Return a folder's files by state after a save that lives for so many."""
        values = {1: 0.5, 2: 0.2, 3: value}
        keep = Checkpoints(folder, top_k=1, last=True, largest=True)
        for step in (1, 2):
            keep.save({**state(step), "epoch": 0}, 0, step, values[step])
        keep.background.wait()
        with monkeypatch.context() as patch:
            for name in ("replace", "link", "fsync", "unlink"):
                patch.setattr(os, name, mortal(getattr(os, name), operations))
            try:
                keep.save({**state(3), "epoch": 0}, 0, 3, values[3])
                keep.background.wait()
                survived.append(folder)
            except Killed:
                pass
        keep = Checkpoints(folder, top_k=1, last=True, largest=True)
        found = newest_valid(folder)
        keep.resume(found)
        for step in range(found["step"] + 1, 4):
            keep.save({**state(step), "epoch": 0}, 0, step, values[step])
        keep.background.wait()
        return {path.name: load(path)["step"] for path in folder.iterdir()}

    def mortal(operation, operations):
        def operate(*arguments, **options):
            counted.append(operation)
            if len(counted) > operations:  # the dead do nothing, no `finally` either
                raise Killed
            return operation(*arguments, **options)

        return operate

    counted, survived = [], []
    whole = after(tmp_path / "whole", 1000)
    assert whole["last.ckpt"] == 3
    assert whole["best.ckpt"] == (3 if value > 0.5 else 1)
    for operations in range(len(counted)):
        counted.clear()
        assert after(tmp_path / str(operations), operations) == whole, operations
    assert operations > 5 and len(survived) == 1  # pathlib of Python 3.10 hides one


def test_a_damaged_one_is_no_longer_among_the_best(tmp_path):
    keep = Checkpoints(tmp_path, top_k=2, last=True, largest=True)
    for step, value in ((1, 0.9), (2, 0.5), (3, 0.1)):
        path = keep.save({**state(step), "epoch": 0}, 0, step, value)
    best = tmp_path / "best.ckpt"
    os.truncate(best, best.stat().st_size // 2)
    again = Checkpoints(tmp_path, top_k=2, last=True, largest=True)
    with pytest.warns(UserWarning, match="s000001.ckpt is truncated.* the best"):
        again.resume(load(path))
    assert load(best)["step"] == 2
    assert names(tmp_path)[1:-1] == ["e000_s000002.ckpt", "e000_s000003.ckpt"]


def test_the_newest_is_found_by_its_other_name_where_all_were_deleted(tmp_path):
    keep = Checkpoints(tmp_path, top_k=0, last=True, largest=True)
    keep.save(state(1), 0, 1, None).unlink()
    assert newest_valid(tmp_path)["step"] == 1


# --- the end of a run -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "top_k", "kept"),
    [
        (True, 1, ["best.ckpt", "e1", "e2", "e3", "last.ckpt"]),
        (False, 1, ["best.ckpt", "e1"]),
        (False, 0, []),
    ],
)
def test_without_last_only_the_best_stay_after_the_run(tmp_path, last, top_k, kept):
    keep = Checkpoints(tmp_path, top_k=top_k, last=last, largest=True)
    for step, value in ((1, 0.9), (2, 0.5), (3, 0.6)):
        keep.save(state(step), step, step, value)
    assert newest_valid(tmp_path)["step"] == 3  # while it runs, to resume from
    keep.finish()
    names_ = [n if "_" not in n else f"e{int(n[1:4])}" for n in names(tmp_path)]
    assert names_ == kept


def test_the_newest_stays_where_nothing_was_ranked(tmp_path):
    keep = Checkpoints(tmp_path, top_k=1, last=False, largest=True)
    keep.save(state(1), 0, 1, None)
    keep.finish()
    assert newest_valid(tmp_path)["step"] == 1


def test_an_earlier_last_is_removed_without_last(tmp_path):
    for last in (True, False):
        keep = Checkpoints(tmp_path, top_k=1, last=last, largest=True)
        keep.save(state(1), 0, 1, 0.5)
    keep.finish()
    assert names(tmp_path) == ["best.ckpt", "e000_s000001.ckpt"]


# --- comparison -----------------------------------------------------------------------


def test_states_are_compared_exactly():
    a = {"w": torch.ones(2), "x": [1, (2.0, "three")], "y": None}
    assert equal(a, {"w": torch.ones(2), "x": (1, [2.0, "three"]), "y": None})
    for other in (
        {**a, "w": torch.ones(2).double()},
        {**a, "w": torch.ones(3)},
        {**a, "w": 1.0},
        {**a, "x": [1, (2.0,)]},
        {**a, "z": 0},
    ):
        assert not equal(a, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_two_nan_are_the_same(dtype):
    nan = torch.tensor([1, float("nan"), float("inf")], dtype=dtype)
    a = {"metrics": {"val/knn_acc1": float("nan")}, "buffer": nan}
    assert equal(a, {"metrics": {"val/knn_acc1": float("nan")}, "buffer": nan.clone()})
    for other in (nan.flip(0), nan.nan_to_num(nan=0.0), torch.ones_like(nan), nan[:2]):
        assert not equal(nan, other)
    assert not equal(float("nan"), 0.0) and not equal(float("nan"), None)


def test_rows_are_on_the_disk_before_a_checkpoint_refers_to_them(
    tiny, config, monkeypatch
):
    from stable_ssl.loggers.jsonl import JsonLines

    calls, sync, save = [], JsonLines.sync, checkpoint.save
    monkeypatch.setattr(JsonLines, "sync", lambda s: calls.append("rows") or sync(s))
    monkeypatch.setattr(
        checkpoint, "save", lambda *a: calls.append("checkpoint") or save(*a)
    )
    tiny(config()).run()
    assert calls == ["rows", "checkpoint"] * 2


def test_numbers_of_numpy_are_saved_as_pythons(tmp_path):
    rates = np.linspace(0, 1, 3)
    found = {"lr": rates[1], "all": (rates, [np.float32(2)]), "same": {"a": None}}
    save(tmp_path / "x.ckpt", found)
    again = load(tmp_path / "x.ckpt")
    assert again["lr"] == 0.5 and type(again["lr"]) is float
    assert again["all"][0].tolist() == rates.tolist() and again["all"][1] == [2.0]
    assert again["same"] == {"a": None}


def test_what_could_not_be_read_again_is_refused_by_its_name(tmp_path):
    with pytest.raises(
        ConfigError, match=r"state.scheduler.x\[1\] is a Path|PosixPath"
    ):
        save(tmp_path / "x.ckpt", {"scheduler": {"x": [1, tmp_path]}})
    assert not list(tmp_path.iterdir())
