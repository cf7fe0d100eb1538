"""Every figure says its protocol: in words beside it, and in its run folder."""

import pytest

from stable_ssl.evaluation.config import Eval, KnnConfig, OfflineConfig
from stable_ssl.evaluation.predictions import Predictions
from stable_ssl.evaluation.protocol import protocol_table
from stable_ssl.evaluation.suite import asked_for
from stable_ssl.loggers.names import Metric

CONFIG = Eval(
    knn=KnnConfig(k=7),
    offline=OfflineConfig(epochs=9, held_out=0.2, lrs=[0.1, 1.0]),
    few_labels=["10", "0.5%"],
)
PREDICTIONS = Predictions("multiclass", True, {}, {"f1": "torchmetrics.F1Score"})
METRICS = {
    name: metric
    for evaluator in (PREDICTIONS, *dict(asked_for(CONFIG)).values())
    for name, metric in evaluator.metrics.items()
}


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("knn_acc1", "kNN, k=7, temperature 0.07, on {bank}"),
        ("acc5", "online linear probe, top 5"),
        ("few10_acc1", "10 labels a class of {bank}"),
        ("few0.5pct_acc1", "0.5 % of the labels of {bank}"),
        ("linear_acc1", "linear, SGD, 9 epochs on {bank}"),
        ("linear_acc5", "{bank}, top 5"),
        ("linear_lr", "best of 2 on 20% of the bank"),
        ("f1", "torchmetrics.F1Score"),
    ],
)
def test_a_metric_states_its_protocol(name, protocol):
    assert protocol in METRICS[name].protocol


def test_the_table_has_a_row_for_each_figure_and_a_protocol_for_each_stated_one():
    values = {"val/acc1": 0.5, "val/rankme": 3.0, "val/a_hooks_own": 1.0}
    metrics = {"acc1": Metric("accuracy", "", "the model's prediction, top 1")}
    table = protocol_table(values, metrics, "val split, epoch 3")
    assert table.title == "val split, epoch 3"
    assert table.rows == [
        ("val/acc1", "50.00 %", "the model's prediction, top 1"),
        ("val/rankme", "3", ""),
        ("val/a_hooks_own", "1", ""),
    ]
