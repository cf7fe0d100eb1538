"""Logistic regression on the bank: how many images it is fitted on unasked."""

import math

import pytest
import torch

from stable_ssl.evaluation import logistic

LINE = "no logistic regression on a bank of 1,197 images, more than 1,000"


@pytest.mark.parametrize(
    ("most", "asked", "measured"),
    [
        (1_000, "null", False),
        (1_000, "true", True),
        (1_197, "null", True),
        (1_197, "false", False),
    ],
)
def test_a_large_bank_has_none_unless_asked(
    tiny, config, monkeypatch, most, asked, measured
):
    monkeypatch.setattr(logistic, "MOST", most)
    offline = f"{{in_fit: true, epochs: 1, lrs: [0.1], logistic: {asked}}}"
    trainer = tiny(config("base", f"log.eval.offline={offline}", "optim.epochs=1"))
    trainer.run()
    assert ("test/logistic_acc1" in trainer.metrics) == measured
    assert "test/linear_acc1" in trainer.metrics
    console = (trainer.run_dir / "console.log").read_text()
    left_out = asked == "null" and not measured
    assert console.count(LINE) == left_out
    assert console.count("offline.logistic=true fits it") == left_out


def test_a_test_split_without_labels_has_figures_that_are_no_numbers(tiny, config):
    images, labels = torch.rand(40, 1, 8, 8), torch.arange(40) % 10
    keys = ["data.num_classes=10", "data.batch_size=20", "log.eval.few_labels=[2]"]
    keys += ["log.monitor=null", "log.eval.knn.k=5"]
    run = tiny(
        config("base", *keys),
        train=[*zip(images, labels, strict=True)],
        test=[(image, -1) for image in images],
    )
    run.run()
    assert math.isnan(run.metrics["test/few2_acc1"])
    assert math.isnan(run.metrics["test/acc1"])
