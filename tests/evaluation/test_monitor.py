"""What cannot be monitored is refused; what a hook may log is not."""

import pytest

from stable_ssl import Evaluator, Metric
from stable_ssl.config import ConfigError, Eval, Log
from stable_ssl.evaluation.config import EarlyStopping, KnnConfig
from stable_ssl.evaluation.monitor import check_monitor
from stable_ssl.evaluation.predictions import Predictions
from stable_ssl.evaluation.suite import asked_for

SPLITS = ("train", "val", "test", "bank")


def check(
    monitor,
    splits=SPLITS,
    num_classes=10,
    metrics=(),
    own=(),
    patience=None,
    predicts="multiclass",
    **evaluation,
):
    log = Log(monitor=monitor, eval=Eval(**evaluation), metrics=dict.fromkeys(metrics))
    log.early_stopping = EarlyStopping(patience=patience)
    evaluators = dict(asked_for(log.eval)) | dict(own)
    if predicts:
        paths = dict.fromkeys(metrics, "")
        evaluators["predictions"] = Predictions(predicts, True, {}, paths)
    known = {n: e for n, e in evaluators.items() if num_classes or not e.needs_labels}
    check_monitor(log, splits, num_classes, known)


@pytest.mark.parametrize(
    "monitor",
    [None, "val/acc1", "val/knn_acc5", "train/loss", "val/loss", "val/f1", "mine"],
)
def test_what_may_come_is_accepted(monitor):
    check(monitor)


def test_several_val_splits_may_have_names():
    check("val/hard/acc1", splits=("train", "val/easy", "val/hard"))


def test_a_metric_of_ones_own_may_be_named_almost_like_another():
    check("val/acc", metrics=["acc"])
    with pytest.raises(ConfigError, match="did you mean"):
        check("val/acc")


def test_the_spectrum_needs_no_labels():
    check("val/rankme", num_classes=None, spectrum=True)


class Margin(Evaluator):
    metrics = {"margin": Metric("margin")}


class TestMargin(Margin):
    splits = ("test",)


@pytest.mark.parametrize(
    ("monitor", "options"),
    [
        ("val/knn_acc1", {}),
        ("val/acc5", {}),
        ("val/skipped", {}),
        ("val/acc5", {"predicts": "multilabel"}),  # a hook may log it
        ("train/of_my_own", {}),
        ("val/f1", {"metrics": ["f1"]}),
        ("val/margin", {"own": {"m": Margin()}}),
        ("val/else", {"own": {"m": Evaluator()}}),  # states nothing
    ],
)
def test_what_is_stated_is_accepted(monitor, options):
    check(monitor, **options)


@pytest.mark.parametrize(
    ("monitor", "options", "words"),
    [
        ("val/acc1", {"splits": ("train", "bank")}, "no val .*set data.val, .*=null"),
        ("vall/acc1", {}, "no vall; did you mean 'val'"),
        ("bank/acc1", {}, "the data has no bank"),
        ("test_a/acc1", {"splits": ("val", "test_a")}, "test is evaluated at the end"),
        ("test/acc1", {}, "test is evaluated at the end only"),
        ("val/ac1", {}, "did you mean 'val/acc1'"),
        ("val/knn_acc", {}, "did you mean 'val/knn_acc"),
        ("val/knn-acc1", {}, "did you mean 'val/knn_acc1'"),
        ("knn_acc1", {}, "did you mean 'val/knn_acc1'"),
        ("val/knn_acc1", {"knn": None}, "log.eval.knn=null turns it off"),
        ("val/knn_acc1", {"num_classes": None}, "states no classes"),
        ("val/rankme", {}, "log.eval.spectrum=false turns it off; change"),
        ("val/rank_me", {"spectrum": True}, "did you mean 'val/rankme'"),
        ("val/linear_acc1", {}, "fitted for test only"),
        ("val/few1pct_acc1", {}, "fitted for test only"),
        ("val/acc5", {"num_classes": 4}, "top 5 of so few classes"),
        ("val/knn_acc5", {"knn": KnnConfig(k=3)}, "top 5 of so few"),
        ("val/acc1", {"predicts": None}, "nothing predicts; set log.eval.linear"),
        ("val/acc5", {"predicts": None}, "nothing predicts"),
        (
            "val/margin",
            {"own": {"m": TestMargin()}},
            "log.eval.m is asked about test only; add val to its splits",
        ),
    ],
)
def test_what_cannot_come_is_refused(monitor, options, words):
    with pytest.raises(ConfigError, match=f"log.monitor={monitor}.*{words}") as error:
        check(monitor, **options)
    assert "\n" not in str(error.value)


def test_a_training_ends_early_by_a_metric_of_val():
    check("val/knn_acc1", patience=3)
    with pytest.raises(ConfigError, match="monitor=train/loss is no metric of a valid"):
        check("train/loss", patience=3)
