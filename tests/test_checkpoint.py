"""Checkpoints: atomic, checked, kept."""

import pytest
import torch

from stable_ssl import ConfigError
from stable_ssl.checkpoint import (
    Checkpoints,
    CorruptCheckpoint,
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


@pytest.mark.parametrize("harm", ["truncate", "flip", "append", "empty", "foreign"])
def test_a_damaged_file_is_found_out(tmp_path, harm):
    path = tmp_path / "x.ckpt"
    save(path, state())
    content = bytearray(path.read_bytes())
    if harm == "truncate":
        del content[len(content) // 2 :]
    elif harm == "flip":
        content[len(content) // 2] ^= 1
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
    keep.forget_after(1)
    assert newest_valid(tmp_path)["step"] == 1
