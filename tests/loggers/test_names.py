"""Metrics as a reader knows them, and in the order of a table."""

import re

import pytest

from stable_ssl.loggers import names
from stable_ssl.loggers.names import LOGGED, Metric, axis_label, describe, in_order
from tests.conftest import REPOSITORY

STATED = {
    "knn_acc1": Metric("kNN accuracy", "kNN (k=7)", "", 0),
    "few2_acc1": Metric("accuracy, 2 labels a class", "linear, 2 labels", "", 20.002),
    "few10_acc1": Metric("accuracy, 10 labels a class", "", "", 20.01),
    "rankme": Metric("RankMe"),
}


@pytest.mark.parametrize(
    ("metric", "title", "label"),
    [
        ("test/knn_acc1", "kNN (k=7)", "test kNN accuracy (%)"),
        ("test/rankme", "RankMe", "test RankMe"),
        ("test/mine_acc5", "mine accuracy, top 5", "test mine accuracy, top 5 (%)"),
        ("val/acc1", "accuracy", "val accuracy (%)"),
        ("train/grad_norm", "gradient norm", "gradient norm"),
        ("train/lr_critic", "learning rate of critic", "learning rate of critic"),
        ("train/my_term", "my_term", "training my term"),
    ],
)
def test_a_metric_in_words(monkeypatch, metric, title, label):
    monkeypatch.setattr(names, "STATED", STATED)
    assert describe(metric, STATED) == title
    assert axis_label(metric) == label


def test_what_recipes_log_has_words_of_its_own():
    golden = REPOSITORY / "benchmarks" / "results" / "golden.json"
    logged = {*re.findall(r'"((?:train|perf)/\w+)"', golden.read_text())}
    heads = {"train/rotation", "train/rotation_prediction"}  # named by a config
    assert len(logged) > 10 and heads < logged
    assert logged - heads <= {*LOGGED}


def test_metrics_are_ordered_as_stated_and_by_name(monkeypatch):
    monkeypatch.setattr(names, "STATED", STATED)
    stated = ["knn_acc1", "few2_acc1", "few10_acc1", "mine", "rankme"]
    metrics = [f"{split}/{name}" for split in ("test", "val") for name in stated]
    assert in_order(reversed(metrics), ["test", "val"]) == metrics
