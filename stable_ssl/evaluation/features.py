"""Features of a split, and what is measured on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from stable_ssl.evaluation.knn import knn_accuracy
from stable_ssl.evaluation.linear import few_label_accuracy

Labelled = tuple[Tensor, Tensor]  # features (N, D) and labels (N,)


def first_view(x: Tensor | list[Tensor]) -> Tensor:
    """Return the view (N, C, H, W) of a batch, the first of several."""
    return x[0] if isinstance(x, list) else x


@torch.no_grad()
def encode_split(
    encode: Callable[[Tensor], Tensor], loader: Iterable, limit: int | None = None
) -> Labelled:
    """Encode every batch of a loader; the first view where it yields several.

    Args:
        encode: maps a view (N, C, H, W) to features (N, D).
        loader: yields (views, labels).
        limit: batches to take; None takes all.

    Returns:
        Features (N, D) float32 and labels (N,), on the device of the batches.
    """
    features, labels = [], []
    for x, y in islice(loader, limit):
        features.append(encode(first_view(x)).float())
        labels.append(y)
    return torch.cat(features), torch.cat(labels)


def feature_metrics(
    bank: Labelled,
    queries: Labelled,
    num_classes: int,
    config: Any,
    few_labels: bool,
    seed: int,
) -> dict[str, float]:
    """Measure the features of a split against those of the train split.

    Args:
        bank: train split, seen as in validation.
        queries: the split in question.
        num_classes: of the dataset.
        config: group `log.eval`: knn and few_labels are read.
        few_labels: whether to fit classifiers on a few labels a class.
        seed: chooses the few labels.

    Returns:
        knn_acc1, knn_acc5, and few<k>_acc1 for each k of `config.few_labels`.
    """
    found = {}
    if config.knn is not None:
        scores = knn_accuracy(
            bank, queries, num_classes, config.knn.k, config.knn.temperature
        )
        found |= {f"knn_{name}": value for name, value in scores.items()}
    for k in config.few_labels if few_labels else ():
        found[f"few{k}_acc1"] = few_label_accuracy(bank, queries, k, seed=seed)
    return found
