"""Metrics as a reader knows them, and in the order of a table."""

import pytest

from stable_ssl.loggers.names import describe, order


class Config:
    """A run whose config holds no key."""

    def get(self, key, default=None):
        return default


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        ("test/few1_acc1", "linear, 1 label a class"),
        ("test/few2.5pct_acc1", "linear, 2.5 % of the labels"),
        ("test/linear_acc5", "linear (offline), top 5"),
        ("test/logistic_acc1", "logistic regression (offline)"),
        ("test/knn_acc1", "kNN (k=?)"),
        ("test/acc1", "accuracy"),
        ("test/auroc", "auroc"),
    ],
)
def test_a_metric_in_words(metric, text):
    assert describe(metric, Config()) == text


def test_metrics_are_ordered():
    names = ["few1pct_acc1", "few10_acc1", "rankme", "acc1", "few2_acc1", "knn_acc1"]
    ordered = sorted((f"test/{name}" for name in names), key=order)
    assert [name.removeprefix("test/") for name in ordered] == [
        *("knn_acc1", "acc1", "few2_acc1", "few10_acc1", "few1pct_acc1", "rankme")
    ]
