"""Files of tensors of any origin: read as data, or said to be what they are."""

import argparse
import io
import os
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from safetensors.torch import save as safetensors

from stable_ssl import ConfigError
from stable_ssl.checkpoint import CorruptCheckpoint, load, save
from stable_ssl.tensor_files import read

WEIGHTS = {"a.weight": torch.arange(600.0).reshape(20, 30), "a.bias": torch.ones(3)}


class Started:
    """Pickled as a call that starts a program."""

    def __reduce__(self):
        return subprocess.Popen, (["touch", "started"],)


class Evil:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def torch_bytes(value, zipped=True):
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def archive(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def numpy_bytes(write, *arrays, **named):
    buffer = io.BytesIO()
    write(buffer, *arrays, **named)
    return buffer.getvalue()


def torchscript():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        torch_bytes(WEIGHTS),
        torch_bytes(WEIGHTS, zipped=False),
        safetensors(WEIGHTS),
        torch_bytes({**WEIGHTS, "args": argparse.Namespace(lr=0.1)}),
        torch_bytes({**WEIGHTS, "args": argparse.Namespace(lr=0.1)}, zipped=False),
        torch_bytes({**WEIGHTS, "hyper_parameters": OmegaConf.create({"a": [1]})}),
        torch_bytes({**WEIGHTS, "best": np.float64(1), "head": torch.nn.Linear(2, 2)}),
        torch_bytes({**WEIGHTS, "start": Started()}),
    ],
    ids="torch legacy safetensors argparse legacy-argparse omegaconf objects".split()
    + ["call"],
)
def test_what_others_write_is_read(tmp_path, content):
    path = tmp_path / "any.name"
    path.write_bytes(content)
    found = read(path)
    assert not Path("started").exists()
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


OTHERS = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
    "html": (b"\n<!DOCTYPE html><html>no such file</html>", "a page of HTML"),
    "xml": (b"\xef\xbb\xbf<?xml version='1.0'?><Error>", "a page of HTML or XML"),
    "json": (b'{"weight_map": {}}', "is JSON"),
    "gzip": (b"\x1f\x8b\x08\0\0", "compressed by gzip; unpack"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "is HDF5"),
    "npy": (numpy_bytes(np.save, np.zeros(3)), "an array of NumPy"),
    "npz": (numpy_bytes(np.savez, w=np.zeros(3)), "not one of weights by torch.save"),
    "zip": (archive(readme=b"text"), "not one of weights by torch.save"),
    "torchscript": (torchscript(), "perhaps a program of TorchScript"),
    "empty": (b"", "truncated or no file of weights"),
    "text": (b"hello", "truncated or no file of weights"),
    "module": (torch_bytes(torch.nn.Linear(2, 2)), "holds more than.*torch.nn.*Linear"),
}


@pytest.mark.parametrize(("content", "words"), OTHERS.values(), ids=OTHERS)
def test_what_is_no_file_of_weights_is_said_to_be_what_it_is(tmp_path, content, words):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        read(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_folder_is_said_to_be_one_and_a_file_in_it_named(tmp_path):
    with pytest.raises(ConfigError, match="is a folder; give the path of a file in it"):
        read(tmp_path)
    (tmp_path / "ckpts").mkdir()
    (tmp_path / "ckpts" / "last.ckpt").touch()
    with pytest.raises(ConfigError, match="is a folder; .*such as .*ckpts/last.ckpt"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="no checkpoint at .*nosuch"):
        read(tmp_path / "nosuch")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_foreign_pickle_executes_nothing(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    Path("evil.pth").write_bytes(torch_bytes({**WEIGHTS, "a": Evil()}, zipped))
    with pytest.raises(
        ConfigError, match=r"holds more than.*\.mkdir.*save its weights"
    ):
        read(Path("evil.pth"))
    assert not Path("executed").exists()


CONTENTS = {
    "torch": torch_bytes(WEIGHTS),
    "legacy": torch_bytes(WEIGHTS, zipped=False),
    "safetensors": safetensors(WEIGHTS),
}


@pytest.mark.parametrize("kind", CONTENTS)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_said_to_be_so(tmp_path, kind, share):
    content = CONTENTS[kind]
    path = tmp_path / "cut.pth"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ConfigError, match="truncated") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("harm", ["flip", "append", "comment"])
def test_a_damaged_file_of_ours_is_not_taken_for_one_of_others(tmp_path, harm):
    path = tmp_path / "x.ckpt"
    save(path, {"modules": WEIGHTS})
    content = bytearray(path.read_bytes())
    if harm == "append":
        content += b"x"
    else:
        content[len(content) // 2 if harm == "flip" else -1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match="x.ckpt is truncated or not a"):
        read(path)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    start=st.sampled_from([b"", b"\x80\2", b"PK\3\4", b"\x10" + bytes(7) + b"{"]),
    rest=st.binary(max_size=200),
)
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, start, rest):
    path = tmp_path / "any"
    path.write_bytes(start + rest)
    try:
        read(path)
    except ConfigError as error:
        assert "\n" not in str(error)


# --- memory ---------------------------------------------------------------------------

MEMORY = """
import resource
from pathlib import Path
import torch
from safetensors.torch import save_file
from stable_ssl.checkpoint import Checkpoints, load, save
from stable_ssl.tensor_files import read

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB

def took(name, action):
    before = peak()
    kept = action()
    print(name, peak() - before)
    return kept

def copied(content):
    for name, tensor in content.items():
        weights[name].copy_(tensor)

def saved_in_a_run():
    keep = Checkpoints(Path("run"), top_k=0, last=True, largest=True)
    keep.save({"modules": weights}, 0, 1, None)
    keep.background.wait()

weights = {f"w{i}": torch.full((2**20,), float(i)) for i in range(50)}  # 200 MiB
save(Path("small.ckpt"), {"modules": {"w": torch.ones(1)}})
torch.save(weights, "theirs.pth")
torch.save(weights, "old.pth", _use_new_zipfile_serialization=False)
save_file(weights, "theirs.safetensors")
load("small.ckpt")
took("save", lambda: save(Path("x.ckpt"), {"modules": weights}))
took("load", lambda: copied(load("x.ckpt")["modules"]))
for name in ("x.ckpt", "theirs.pth", "theirs.safetensors", "old.pth"):
    found = took(name, lambda: read(Path(name)))
    copied(found.get("modules", found))
    del found
took("save in a run", saved_in_a_run)
"""


def test_no_file_is_in_memory_twice(shell):
    """Of 200 MiB: a save takes nothing, a load the file once, a run's save a copy."""
    done = shell("-c", MEMORY)
    assert done.returncode == 0, done.stderr
    lines = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines())
    took = {name: float(peak) for name, peak in lines.items()}
    assert took.pop("save") < 40
    assert took.pop("load") < 220
    assert max(took.values()) < 40, took  # beyond the peak of the load before


def test_what_is_read_may_be_replaced_or_deleted_and_is_not_written_to(tmp_path):
    path = tmp_path / "x.ckpt"
    for replace in (lambda: save(path, {"w": torch.zeros(10**5)}), path.unlink):
        save(path, {"w": torch.ones(10**5)})
        found = load(path)["w"]
        replace()
        assert found.sum() == 10**5
    save(path, {"w": torch.ones(10**5)})
    found = load(path)["w"]
    found += 1
    assert found.sum() == 2 * 10**5 and load(path)["w"].sum() == 10**5


def recompressed(path):
    """Write an archive anew as a packing program does."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("reason", ["compressed", "name", "system", "bytes"])
def test_what_cannot_be_mapped_is_read(tmp_path, monkeypatch, reason):
    def refuse(*_):
        raise RuntimeError("unable to mmap 4 bytes from file: No such device (19)")

    name = {"name": "x.safetensors", "bytes": os.fsdecode(b"\xff.pth")}
    path = tmp_path / name.get(reason, "x.pth")
    path.write_bytes(torch_bytes(WEIGHTS))
    if reason == "compressed":
        recompressed(path)
    elif reason == "system":
        monkeypatch.setattr(torch.UntypedStorage, "from_file", refuse)
    found = read(path)
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


def test_a_disk_that_takes_a_part_is_said_to_be_full(tmp_path):
    """By an error of the system, whichever torch makes of it."""
    import resource

    path, (soft, hard) = tmp_path / "x", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**22, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(path, {f"w{i}": torch.ones(2**20) for i in range(3)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
