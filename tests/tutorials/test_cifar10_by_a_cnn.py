"""CIFAR-10 by a CNN: the tutorial of malpolon, with the names changed."""

import csv
import json

import pytest
import torch

from stable_ssl.checkpoint import load

pytestmark = pytest.mark.slow
CONFIG = """
defaults:
  - supervised_cifar10_sgd
  - _self_

data:
  num_classes: 10
  root: dataset
  batch_size: 20
  eval_batch_size: 20
  num_workers: 0

model:
  task: multiclass
  backbone:
    provider: timm
    name: resnet18
    stem: null
    pretrained: false
    in_channels: 3
    output_stride: 8
    global_pool: avg
    modifiers:
      change_first_convolutional_layer: {num_input_channels: 3}
      change_last_layer: {num_outputs: 64}

optim:
  lr: 0.001
  weight_decay: 1.0e-4
  momentum: 0.9
  nesterov: true
  epochs: 2

hardware:
  accelerator: cpu

log:
  experiment: cnn_cifar10
  every_n_steps: 1
  eval: {every_n_epochs: 1, every_n_steps: 1}
  metrics:
    accuracy:
      callable: torchmetrics.functional.classification.multiclass_accuracy
      kwargs: {num_classes: "${data.num_classes}", average: micro}
"""
SCRIPT = """
import stable_ssl

if __name__ == "__main__":
    stable_ssl.launch(config_name="cnn_cifar10", config_path="config")
"""


def rows(run):
    """Return the lines of a run's metrics.jsonl."""
    return list(map(json.loads, (run / "metrics.jsonl").read_text().splitlines()))


def table(path):
    """Return the rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def desk(desk):
    desk.write("cnn_cifar10.py", SCRIPT)
    desk.write("config/cnn_cifar10.yaml", CONFIG)
    return desk


@pytest.fixture(scope="module")
def trained(desk, cifar):
    """Train by one command; return the run folder."""
    pytest.importorskip("torchmetrics")
    desk.type("python cnn_cifar10.py", **cifar)
    (run,) = desk.runs("cnn_cifar10")
    return run


def test_missing_data_are_downloaded(trained, desk):
    place = desk.folder / "dataset" / "cifar-10-batches-py"
    assert {path.name for path in place.iterdir()} >= {"data_batch_5", "test_batch"}


def test_weights_logs_and_metrics_are_in_the_folder_of_the_date(trained):
    assert (trained / "ckpts" / "last.ckpt").is_file()
    assert "val/acc1" in (trained / "console.log").read_text()
    date, time, job = trained.name.split("_")
    assert (len(date), len(time), job) == (8, 6, "0")
    last = rows(trained)[-1]
    assert last["val/accuracy"] == pytest.approx(last["val/acc1"], abs=1e-6)


def test_steps_and_epochs_say_when_to_validate_and_to_log(trained):
    seen = rows(trained)
    assert [r["step"] for r in seen if "train/loss" in r] == [1, 2, 3, 4]
    assert [r["step"] for r in seen if "val/acc1" in r] == [1, 2, 3, 4]


def test_the_command_line_overrules_the_file(desk, cifar):
    line = "python cnn_cifar10.py data.root=elsewhere fast_dev_run=true"
    desk.type(f"{line} hardware.gpus=0 optim.lr=0.01", **cifar)
    assert (desk.folder / "elsewhere" / "cifar-10-batches-py").is_dir()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_in_words(desk):
    line = "python cnn_cifar10.py hardware.accelerator=gpu hardware.gpus=1"
    said = desk.type(line, status=2)
    assert "hardware.gpus=1" in said and "Traceback" not in said


def test_prediction_takes_a_mode_and_a_checkpoint(desk, cifar, trained):
    checkpoint = f"{trained}/ckpts/last.ckpt"
    desk.type(
        f"python cnn_cifar10.py mode=predict log.load_from={checkpoint} log.run=told",
        **cifar,
    )
    told = trained.with_name("told")
    predictions = table(told / "predictions.csv")
    assert [int(row["index"]) for row in predictions] == list(range(20))
    right = [row["prediction_name"] == row["label_name"] for row in predictions]
    assert predictions[0]["label_name"].startswith("class_")
    assert sum(right) / 20 == pytest.approx(rows(trained)[-1]["val/acc1"], abs=1e-6)
    for row in table(told / "scores.csv"):
        del row["index"]
        assert len(row) == 10
        assert sum(map(float, row.values())) == pytest.approx(1, abs=1e-4)


def test_a_resumed_training_has_a_folder_of_its_own(desk, cifar, trained):
    before = (trained / "metrics.jsonl").read_bytes()
    resume = f"log.resume={trained}/ckpts/last.ckpt log.run=resumed optim.epochs=3"
    desk.type(f"python cnn_cifar10.py {resume}", **cifar)
    resumed = trained.with_name("resumed")
    steps = [row["step"] for row in rows(resumed) if "train/loss" in row]
    assert steps[-2:] == [5, 6]
    assert (trained / "metrics.jsonl").read_bytes() == before
    assert load(resumed / "ckpts" / "last.ckpt")["step"] == 6


def test_transfer_to_cifar100_with_a_new_classifier(desk, cifar, trained):
    other = "data.train.dataset.name=CIFAR100 data.val.dataset.name=CIFAR100"
    start = f"log.load_from={trained}/ckpts/last.ckpt log.run=hundred optim.epochs=1"
    line = f"python cnn_cifar10.py {other} {start} data.num_classes=100"
    said = desk.type(line, **cifar)
    assert "classifier.weight" in said  # not loaded
    hundred = load(trained.with_name("hundred") / "ckpts" / "last.ckpt")
    assert hundred["modules"]["classifier.weight"].shape == (100, 64)


def test_debugging_keeps_nothing(desk, cifar, trained):
    before = desk.runs("cnn_cifar10")
    line = "python cnn_cifar10.py data.root=dataset fast_dev_run=true"
    desk.type(f"{line} hydra.job.name=test", **cifar)
    assert desk.runs("cnn_cifar10") == before


MULTILABEL = """
import torch
from torch.utils.data import Dataset
from torchvision.datasets import CIFAR10


class Strokes(Dataset):
    num_classes = 2

    def __init__(self, root, train):
        self.images = CIFAR10(root, train)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image, label = self.images[index]
        return image, torch.tensor([label % 2, label > 4])  # odd, large
"""


def test_the_task_may_be_multilabel(desk, cifar, trained):
    desk.write("strokes.py", MULTILABEL)
    desk.write(
        "config/strokes.yaml",
        """
        defaults:
          - supervised
          - override data: null
          - _self_
        data:
          root: .
          num_classes: 2
          batch_size: 20
          train:
            dataset:
              _target_: strokes.Strokes
              root: dataset
              train: true
              image_transform: {_target_: stable_ssl.data.train_transforms, size: 32}
          val:
            dataset:
              _target_: strokes.Strokes
              root: dataset
              train: false
              image_transform:
                {_target_: stable_ssl.data.center_crop_transforms, size: 32}
        model:
          task: multilabel
          backbone: {name: convnet}
        optim: {epochs: 1}
        log:
          experiment: strokes
          monitor: val/map
          eval: {knn: null}
          metrics:
            each:
              callable: torchmetrics.functional.classification.multilabel_accuracy
              kwargs: {num_labels: 2}
        """,
    )
    desk.type("python cnn_cifar10.py --config-name=strokes", **cifar)
    (run,) = desk.runs("strokes")
    assert 0 <= rows(run)[-1]["val/each"] <= 1
    assert 0 <= rows(run)[-1]["val/map"] <= 1


def test_the_task_may_be_binary(desk):
    desk.digits("pairs", classes=2)
    desk.write(
        "config/pairs.yaml",
        """
        defaults:
          - supervised
          - override data: null
          - _self_
        data:
          root: pairs
          batch_size: 8
          train:
            dataset:
              name: image_folder
              subset: train
              val_size: 0.2
              image_transform: {_target_: stable_ssl.data.train_transforms, size: 32}
          val:
            dataset:
              name: image_folder
              subset: val
              val_size: 0.2
              image_transform:
                {_target_: stable_ssl.data.center_crop_transforms, size: 32}
        model: {task: binary}
        optim: {epochs: 1}
        log: {experiment: pairs}
        """,
    )
    desk.type("python cnn_cifar10.py --config-name=pairs")
    (run,) = desk.runs("pairs")
    assert "val/acc1" in rows(run)[-1]
