"""BYOL on a folder of one's own: the tutorial of quadra, with the names changed."""

import csv
import json

import pytest
import torch
import yaml

from stable_ssl.checkpoint import load
from stable_ssl.config import complete
from stable_ssl.data import build_loaders

pytestmark = pytest.mark.slow
CUSTOM = "stable-ssl -cd configs experiment=custom_experiment/byol"
THREE = "optim.epochs=3 optim.scheduler.warmup_epochs=0 log.eval.every_n_epochs=1"
STEPS = "optim.epochs=null optim.steps=2 log.export.types=[]"
EXPERIMENT = """
# @package _global_
defaults:
  - /byol_folder
  - _self_

model:
  backbone:  # let's use a different backbone instead of the resnet
    {provider: timm, name: vit_tiny_patch16_224, img_size: 32}

optim:
  epochs: 1000

data:
  root: dataset
  batch_size: 32
  num_workers: 0
  transforms:
    size: 32
    resize: 32
"""
NO_BLUR = """\
    own_crop:
      _target_: albumentations.RandomResizedCrop
      size: ["${data.transforms.size}", "${data.transforms.size}"]
      scale: [0.08, 1.0]
    view_a:
      - ${data.transforms.own_crop}
      - ${data.transforms.flip}
      - ${data.transforms.jitter}
      - ${data.transforms.gray}
      # remove gaussian blur
      - ${data.transforms.normalize}
    view_b:
      - ${data.transforms.own_crop}
      - ${data.transforms.flip}
      - ${data.transforms.jitter}
      - ${data.transforms.gray}
      # remove gaussian blur
      - {name: solarize, p: 0.2}
      - ${data.transforms.normalize}
"""


def splits(run):
    """Return the images of each split, as the run has recorded them."""
    found = {}
    with open(run / "data" / "splits.csv", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["split"], set()).add(row["path"])
    return found


def rows(run):
    """Return the lines of a run's metrics.jsonl."""
    return list(map(json.loads, (run / "metrics.jsonl").read_text().splitlines()))


@pytest.fixture(scope="module")
def desk(desk):
    """Write dataset/class/image, and an experiment for it."""
    desk.digits("dataset")
    desk.write("configs/experiment/custom_experiment/byol.yaml", EXPERIMENT)
    return desk


@pytest.fixture(scope="module")
def run(desk):
    desk.type(f"{CUSTOM} {THREE}")
    (run,) = desk.runs("byol_folder")
    return run


def test_the_base_experiment_is_the_one_described(desk):
    config = yaml.safe_load(desk.type("stable-ssl -cn byol_folder --cfg job"))
    data, model, optim = config["data"], config["model"], config["optim"]
    assert (model["name"], model["backbone"]["name"]) == ("byol", "resnet18")
    assert (optim["optimizer"], optim["lr"], optim["epochs"]) == ("lars", 0.4, 500)
    assert optim["scheduler"]["name"] == "cosine"
    assert optim["scheduler"]["warmup_epochs"] > 0
    assert (data["batch_size"], data["num_workers"]) == (256, 12)
    for part in ("train", "val", "test"):
        dataset = data[part]["dataset"]
        assert (dataset["val_size"], dataset["test_size"]) == (0.3, 0.1)
    assert len(data["train"]["dataset"]["image_transform"]) == 2
    assert config["hardware"]["precision"] == "float16"
    log = config["log"]
    assert (log["eval"]["every_n_epochs"], log["eval"]["knn"]["k"]) == (10, 20)
    assert log["eval"]["sanity_steps"] == 0
    assert log["monitor"] == "val/knn_acc1"
    assert log["export"]["types"] == ["torchscript"]


def test_the_output_folder_has_the_entries_that_are_named(run):
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "ckpts",
        "config.yaml",
        "config_tree.txt",
        "data",
        "deployment",
        "console.log",
    }
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["backbone"]["name"] == "vit_tiny_patch16_224"
    assert config["optim"]["optimizer"] == "lars"


def test_without_lists_the_shares_decide_the_split(run):
    found = splits(run)
    assert {name: len(images) for name, images in found.items()} == {
        "train": 120,
        "val": 60,
        "test": 20,
    }
    parameters = yaml.safe_load((run / "data" / "params.yaml").read_text())
    assert parameters["batch_size"] == 32
    assert parameters["val"]["dataset"]["val_size"] == 0.3


def test_knn_validates_and_the_best_epoch_is_kept(run):
    knn = {
        row["step"]: row["val/knn_acc1"] for row in rows(run) if "val/knn_acc1" in row
    }
    assert len(knn) == 3
    best = load(run / "ckpts" / "best.ckpt")
    assert knn[best["step"]] == max(knn.values())
    assert load(run / "ckpts" / "last.ckpt")["epoch"] == 3
    assert "test/knn_acc1" in rows(run)[-1]


def test_the_model_for_deployment_needs_torch_alone(desk, run):
    script = desk.write(
        "serve.py",
        """
        import sys

        import torch

        model = torch.jit.load(sys.argv[1])
        torch.save(model(torch.load("image.pt")), "features.pt")
        assert "stable_ssl" not in sys.modules
        """,
    )
    torch.save(torch.rand(1, 3, 32, 32), desk.folder / "image.pt")
    desk.type(f"python {script} {run}/deployment/encoder.pt")
    assert torch.load(desk.folder / "features.pt").shape == (1, 192)


def test_the_split_of_a_run_can_be_used_again(desk, run):
    file = f"{run}/data/splits.csv"
    parts = " ".join(
        f"+data.{part}.dataset.split_file={file}" for part in ("train", "val", "test")
    )
    desk.type(f"{CUSTOM} {STEPS} {parts} hardware.seed=7 log.run=again")
    again = run.with_name("again")
    assert splits(again) == splits(run)


def test_lists_in_the_dataset_decide_the_split(desk):
    paths = sorted((desk.folder / "dataset").rglob("*.png"))
    names = [path.relative_to(desk.folder / "dataset").as_posix() for path in paths]
    lists = {"train": names[::2], "val": names[1::4], "test": names[3::4]}
    for part, lines in lists.items():
        desk.write(f"dataset/{part}.txt", "\n".join(lines) + "\n")
    desk.type(f"{CUSTOM} {STEPS} log.run=listed")
    listed = desk.folder / "logs" / "runs" / "byol_folder" / "listed"
    assert splits(listed) == {part: set(lines) for part, lines in lists.items()}


def test_validation_is_not_required(desk):
    line = f"{CUSTOM} {STEPS} log.run=unseen data.val=null"
    said = desk.type(line, status=2)
    assert "log.monitor=null" in said  # nothing to rank checkpoints by
    desk.type(f"{line} log.monitor=null")
    unseen = desk.folder / "logs" / "runs" / "byol_folder" / "unseen"
    assert not any("val/knn_acc1" in row for row in rows(unseen))
    assert load(unseen / "ckpts" / "last.ckpt")["step"] == 2


def test_bfloat16_instead_of_float16_is_one_word(desk, run):
    desk.type(f"{CUSTOM} {STEPS} log.run=half hardware.precision=bfloat16")
    half = run.with_name("half")
    used = [yaml.safe_load((r / "config.yaml").read_text()) for r in (run, half)]
    assert [c["hardware"]["precision"] for c in used] == ["float16", "bfloat16"]
    assert "test/knn_acc1" in rows(half)[-1]


@pytest.mark.skipif(torch.cuda.device_count() > 2, reason="there is a GPU of that id")
def test_a_gpu_that_is_not_there_is_refused_in_words(desk):
    said = desk.type(f"{CUSTOM} hardware.gpus=[2]", status=2)
    assert "hardware.gpus=[2]" in said and "Traceback" not in said


def test_transformations_of_ones_own_replace_the_default_ones(desk):
    pytest.importorskip("albumentations")
    desk.write("configs/experiment/custom_experiment/byol.yaml", EXPERIMENT + NO_BLUR)
    desk.type(f"{CUSTOM} {STEPS} log.run=no_blur")
    done = desk.folder / "logs" / "runs" / "byol_folder" / "no_blur"
    config = complete(yaml.safe_load((done / "config.yaml").read_text()))
    drawn = config.data.train.dataset.image_transform
    assert "gaussian_blur" not in str(drawn)
    assert [len(view) for view in drawn] == [5, 6]
    config.data.root = str(desk.folder / "dataset")
    loader = build_loaders(config, torch.device("cpu"))["train"]
    (view_a, view_b), _ = next(iter(loader))
    assert view_a.shape == view_b.shape == (32, 3, 32, 32)
    assert all((a - b).abs().max() > 0.1 for a, b in zip(view_a, view_b, strict=True))


def test_from_self_supervision_to_classification_with_the_same_data(desk):
    classify = "model.name=supervised log.eval.linear=null log.monitor=val/acc1"
    view = "data.train.dataset.image_transform='${data.transforms.view_a}'"
    desk.type(f"{CUSTOM} {STEPS} log.run=classes {classify} {view}")
    done = desk.folder / "logs" / "runs" / "byol_folder" / "classes"
    assert "test/acc1" in rows(done)[-1]
