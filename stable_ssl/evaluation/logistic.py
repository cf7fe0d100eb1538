"""Logistic regression on frozen features, to its optimum."""

from __future__ import annotations

from collections.abc import Iterator

from stable_ssl.evaluation.evaluator import Evaluator, Labelled, Split
from stable_ssl.evaluation.linear import OfflineConfig, standardiser
from stable_ssl.loggers.names import Metric


class Logistic(Evaluator):
    """Fit logistic regression on the whole bank."""

    key = "offline"
    names = ("logistic_acc1",)
    splits = ("test",)
    needs_bank = needs_labels = True
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
        if split.finite and self.config.logistic:
            scaled = standardiser(split.bank[0])
            bank = scaled(split.bank[0]), split.bank[1]
            queries = scaled(split.features), split.labels
            yield "logistic_acc1", logistic_accuracy(bank, queries)


def logistic_accuracy(bank: Labelled, queries: Labelled) -> float:
    """Return the top-1 accuracy of logistic regression fitted on the bank.

    scikit-learn's, to its optimum, with its default penalty (C = 1) and in float64. A
    bank of one class predicts it.

    Args:
        bank: standardised features (M, D) and labels (M,).
        queries: features (N, D), standardised as the bank's, and labels (N,).
    """
    from sklearn.linear_model import LogisticRegression

    classes = bank[1].unique()
    if len(classes) == 1:
        return (queries[1] == classes).float().mean().item()
    (x, y), (test, truth) = (
        (features.double().cpu().numpy(), labels.cpu().numpy())
        for features, labels in (bank, queries)
    )
    return float(LogisticRegression(max_iter=1000).fit(x, y).score(test, truth))
