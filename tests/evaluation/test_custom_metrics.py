"""Metrics by dotted path: found and tried before training, of the whole split."""

import pytest
import torch
from torchmetrics.functional import f1_score

from stable_ssl.config import ConfigError
from stable_ssl.evaluation.custom_metrics import custom_metrics

generator = torch.Generator().manual_seed(0)
LOGITS = torch.randn(50, 4, generator=generator)
LABELS = torch.randint(0, 4, (50,), generator=generator)
MULTICLASS = {"task": "multiclass", "num_classes": 4, "average": "macro"}


def built(path, kwargs, task="multiclass"):
    nodes = {"mine": {"callable": path, "kwargs": kwargs}}
    return custom_metrics(nodes, task, 2 if task == "binary" else 4)["mine"]


def test_a_function_and_a_class_of_torchmetrics_give_one_value():
    expected = f1_score(LOGITS, LABELS, **MULTICLASS)
    function = built("torchmetrics.functional.f1_score", MULTICLASS)
    instance = built("torchmetrics.F1Score", MULTICLASS)
    for _ in range(2):  # an instance remembers nothing from call to call
        assert function(LOGITS, LABELS) == instance(LOGITS, LABELS) == expected


def test_any_function_of_predictions_and_labels_will_do():
    metric = built("torch.nn.functional.cross_entropy", {"label_smoothing": 0.1})
    expected = torch.nn.functional.cross_entropy(LOGITS, LABELS, label_smoothing=0.1)
    assert metric(LOGITS, LABELS) == expected
    assert custom_metrics({}, "multiclass", None) == {}


def test_the_shapes_are_the_tasks():
    binary = built("torchmetrics.functional.accuracy", {"task": "binary"}, "binary")
    assert binary(torch.tensor([1.0, -1.0]), torch.tensor([1, 1])) == 0.5
    many = {"task": "multilabel", "num_labels": 4}
    multilabel = built("torchmetrics.functional.accuracy", many, "multilabel")
    assert multilabel(torch.eye(4), torch.eye(4).long()) == 1


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("torchmetrics.functional.f1_score", "write {callable"),
        ({"calable": "torch.sum"}, "write {callable"),
        ({"callable": "torchmetrics.functional.acuracy"}, "did you mean 'accuracy'"),
        ({"callable": "torchmetrics.F1Scores"}, "did you mean 'F1Score'"),
        ({"callable": "no_such_package.f"}, "no module no_such_package; install it"),
        ({"callable": "math.pi"}, "math.pi cannot be called"),
        ({"callable": "torchmetrics.functional.f1_score"}, "missing 1 required"),
        (
            {
                "callable": "torchmetrics.functional.f1_score",
                "kwargs": {**MULTICLASS, "average": "none"},
            },
            "return a scalar",
        ),
        (
            {"callable": "torchmetrics.F1Score", "kwargs": {"task": "multiclas"}},
            "torchmetrics.F1Score with {'task': 'multiclas'} fails on 4 samples",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(node, words):
    with pytest.raises(ConfigError, match="log.metrics.mine") as error:
        custom_metrics({"mine": node}, "multiclass", 4)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_one_name_is_one_figure():
    node = {"callable": "torch.nn.functional.cross_entropy"}
    with pytest.raises(ConfigError, match="acc1 is measured anyway; choose another"):
        custom_metrics({"acc1": node}, "multiclass", 4)


def test_without_predictions_there_is_nothing_to_measure():
    node = {"callable": "torch.nn.functional.cross_entropy"}
    with pytest.raises(ConfigError, match="needs predictions of labelled data"):
        custom_metrics({"mine": node}, "multiclass", None)
