"""Logistic regression on the bank: how many images it is fitted on unasked."""

import pytest

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
