"""What cannot be monitored is refused; what a hook may log is not."""

import pytest

from stable_ssl.config import ConfigError, Eval, Log
from stable_ssl.evaluation.monitor import check_monitor

SPLITS = ("train", "val", "test", "bank")


def check(monitor, splits=SPLITS, num_classes=10, metrics=(), **evaluation):
    log = Log(monitor=monitor, eval=Eval(**evaluation), metrics=dict.fromkeys(metrics))
    check_monitor(log, splits, num_classes)


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
        ("val/rankme", {}, "log.eval.spectrum=false turns it off; set it to true"),
        ("val/rank_me", {"spectrum": True}, "did you mean 'val/rankme'"),
        ("val/linear_acc1", {}, "fitted for test splits only"),
        ("val/few1pct_acc1", {}, "fitted for test splits only"),
        ("val/acc5", {"num_classes": 4}, "top 5 of 4 classes"),
    ],
)
def test_what_cannot_come_is_refused(monitor, options, words):
    with pytest.raises(ConfigError, match=f"log.monitor={monitor}.*{words}") as error:
        check(monitor, **options)
    assert "\n" not in str(error.value)
