"""What features are worth where few labels are known."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_ssl import seeding
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
        few = choose(bank[1].cpu(), labels, seed, draw).to(x.device)
        scores.append(logistic_accuracy((x[few], bank[1][few]), test))
    return sum(scores) / draws


def choose(y: Tensor, labels: str, seed: int, draw: int) -> Tensor:
    """Return which samples are labelled: at least one of each class.

    Args:
        y: labels of all (M,), on the CPU.
        labels: "10" a class, all of one that has fewer, or "1%" of each class.
        seed: of the choice.
        draw: which choice.
    """
    order = seeding.permutation(len(y), seed, draw)
    few = []
    for c in y.unique():
        own = order[y[order] == c]
        share = labels.endswith("%")
        k = round(float(labels[:-1]) / 100 * len(own)) if share else int(labels)
        few.append(own[: max(1, k)])
    return torch.cat(few)


def few_label_name(labels: str) -> str:
    """Return the metric's name: few10_acc1, few1pct_acc1."""
    return f"few{labels.replace('%', 'pct')}_acc1"
