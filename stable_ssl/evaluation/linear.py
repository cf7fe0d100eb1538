"""Linear classification of frozen features, after training."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_ssl import seeding


def few_label_accuracy(
    bank: tuple[Tensor, Tensor],
    queries: tuple[Tensor, Tensor],
    labels_per_class: int,
    draws: int = 5,
    seed: int = 0,
) -> float:
    """Return the top-1 accuracy of logistic regression on a few labels a class.

    Features are standardised by the bank's mean and deviation; the regression is
    scikit-learn's with its default penalty (C = 1). A bank of one class predicts it.

    Args:
        bank: features (M, D) and labels (M,) that the few are drawn from.
        queries: features (N, D) and labels (N,).
        labels_per_class: k; all of a class that has fewer.
        draws: choices of the labelled samples to average over.
        seed: of the choices; the same seed chooses the same samples.
    """
    from sklearn.linear_model import LogisticRegression

    classes = bank[1].unique()
    if len(classes) == 1:
        return (queries[1] == classes).float().mean().item()
    mean, deviation = bank[0].mean(0), bank[0].std(0).clamp_min(1e-6)
    x, y = ((bank[0] - mean) / deviation).double().cpu().numpy(), bank[1].cpu()
    test = ((queries[0] - mean) / deviation).double().cpu().numpy()
    scores = []
    for draw in range(draws):
        order = seeding.permutation(len(y), seed, draw)
        few = torch.cat([order[y[order] == c][:labels_per_class] for c in y.unique()])
        model = LogisticRegression(max_iter=1000).fit(x[few.numpy()], y[few].numpy())
        scores.append(model.score(test, queries[1].cpu().numpy()))
    return sum(scores) / draws
