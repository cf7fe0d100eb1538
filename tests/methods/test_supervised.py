"""Supervised classification of three tasks: loss, cast and metrics follow the task."""

from pathlib import Path

import pytest
import torch

from stable_ssl import ConfigError, Supervised
from stable_ssl.data.datasets import Images, digits

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = "tests.methods.test_supervised"


class ManyLabels(Images):
    """Images whose labels are a row of 0 and 1 each."""

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


def odd(subset):
    """Return digits that are odd, 1, or even, 0."""
    held = digits(subset=subset)
    return Images(held.images, held.labels % 2, 2)


def traits(subset):
    """Return digits with four traits, any number of which they may have."""
    held = digits(subset=subset)
    y = held.labels
    labels = torch.stack([y % 2 == 1, y > 4, y % 3 == 0, y == 7], 1).float()
    return ManyLabels(held.images, labels, 4)


@pytest.fixture
def task(config, monkeypatch):
    """Return a maker of small configs of a task on a dataset of this file."""
    monkeypatch.syspath_prepend(REPOSITORY)

    def make(name, dataset, *overrides):
        off = ["log.monitor=null", "log.eval.knn=null", "optim.lr=0.3"]
        made = config("supervised", f"++model.task={name}", *off, *overrides)
        for split in ("train", "val", "test"):
            node = made.data[split].dataset
            views = {"image_transform": node.get("image_transform")}
            node = {"_target_": f"{HERE}.{dataset}", "subset": split, **views}
            made.data[split].dataset = node
        return made

    return make


def test_binary_learns_and_reports_accuracy_and_rankings(task):
    trainer = Supervised(task("binary", "odd", "optim.epochs=6"))
    trainer.run()
    assert trainer.classifier.out_features == 1
    found = {n: trainer.metrics[f"test/{n}"] for n in ("acc1", "ap", "auroc", "loss")}
    assert found["acc1"] > 0.85 and found["ap"] > 0.9 and found["auroc"] > 0.9
    assert "test/acc5" not in trainer.metrics


def test_multilabel_learns_and_reports_mean_average_precision(task):
    own = (
        "++log.metrics.hamming={callable: torchmetrics.functional.hamming_distance,"
        "kwargs: {task: multilabel, num_labels: 4}}"
    )
    trainer = Supervised(task("multilabel", "traits", "optim.epochs=6", own))
    trainer.run()
    assert trainer.metrics["test/map"] > 0.8
    assert trainer.metrics["test/hamming"] < 0.2
    assert "test/acc1" not in trainer.metrics


def test_a_binary_probe_is_a_classifier_of_two_classes(task):
    probe = "log.eval={linear: {lr: 0.03}}"
    trainer = Supervised(task("binary", "odd", probe, "optim.epochs=4"))
    trainer.run()
    assert trainer.metrics["test/acc1"] > 0.6
    assert "test/ap" not in trainer.metrics


@pytest.mark.parametrize(
    ("name", "dataset", "target"),
    [
        ("binary", "odd", lambda y: y * 0.9 + 0.05),
        ("multilabel", "traits", lambda y: y * 0.9 + 0.05),
    ],
)
def test_the_loss_is_the_mean_of_a_yes_or_no_each(task, name, dataset, target):
    trainer = Supervised(task(name, dataset, "++model.label_smoothing=0.1"))
    trainer.setup()
    trainer.data = next(iter(trainer.train_loader))
    p, y = trainer(trainer.data[0]).sigmoid().double(), target(trainer.data[1].double())
    expected = -(y * p.log() + (1 - y) * (1 - p).log()).mean().item()
    assert p.shape == y.shape
    assert trainer.compute_loss()["loss"].item() == pytest.approx(expected, rel=1e-5)
    trainer.cleanup()


@pytest.mark.parametrize(
    ("name", "dataset", "overrides", "words"),
    [
        ("binary", "traits", [], "binary needs the labels 0 and 1.*4 classes"),
        ("binary", "odd", ["data.num_classes=3"], "binary needs .* has 3 classes"),
        ("multilabel", "odd", [], r"found labels \(128,\), expected \(128, 2\)"),
        (
            "multilabel",
            "traits",
            ["log.eval={linear: {}}"],
            "labels of shape .4,. each, .* need one whole number an image; set",
        ),
    ],
)
def test_labels_of_another_task_are_refused(task, name, dataset, overrides, words):
    with pytest.raises(ConfigError, match=words):
        Supervised(task(name, dataset, *overrides)).run()
