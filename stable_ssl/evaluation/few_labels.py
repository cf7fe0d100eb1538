"""What features are worth where few labels are known."""

from __future__ import annotations

from stable_ssl.data.few import choose_few
from stable_ssl.evaluation.linear import Labelled, logistic_accuracy, standardiser


def few_label_accuracy(
    bank: Labelled, queries: Labelled, labels: str, draws: int = 5, seed: int = 0
) -> float:
    """Return the top-1 accuracy of logistic regression on a few labels of each class.

    Features are standardised by the whole bank's mean and deviation, which need no
    labels; the regression is that of `logistic_accuracy`.

    Args:
        bank: features (M, D) and labels (M,) that the few are drawn from.
        queries: features (N, D) and labels (N,).
        labels: "10" a class, or "1%" of each class.
        draws: choices of the labelled samples to average over.
        seed: of the choices; the same seed chooses the same samples.
    """
    scaled = standardiser(bank[0])
    x, test = scaled(bank[0]), (scaled(queries[0]), queries[1])
    scores = []
    for draw in range(draws):
        few = choose_few(bank[1].cpu(), labels, seed, draw).to(x.device)
        scores.append(logistic_accuracy((x[few], bank[1][few]), test))
    return sum(scores) / draws


def few_label_name(labels: str) -> str:
    """Return the metric's name: few10_acc1, few1pct_acc1."""
    return f"few{labels.replace('%', 'pct')}_acc1"
