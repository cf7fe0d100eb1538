"""Logistic regression on frozen features, to its optimum."""

from __future__ import annotations

from collections.abc import Iterator
from math import nan
from typing import Any

from torch import Tensor

from stable_ssl import distributed
from stable_ssl.evaluation.bank import PART, Bank, standardiser
from stable_ssl.evaluation.config import OfflineConfig
from stable_ssl.evaluation.evaluator import Evaluator, Labelled, Split
from stable_ssl.loggers.names import Metric

MOST = 100_000  # images of a bank that it is fitted on without being asked to


class Logistic(Evaluator):
    """Fit logistic regression on the whole bank."""

    key = "offline"
    names = ("logistic_acc1",)
    splits = ("test",)
    needs_bank = shares_bank = needs_labels = each_rank = True
    metrics = {
        "logistic_acc1": Metric(
            "logistic accuracy",
            "logistic regression (offline)",
            "logistic regression, C=1, on {bank}",
            50,
        )
    }

    def __init__(self, config: OfflineConfig):
        self.config, self.in_fit = config, config.in_fit

    def __call__(self, split: Split) -> Iterator[tuple[str, float]]:
        """Yield the accuracy, of finite features, unless it is turned off."""
        shared, asked = Bank.of(split.bank), self.config.logistic
        size = len(shared.labels)
        if asked is None and size > MOST:
            self.note = (
                f"no logistic regression on a bank of {size:,} images, more than"
                f" {MOST:,}; log.eval.offline.logistic=true fits it, on one process"
            )
        elif split.finite and asked is not False:
            scaled = standardiser(shared)
            bank = shared.whole(keep=distributed.is_main())
            bank = bank and (scaled(bank[0]), bank[1])
            queries = scaled(split.features), split.labels
            yield "logistic_acc1", logistic_accuracy(bank, queries)


def logistic_accuracy(bank: Labelled | None, queries: Labelled) -> float:
    """Return the top-1 accuracy of logistic regression fitted on the bank.

    scikit-learn's, to its optimum, with its default penalty (C = 1) and in float64. A
    bank of one class predicts it. Rank 0 fits, and the others wait without a limit.

    Args:
        bank: standardised features (M, D) and labels (M,), of rank 0.
        queries: this rank's features (N, D), standardised as the bank's, and labels;
            without any the accuracy is nan.
    """
    model = distributed.from_main(lambda: _fitted(*bank))
    correct = 0
    for x, y in zip(*(t.split(PART) for t in queries), strict=True):
        if len(y):
            found = model.predict(x.double().cpu().numpy())
            correct += int((found == y.cpu().numpy()).sum())
    everyone = distributed.all_gather_object((correct, len(queries[1])))
    correct, size = map(sum, zip(*everyone, strict=True))
    return correct / size if size else nan


def _fitted(x: Tensor, y: Tensor) -> Any:
    """Return the classifier of features (M, D) and labels (M,)."""
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression

    one = len(y.unique()) == 1
    model = DummyClassifier() if one else LogisticRegression(max_iter=1000)
    return model.fit(x.double().cpu().numpy(), y.cpu().numpy())
