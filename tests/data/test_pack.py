"""stable-ssl pack: bytes unchanged, samples and weights those of what was packed."""

import os
import re
import signal
import subprocess
import sys
import tarfile

import numpy
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from stable_ssl import load_config
from stable_ssl.checkpoint import equal
from stable_ssl.commands import main
from stable_ssl.config import ConfigError
from stable_ssl.data import build_dataset
from stable_ssl.data.fields import Fields
from stable_ssl.data.images.decode import Decode
from stable_ssl.data.pack import Packing, write_shards
from stable_ssl.data.sources.tar import Tar
from stable_ssl.methods import SimCLR
from tests.test_resume import Killed, final, killed_at

CHANCE = numpy.random.default_rng(0)


@pytest.fixture
def command(capsys):
    """Return a runner of `stable-ssl pack`: (exit code, output, errors)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["pack", *map(str, arguments)])
        return end.value.code, *capsys.readouterr()

    return run


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def packed(dataset, folder, shards=2, **options):
    """Pack and read again."""
    packing = Packing(dataset, Fields(), Decode(), "some", shards, **options)
    list(write_shards(packing, folder))
    return Tar(str(folder), packing.pattern, channels="all")


# --- the command ----------------------------------------------------------------------


def test_a_folder_keeps_its_bytes_order_and_classes(photos, tmp_path, command):
    code, out, err = command(photos, tmp_path / "out", "--shards", 3)
    assert (code, err) == (0, "") and "data: 24 samples" in out
    folder = build_dataset({"name": "image_folder"}, str(photos))
    node = {"name": "tar", "root": str(tmp_path / "out")}
    data = build_dataset({**node, "shards": "data-{0000..0002}.tar"})
    assert f"{{name: tar, root: {tmp_path}/out, shards: 'data-{{0000..0002}}" in out
    assert data.class_to_idx == folder.class_to_idx
    assert torch.equal(data.labels, folder.labels)
    files = [data.file(row) for row in range(24)]
    assert files == [folder.file(row) for row in range(24)]
    with tarfile.open(tmp_path / "out" / "data-0001.tar") as file:
        names = file.getnames()
    assert names[:3] == ["00000008.jpg", "00000008.cls", "00000009.jpg"]


def test_a_second_call_goes_on_and_verifies(photos, tmp_path, command):
    for name in ("one", "two"):
        assert command(photos, tmp_path / name, "--shards", 3)[0] == 0
    one, two = content(tmp_path / "one"), content(tmp_path / "two")
    assert one == two
    place = tmp_path / "two" / "data-0001.tar"
    place.unlink()
    out = command(photos, tmp_path / "two", "--shards", 3)[1]
    assert re.findall(r"-000(\d).tar: (\w+)", out) == [
        *[("0", "there"), ("1", "written"), ("2", "there")]
    ]
    assert content(tmp_path / "two") == one
    assert command(photos, tmp_path / "two", "--shards", 3, "--verify")[0] == 0
    place.write_bytes(one[place.name][:5000] + b"?" + one[place.name][5001:])
    code, _, err = command(photos, tmp_path / "two", "--shards", 3, "--verify")
    assert code == 2 and "data-0001.tar differs before byte" in err
    code, _, err = command(photos, tmp_path / "two", "--shards", 4)
    assert code == 2 and "data.json is of other shards" in err


def test_splits_of_a_recipe(tmp_path, command):
    line = ["simclr", tmp_path / "out", "--shards", 2]
    assert command(*line, "--splits", "val", "test")[0] == 0
    data = Tar(str(tmp_path / "out"), "val-{0000..0001}.tar", channels="all")
    digits = build_dataset({"name": "digits", "subset": "val"})
    assert torch.equal(data.labels, digits.labels) and len(data) == 200
    decode = Decode()
    for row in range(0, 200, 19):
        assert torch.equal(decode(data[row][0]), digits[row][0])
    code, _, err = command(*line, "--splits", "vale")
    assert code == 2 and "no such split of simclr; did you mean 'val'" in err


def test_subset_folders_are_splits_with_one_numbering(tmp_path, command):
    for path in ("train/ant/0.png", "train/bee/0.png", "val/bee/1.png"):
        (tmp_path / "root" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 3)).save(tmp_path / "root" / path)
    line = [tmp_path / "root", tmp_path / "out", "--shards", 1]
    assert command(*line)[0] == 0
    val = Tar(str(tmp_path / "out"), "val-0000.tar")
    assert val.labels.tolist() == [1] and val.classes == ["ant", "bee"]
    (tmp_path / "root" / "more").mkdir()
    (tmp_path / "root" / "train" / "ant" / "0.png").rename(
        tmp_path / "root" / "more" / "0.png"
    )
    line = [tmp_path / "root", tmp_path / "more", "--shards", 1, "--unlabelled"]
    code, _, err = command(*line)
    assert code == 2 and "beside that more; set --splits to" in err
    assert command(*line, "--splits", "train", "more")[0] == 0
    assert len(Tar(str(tmp_path / "more"), "more-0000.tar")) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch", "out", "--shards", "1"], "neither a folder nor a recipe"),
        (["simcrl", "out", "--shards", "1"], "recipe; did you mean 'simclr'"),
        (["{photos}", "out", "--shards", "0"], "--shards 0, but data has 24 samples"),
        (["{photos}", "out", "--shards", "25"], "--shards 25, but data has 24"),
        (["{photos}", "out", "a=b", "--shards", "1"], "a=b is for a recipe"),
    ],
)
def test_wrong_words_are_said(photos, tmp_path, command, arguments, words):
    given = [str(photos) if a == "{photos}" else a for a in arguments]
    given[1] = tmp_path / "out"
    code, _, err = command(*given)
    assert code == 2 and words in err


# --- samples of every kind ------------------------------------------------------------


class Samples(Dataset):
    def __init__(self, *samples):
        self.samples_of_mine = samples

    def __len__(self):
        return len(self.samples_of_mine)

    def __getitem__(self, index):
        return self.samples_of_mine[index]


class Endless(IterableDataset):
    def __iter__(self):
        yield 0


BYTES = CHANCE.integers(0, 256, (9, 7, 3), "uint8")
KINDS = {
    "colours": Image.fromarray(BYTES),
    "grey": Image.fromarray(BYTES[..., 0]),
    "palette": Image.fromarray(BYTES).quantize(16),
    "array": BYTES,
    "tensor": torch.from_numpy(BYTES[..., 0].copy())[None],
    "deep": (CHANCE.random((9, 7)) * 65535).astype("uint16"),
    "floats": torch.rand(3, 9, 7),
    "bands": CHANCE.random((40, 30, 12)).astype("float32"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_any_kind_comes_back(tmp_path, kind):
    data = packed(Samples((KINDS[kind], 3), (KINDS[kind], None)), tmp_path)
    decode = Decode()
    assert torch.equal(decode(data[0][0]), decode(KINDS[kind]))
    assert data.labels.tolist() == [3, -1]


def test_what_is_no_image_comes_back_and_what_is_beside_it(tmp_path):
    series = CHANCE.normal(size=(2, 50))
    data = packed(Samples(*[(series, 1, {"site": "a", "age": 3})] * 2), tmp_path)
    assert numpy.array_equal(data[0][0], series)
    data = Tar(str(tmp_path), "some-*.tar", more="json")
    assert data[1][2] == {"json": {"site": "a", "age": 3}}


def test_what_a_shard_cannot_hold_is_refused(tmp_path):
    for sample, words in (
        (({"a": 1}, 0), "is a dict; a shard takes an image or an array"),
        ((BYTES, [0.1, 0.2]), "the label .0.1, 0.2.; a shard takes the number or"),
    ):
        with pytest.raises(ConfigError, match=words):
            packed(Samples(sample), tmp_path / words[:5], 1)
    with pytest.raises(ConfigError, match="iterable dataset.* map-style"):
        packed(Endless(), tmp_path)


def test_shards_are_packed_again_in_another_order(photos, tmp_path):
    folder = build_dataset({"name": "image_folder"}, str(photos))
    first = packed(folder, tmp_path / "first", 3)
    second = packed(first, tmp_path / "second", 4, seed=5)
    order = [int(re.search(r"/(\d+)\.jpg", path)[1]) for path in second.files()]
    assert sorted(order) == list(range(24)) != order
    assert [second.file(i) for i in range(24)] == [folder.file(n) for n in order]
    assert second.classes == folder.classes
    assert torch.equal(second.labels, folder.labels[order])


# --- promises -------------------------------------------------------------------------


def config_of(dataset, folder, *overrides, **data):
    """Return a small SimCLR on a train split of photographs."""
    crop = [{"name": "random_resized_crop", "size": 16}, {"name": "horizontal_flip"}]
    keys = ["log.run=run", "optim.epochs=2", "optim.scheduler.warmup_epochs=0"]
    keys += ["log.every_n_steps=1", "log.checkpoint.every_n_steps=3"]
    keys += ["log.eval.few_labels=[]", "log.eval.knn=null", "log.eval.linear=null"]
    keys += ["log.eval.untrained=false", "log.pictures=null", "log.monitor=null"]
    keys += ["++model.backbone.width=8", f"log.folder={folder}", *overrides]
    train = {"dataset": {**dataset, "image_transform": [crop, crop]}}
    nodes = {"train": train, "val": None, "test": None}
    options = {"batch_size": 4, "in_memory": 0.0, "num_classes": 2, **nodes, **data}
    return {**load_config("simclr", keys), "data": options}


def sources(photos, folder):
    """Return dataset nodes of a folder and of its shards."""
    images = build_dataset({"name": "image_folder"}, str(photos))
    packed(images, folder / "shards", 3)
    tar = {"name": "tar", "root": str(folder / "shards"), "shards": "some-*.tar"}
    return {"name": "image_folder", "root": str(photos)}, tar


def test_weights_are_those_of_the_folder(photos, tmp_path, rows):
    """From shards, with workers, killed in the middle of an epoch and resumed."""
    folder, tar = sources(photos, tmp_path)
    whole = SimCLR(config_of(folder, tmp_path / "whole"))
    whole.run()
    config = config_of(tar, tmp_path / "killed", num_workers=2)
    with pytest.raises(Killed):
        killed_at(SimCLR, 4)(config).run()
    resumed = SimCLR(config)
    resumed.run()
    assert "resumed at epoch" in (resumed.run_dir / "console.log").read_text()
    assert equal(final(whole.run_dir), final(resumed.run_dir))
    assert rows(whole.run_dir) == rows(resumed.run_dir)


def trained(dataset, folder, workers):
    """Train on this rank; return the bytes of all views, and the weights."""
    torch.set_num_threads(1)
    seen = []

    class Watched(SimCLR):
        def before_train_step(self):
            views, labels = self.data
            seen.append([*(view.clone() for view in views), labels.clone()])

    trainer = Watched(config_of(dataset, folder, num_workers=workers))
    trainer.run()
    return seen, {k: v.clone() for k, v in trainer.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_two_ranks_train_on_shards_as_on_the_folder(ranks, photos, tmp_path, workers):
    folder, tar = sources(photos, tmp_path)
    alone, _ = trained(folder, tmp_path / "alone", 0)
    first = ranks(2, trained, folder, str(tmp_path / "first"), 0)
    second = ranks(2, trained, tar, str(tmp_path / "second"), workers)
    for (_, weights), (_, others) in zip(first, second, strict=True):
        assert all(torch.equal(weights[name], others[name]) for name in weights)
    for step, whole in enumerate(alone):
        for i, view in enumerate(whole):
            parts = [seen[step][i] for seen, _ in second]
            assert torch.equal(view, torch.cat(parts))


@pytest.mark.slow
def test_a_killed_call_goes_on_to_the_same_bytes(photos, tmp_path):
    """Killed before writes, flushes and renames, evenly over the call."""

    def pack(out, last=0):
        """Return the exit code, and how many such operations there were."""
        line = [sys.executable, "-c", KILLED, photos, out, "--shards", 2]
        environment = {**os.environ, "LAST": str(last)}
        environment["STABLE_SSL_CACHE"] = f"{out}.cache"  # so that counts are alike
        done = subprocess.run(
            list(map(str, line)), env=environment, capture_output=True, text=True
        )
        return done.returncode, int(done.stdout.split()[-1]) if not last else None

    code, count = pack(tmp_path / "whole")
    assert code == 0 and count > 100
    right = content(tmp_path / "whole")
    for last in (1, count // 3, count * 2 // 3, count):
        out = tmp_path / f"out{last}"
        assert pack(out, last)[0] == -signal.SIGKILL
        there = content(out) if out.exists() else {}
        for name, data in there.items():
            assert name.endswith(".tmp") or data == right[name], name
        assert pack(out)[0] == 0
        assert content(out) == right, last


KILLED = """
import atexit, io, os, signal, sys
from stable_ssl.data import pack
from stable_ssl.commands import main

count, last = 0, int(os.environ["LAST"])


def counted(function):
    def call(*arguments):
        global count
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    return call


class Written(io.FileIO):
    write = counted(io.FileIO.write)


pack.open = lambda path, mode: (Written if mode == "wb" else open)(path, mode)
os.replace, os.fsync = counted(os.replace), counted(os.fsync)
atexit.register(lambda: print(count))
main(["pack", *sys.argv[1:]])
"""
