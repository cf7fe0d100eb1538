"""Weights shared out by block: N processes are one, and each holds its part alone."""

import errno
import hashlib
import os
import pickle
import re
import shutil

import pytest
import torch
from torch import nn

from stable_ssl import ConfigError, load_config
from stable_ssl.checkpoint import load, save
from stable_ssl.distributed.sharding import blocks, is_sharded, local
from stable_ssl.methods import DINO, MAE, SimCLR
from stable_ssl.tensor_files import CorruptCheckpoint

METHODS = {"simclr": SimCLR, "dino": DINO, "mae": MAE}
QUICK = ["optim.epochs=null", "optim.steps=3", "optim.scheduler.warmup_epochs=0"]
QUICK += ["data.batch_size=32", "log.monitor=null", "log.every_n_steps=1"]
QUICK += ["log.eval.untrained=false", "log.eval.few_labels=[]", "log.run=run"]
QUICK += ["log.eval.every_n_epochs=1", "log.pictures=null"]
VIT = ["model.backbone.name=vit", "++model.backbone.image_size=8"]
VIT += ["++model.backbone.patch_size=2", "++model.backbone.dim=32"]
VIT += ["++model.backbone.depth=2", "++model.backbone.heads=2"]


def doubled(value):
    if isinstance(value, (list, tuple)):
        return type(value)(map(doubled, value))
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.double() if floating else value


def in_float64(method):
    """Return the method in float64, which shows what rounding would hide."""

    class Double(method):
        def initialize_modules(self):
            super().initialize_modules()
            self.double()

        def forward(self, x):
            return super().forward(doubled(x))

        def compute_loss(self):
            self.data = doubled(self.data)
            return super().compute_loss()

    return Double


def train(name, folder, *overrides):
    """Train; return the parts of each parameter that this process holds."""
    torch.set_num_threads(1)
    config = load_config(name, [*QUICK, *VIT, f"log.folder={folder}", *overrides])
    parts = {}

    plain = "data.root=float32" in overrides

    class Watched(METHODS[name] if plain else in_float64(METHODS[name])):
        def after_train_step(self):
            super().after_train_step()
            for path, p in self.named_parameters():
                parts[path] = is_sharded(p), local(p).numel(), p.numel()

    trainer = Watched(config)
    trainer.run()
    return parts


def state(folder, name):
    return load(folder / "runs" / name / "run" / "ckpts" / "last.ckpt")


def flat(value):
    """Yield the tensors and numbers of a state."""
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value, key=str)]
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from flat(entry)
    elif isinstance(value, (torch.Tensor, float)):
        yield torch.as_tensor(value).double().flatten()


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "n", "overrides"),
    [
        ("dino", 2, ["optim.accumulate=2", "optim.grad_max_norm=0.1"]),
        pytest.param("simclr", 2, ["optim.optimizer=lars"], marks=SLOW),
        pytest.param("simclr", 4, ["optim.optimizer=sgd"], marks=SLOW),
        pytest.param("mae", 2, [], marks=SLOW),
        pytest.param("simclr", 2, ["++model.checkpointing=true"], marks=SLOW),
        pytest.param("mae", 4, ["optim.accumulate=2"], marks=SLOW),
    ],
)
def test_processes_that_share_the_weights_train_as_one(
    ranks, rows, tmp_path, name, n, overrides
):
    train(name, tmp_path / "one", *overrides)
    folder = str(tmp_path / "several")
    by_rank = ranks(n, train, name, folder, "hardware.sharding=full", *overrides)
    for parts in by_rank:
        shared = {path: part for path, part in parts.items() if part[0]}
        assert all("blocks." in path for path in shared)
        assert any("teacher" in path for path in shared) == (name == "dino")
        held, whole = (sum(part[i] for part in shared.values()) for i in (1, 2))
        assert held == pytest.approx(whole / n, rel=0.05)
    one, several = state(tmp_path / "one", name), state(tmp_path / "several", name)
    assert one["modules"].keys() == several["modules"].keys()
    for path, weight in one["modules"].items():
        torch.testing.assert_close(several["modules"][path], weight, rtol=0, atol=1e-10)
    a, b = (rows(tmp_path / f / "runs" / name / "run") for f in ("one", "several"))
    assert [row.keys() for row in a] == [row.keys() for row in b]
    for x, y in zip(a, b, strict=True):
        assert x == pytest.approx(y, abs=1e-4)


@pytest.mark.slow
def test_blocks_compute_in_the_precision_of_the_run(ranks, rows, tmp_path):
    bfloat16 = "hardware.precision=bfloat16"
    losses = []
    for sharding in ("none", "full"):
        arguments = str(tmp_path / sharding), f"hardware.sharding={sharding}", bfloat16
        ranks(2, train, "mae", *arguments, "data.root=float32")
        found = rows(tmp_path / sharding / "runs" / "mae" / "run")
        losses.append([row["train/loss"] for row in found if "train/loss" in row])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("n", [(2, 1, 4), (4, 2, 1)])
def test_a_run_goes_on_with_another_number_of_processes(ranks, tmp_path, n):
    """Weights and the optimizer's state are gathered, and shared out anew."""
    constant = "optim.scheduler.name=null", "hardware.sharding=full"
    for processes, steps in zip(n, (2, 4, 6), strict=True):
        arguments = str(tmp_path / "several"), f"optim.steps={steps}", *constant
        ranks(processes, train, "mae", *arguments)
    ranks(1, train, "mae", str(tmp_path / "whole"), "optim.steps=6", *constant)
    whole, several = (state(tmp_path / f, "mae") for f in ("whole", "several"))
    for key in ("modules", "optimizers"):
        for a, b in zip(flat(whole[key]), flat(several[key]), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-8)


def test_the_blocks_of_a_network():
    import timm

    vit = timm.create_model("vit_tiny_patch16_224", depth=3, num_classes=0)
    assert blocks(vit) == list(vit.blocks)
    resnet = timm.create_model("resnet18", num_classes=0)
    layers = (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)
    assert blocks(resnet) == [block for layer in layers for block in layer]
    assert not blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))


def test_what_does_not_go_with_it_is_refused(tmp_path):
    for key in ("hardware.compile=true", "hardware.precision=float16"):
        with pytest.raises(ConfigError, match=re.escape(key)):
            load_config("simclr", ["hardware.sharding=full", key])
    keys = [*QUICK, f"log.folder={tmp_path}", "hardware.sharding=full"]
    with pytest.raises(ConfigError, match="by mode=export hardware.sharding=none"):
        SimCLR(load_config("simclr", [*keys, "log.export.types=[torch_export]"])).run()
    trainer = SimCLR(load_config("simclr", [*keys, "model.backbone.name=convnet"]))
    with pytest.raises(ConfigError, match="blocks of a network, and found none"):
        trainer.run()


def test_a_run_is_not_gone_on_with_otherwise(tmp_path):
    train("simclr", tmp_path, "optim.steps=1")
    with pytest.raises(ConfigError, match="hardware.sharding=none, not full"):
        train("simclr", tmp_path, "optim.steps=2", "hardware.sharding=full")


# --- checkpoints ----------------------------------------------------------------------


EVERY = "log.checkpoint.every_n_steps=1"


def saved(folder, *overrides):
    """Train MAE with its weights shared out, to one process; return its checkpoints."""
    keys = "hardware.sharding=full", "data.root=float32", EVERY, *overrides
    train("mae", folder, *keys)
    return folder / "runs" / "mae" / "run" / "ckpts"


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    saved(folder, "optim.steps=2")
    return folder


@pytest.fixture
def checkpoints(two_steps, tmp_path):
    """Return the folder of two sharded checkpoints, in a run that may be changed."""
    shutil.copytree(two_steps, tmp_path, dirs_exist_ok=True)
    return tmp_path / "runs" / "mae" / "run" / "ckpts"


@pytest.mark.slow
def test_each_process_writes_and_reads_its_part_alone(ranks, tmp_path):
    arguments = "mae", str(tmp_path), "hardware.sharding=full"
    ranks(2, train, *arguments, "optim.steps=2")
    folder = tmp_path / "runs" / "mae" / "run" / "ckpts"
    (shards,) = folder.glob("*.shards")
    names = {path.name for path in shards.iterdir()}
    assert names == {".metadata", "__0_0.distcp", "__1_0.distcp"}
    hollow = torch.load(folder / "last.ckpt", weights_only=True)
    away = {n for n, t in hollow["modules"].items() if t.device.type == "meta"}
    assert away == {n for n in away if "blocks." in n} != set()
    whole = load(folder / "last.ckpt")
    assert hollow["modules"]._metadata == whole["modules"]._metadata != {}
    assert not any(t.is_meta for t in whole["modules"].values())
    for by_rank in ranks(2, resumed_parts, *arguments, "optim.steps=4"):
        for is_part, held, all_of_it in by_rank:
            assert is_part and held < all_of_it


def resumed_parts(name, folder, *overrides):
    """Return of each sharded weight how much a process read of it, and of how much."""
    torch.set_num_threads(1)
    config = load_config(name, [*QUICK, *VIT, f"log.folder={folder}", *overrides])
    trainer = in_float64(METHODS[name])(config)
    trainer.setup()
    read = trainer.resumed_state["modules"]
    names = [n for n, p in trainer.named_parameters() if is_sharded(p)]
    trainer.cleanup()
    parts = [(is_sharded(t), local(t).numel(), t.numel()) for t in map(read.get, names)]
    return [part for part in parts if part[2] > 64]  # a row for each process


def test_shards_that_no_checkpoint_names_are_deleted(checkpoints):
    """What a kill between the shards and their file leaves, and what is surplus."""
    files = {path.stem for path in checkpoints.glob("e*.ckpt")}
    assert {p.name.split(".")[0] for p in checkpoints.glob("*.shards")} == files
    assert len(files) == len(list(checkpoints.glob("*.shards"))) == 2
    (checkpoints / "e009_s000099.0.shards").mkdir()
    newest = max(checkpoints.glob("*_s000002.*.shards")).name
    (checkpoints / newest.replace(".0.", ".1.")).mkdir()  # of a step saved twice
    saved(checkpoints.parents[3], "optim.steps=4")
    assert len(list(checkpoints.glob("*.shards"))) == 2
    assert load(checkpoints / "last.ckpt")["step"] == 4


def test_damaged_shards_are_said_and_the_checkpoint_before_is_taken(checkpoints):
    shards = max(checkpoints.glob("*.shards"))
    part = shards / "__0_0.distcp"
    content = part.read_bytes()
    flipped = content[:99] + bytes([content[99] ^ 1]) + content[100:]
    for damage in (content[:-9], flipped):
        part.write_bytes(damage)
        with pytest.raises(CorruptCheckpoint, match="truncated or changed"):
            load(checkpoints / "last.ckpt")
    shutil.rmtree(shards)
    with pytest.raises(CorruptCheckpoint, match="of its shards is missing"):
        load(checkpoints / "last.ckpt")
    with pytest.warns(UserWarning, match="trying the one before"):
        saved(checkpoints.parents[3], "optim.steps=3")
    assert load(checkpoints / "last.ckpt")["step"] == 3


def test_a_file_without_its_shards_says_so(checkpoints, tmp_path):
    alone = tmp_path / "copied.ckpt"
    shutil.copyfile(checkpoints / "last.ckpt", alone)
    with pytest.raises(CorruptCheckpoint, match="of its shards is missing"):
        load(alone)


class Calls:
    def __reduce__(self):
        return os.system, ("false",)


def test_a_table_of_shards_calls_nothing(checkpoints):
    last = checkpoints / "last.ckpt"
    state = torch.load(last, weights_only=True)
    table = checkpoints / state["shards"]["folder"] / ".metadata"
    table.write_bytes(pickle.dumps(Calls()))
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    state["shards"]["files"][".metadata"] = digest
    save(last, state)
    with pytest.raises(CorruptCheckpoint, match="holds more than tensors"):
        load(last)


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    from torch.distributed.checkpoint import FileSystemWriter

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FileSystemWriter, "write_data", full)
    with pytest.raises(ConfigError, match="shards could not be written: No space left"):
        saved(tmp_path, "optim.steps=1")
