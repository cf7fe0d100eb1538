"""Labels beside rotations: the quickstart of sesemi, with the names changed."""

import json

import pytest
import yaml

from stable_ssl.checkpoint import load

pytestmark = pytest.mark.slow
BASE = """
defaults:
  - stable_ssl
  - _self_

data:
  batch_size_per_gpu: 16
  labelled: supervised
  train:
    supervised:
      dataset:
        name: image_folder
        subset: train
        image_transform: {_target_: stable_ssl.data.train_transforms, size: 32}
      shuffle: true
      pin_memory: false
      num_workers: 0
      drop_last: true
    rotation_prediction:
      dataset:
        name: image_folder
        subset: [train, val]
        image_transform: {_target_: stable_ssl.data.train_transforms, size: 32}
      shuffle: true
      collate_fn: {_target_: stable_ssl.data.RotationCollate}
      drop_last: true
  val:
    dataset:
      name: image_folder
      subset: val
      image_transform: {_target_: stable_ssl.data.center_crop_transforms, size: 32}
    shuffle: false
    drop_last: false

model:
  name: multitask
  backbone:
    provider: timm
    name: resnet10t
    freeze: false
    pretrained: false
    global_pool: avg
    drop_rate: 0.5
  loss: {_target_: torch.nn.CrossEntropyLoss}
  heads:
    supervised: {out_features: "${data.num_classes}"}
    rotation_prediction: {out_features: 4, scale: 1.0}
  predict: supervised

optim:
  optimizer: {_target_: torch.optim.SGD, momentum: 0.9, nesterov: true}
  lr: 0.1
  weight_decay: 0.0005
  epochs: 50
  scheduler: {name: polynomial, warmup_epochs: 10, warmup_lr: 0.001, power: 0.5}

log:
  monitor: val/acc1
  every_n_steps: 1
  checkpoint: {top_k: 1, last: true}
  eval: {linear: null, knn: null, offline: null}

notes:
  epoch: ${stable_ssl:iterations_per_epoch}
  all: ${stable_ssl:max_iterations}
  places: ["${stable_ssl:num_gpus}", "${stable_ssl:num_nodes}"]
"""
CUSTOM = """
defaults:
  - base_of_mine
  - _self_

data:
  root: ./data/digits
  num_classes: 10

optim:
  epochs: 2
  scheduler: {warmup_epochs: 1}

hardware:
  seed: 42
  gpus: -1

log:
  folder: ./runs
  experiment: digits
"""
INK = """

from torchvision.datasets import ImageFolder

from stable_ssl.data import register_dataset
from stable_ssl.methods import method_class


@register_dataset("inked")
def inked(root, subset=None):
    return ImageFolder(f"{root}/digits/{subset}")


class Model(method_class("supervised")):
    '''The method that there is, on the dataset that is registered above.'''
"""


def rows(run):
    """Return the lines of a run's metrics.jsonl."""
    return list(map(json.loads, (run / "metrics.jsonl").read_text().splitlines()))


@pytest.fixture(scope="module")
def desk(desk):
    """Make the folders configs, data, runs and src, and write the custom config."""
    for name in ("configs", "data", "runs", "src"):
        (desk.folder / name).mkdir()
    desk.digits("data/digits/train", per_class=8)
    desk.digits("data/digits/val", per_class=3)
    desk.write("configs/base_of_mine.yaml", BASE)
    desk.write("configs/custom.yaml", CUSTOM)
    return desk


@pytest.fixture(scope="module")
def run(desk):
    desk.type("stable-ssl -cd configs -cn custom")
    (run,) = desk.runs("digits", "runs")
    return run


def test_help_shows_the_groups_and_the_whole_config(desk):
    said = desk.type("stable-ssl -cn stable_ssl -h")
    assert "powered by Hydra" in said and "data: cifar10" in said
    shown = said.partition("Override anything in the config (foo.bar=value)")[2]
    shown = yaml.safe_load(shown.partition("Powered by Hydra")[0])
    assert {"mode", "data", "model", "optim", "hardware", "log"} <= set(shown)
    assert shown["mode"] == "fit" and shown["optim"]["epochs"] is None
    assert shown["data"]["train"] is None


def test_a_wrong_type_is_refused(desk):
    said = desk.type("stable-ssl optim.epochs=many", status=2)
    assert "optim.epochs" in said and "many" in said and "Traceback" not in said


def test_any_nested_key_is_set_on_the_command_line(desk):
    said = desk.type(
        "stable-ssl optim.epochs=100 data.train.dataset.subset=val --cfg job"
    )
    config = yaml.safe_load(said)
    assert config["optim"]["epochs"] == 100
    assert config["data"]["train"]["dataset"]["subset"] == "val"


def test_a_built_in_configuration_works_out_of_the_box(desk):
    folder = "data.root=data/digits fast_dev_run=true"
    said = desk.type(
        f"stable-ssl -cn multitask_folder {folder} data.batch_size_per_gpu=1"
    )
    assert "val/acc1" in said


def test_info_of_the_custom_config(desk):
    said = desk.type("stable-ssl -cd configs -cn custom --info")
    assert "base_of_mine" in said and "seed: 42" in said


def test_the_custom_config_runs(desk, run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["hardware"]["seed"] == 42
    assert (run / "data" / "params.yaml").is_file()
    first = next(row for row in rows(run) if "train/loss" in row)
    assert {"train/supervised", "train/rotation_prediction"} <= set(first)
    total = first["train/supervised"] + first["train/rotation_prediction"]
    assert first["train/loss"] == pytest.approx(total, rel=1e-4)


def test_runtime_values_are_those_of_the_run(run):
    notes = yaml.safe_load((run / "config.yaml").read_text())["notes"]
    last = load(run / "ckpts" / "last.ckpt")
    assert notes["all"] == last["step"] == 2 * notes["epoch"]
    assert notes["epoch"] == 110 // 16  # the longest loader: of train and val
    assert notes["places"][1] == 1


def test_the_learning_rate_warms_up_and_falls_by_a_root(run):
    rates = {row["step"]: row["train/lr"] for row in rows(run) if "train/lr" in row}
    steps = len(rates)
    assert min(rates.values()) == rates[1] < 0.02
    assert max(rates.values()) <= 0.1 + 1e-9
    assert rates[steps] < max(rates.values())


def test_the_best_and_the_last_are_kept(run):
    accuracy = {r["step"]: r["val/acc1"] for r in rows(run) if "val/acc1" in r}
    best = load(run / "ckpts" / "best.ckpt")
    assert accuracy[best["step"]] == max(accuracy.values())
    assert load(run / "ckpts" / "last.ckpt")["epoch"] == 2
    assert len(list((run / "ckpts").glob("e*.ckpt"))) <= 2


def test_weights_alone_or_the_whole_state(desk, run):
    last = f"{run}/ckpts/last.ckpt"
    line = "stable-ssl -cd configs -cn custom"
    desk.type(f"{line} log.resume={last} log.run=resumed optim.epochs=3")
    desk.type(f"{line} log.load_from={last} log.run=begun optim.epochs=1")
    resumed = load(run.with_name("resumed") / "ckpts" / "last.ckpt")
    begun = load(run.with_name("begun") / "ckpts" / "last.ckpt")
    assert (resumed["epoch"], begun["epoch"]) == (3, 1)


def test_modes_of_a_run(desk, run):
    last = f"log.load_from={run}/ckpts/last.ckpt"
    line = f"stable-ssl -cd configs -cn custom mode=validate {last} log.run=seen"
    desk.type(line)
    (seen,) = [row for row in rows(run.with_name("seen")) if "val/acc1" in row]
    assert seen["val/acc1"] == rows(run)[-1]["val/acc1"]


def test_epochs_and_iterations_contradict(desk):
    said = desk.type("stable-ssl -cd configs -cn custom optim.steps=5", status=2)
    assert "optim.epochs=2 contradicts optim.steps=5" in said


def test_code_in_src_registers_a_dataset(desk):
    desk.write("src/inked.py", INK)
    desk.write(
        "configs/inked.yaml",
        """
        defaults:
          - supervised
          - override data: null
          - _self_
        data:
          root: data
          num_classes: 10
          batch_size: 16
          train:
            dataset:
              name: inked
              subset: train
              image_transform: {_target_: stable_ssl.data.train_transforms, size: 32}
          val:
            dataset:
              name: inked
              subset: val
              image_transform:
                {_target_: stable_ssl.data.center_crop_transforms, size: 32}
        model: {name: inked.Model}
        optim: {epochs: 1}
        log: {folder: runs, experiment: inked}
        """,
    )
    desk.type("stable-ssl -cd configs -cn inked")
    (run,) = desk.runs("inked", "runs")
    assert "val/acc1" in rows(run)[-1]
