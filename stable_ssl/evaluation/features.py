"""Features of a split, and what is measured on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from stable_ssl import distributed
from stable_ssl.data.batch import first_view
from stable_ssl.distributed import gather_batches
from stable_ssl.evaluation.collapse import alignment, feature_std, uniformity
from stable_ssl.evaluation.few_labels import few_label_accuracy, few_label_name
from stable_ssl.evaluation.knn import knn_accuracy
from stable_ssl.evaluation.linear import (
    Labelled,
    linear_accuracy,
    logistic_accuracy,
    standardiser,
)
from stable_ssl.evaluation.spectrum import (
    covariance_spectrum,
    decay,
    lidar,
    rankme,
)


@torch.no_grad()
def encode_split(
    encode: Callable[[Tensor], Tensor], loader: Iterable, limit: int | None = None
) -> Labelled:
    """Encode every batch of a loader; the first view where it yields several.

    Args:
        encode: maps a view (N, C, H, W) to features (N, D).
        loader: yields (views, labels, ...).
        limit: batches to take; None takes all.

    Returns:
        Features (N, D) float32 and labels (N,) of all ranks, in the order of the
        split, on the device of the batches. Synchronises ranks.
    """
    features, labels = [], []
    for x, y, *_ in islice(loader, limit):
        features.append(encode(first_view(x)).float())
        labels.append(y)
    return gather_batches(features), gather_batches(labels)


def labelled_metrics(
    bank: Labelled,
    queries: tuple[Sequence[Tensor], Sequence[Tensor]],
    num_classes: int,
    config: Any,
    test: bool,
    seed: int,
) -> dict[str, float]:
    """Measure the features of a split against those of the train split.

    Args:
        bank: train split, seen as in validation, of all ranks.
        queries: this rank's batches of the split in question.
        num_classes: of the dataset.
        config: group `log.eval`: knn, few_labels and offline are read.
        test: whether to fit classifiers, few_labels and offline, too.
        seed: of what is random in fitting them.

    Returns:
        knn_acc1, knn_acc5, few10_acc1 and the like, linear_acc1, linear_acc5, linear_lr
        and logistic_acc1. Of features that are not finite knn_acc1 alone, nan.
    """
    found = {}
    own = torch.cat(list(queries[0])), torch.cat(list(queries[1]))
    finite = bool(bank[0].isfinite().all() and own[0].isfinite().all())
    if not all(distributed.all_gather_object(finite)):
        return {"knn_acc1": math.nan} if config.knn is not None else {}
    if config.knn is not None:
        knn = config.knn
        scores = knn_accuracy(bank, own, num_classes, knn.k, knn.temperature)
        found |= {f"knn_{name}": value for name, value in scores.items()}
    if not test or not (config.few_labels or config.offline):
        return found
    whole = gather_batches(queries[0]), gather_batches(queries[1])
    if distributed.is_main():  # the others wait: it is no work for several
        for labels in config.few_labels:
            value = few_label_accuracy(bank, whole, labels, seed=seed)
            found[few_label_name(labels)] = value
        if config.offline is not None:
            scores = linear_accuracy(bank, whole, num_classes, config.offline, seed)
            found |= {f"linear_{name}": value for name, value in scores.items()}
            if config.offline.logistic:
                scaled = standardiser(bank[0])
                pair = [(scaled(x), y) for x, y in (bank, whole)]
                found["logistic_acc1"] = logistic_accuracy(*pair)
    return distributed.broadcast_object(found)


def spectrum_metrics(
    features: Sequence[Tensor], views: Sequence[Tensor]
) -> tuple[dict[str, float], list[float]]:
    """Measure the features of a split without labels.

    Args:
        features: this rank's batches, (n, D).
        views: of a split whose loader makes several views, this rank's batches of all
            of them, (n, V, D); otherwise none.

    Returns:
        rankme, alpha_req, feature_std, uniformity; of several views also alignment,
        that of the first two, and lidar. Then the eigenvalues of the covariance,
        largest first; none of features that are not finite.
    """
    found, eigenvalues, x = {}, [], gather_batches(features)
    several = gather_batches(views) if views else None
    if distributed.is_main():
        spectrum = covariance_spectrum(x) if x.isfinite().all() else None
        found["rankme"] = _finite(rankme, x)
        found["alpha_req"] = math.nan if spectrum is None else decay(spectrum)
        found["feature_std"] = _finite(feature_std, x)
        found["uniformity"] = _finite(uniformity, x)
        eigenvalues = [] if spectrum is None else spectrum.tolist()
        if several is not None:
            found["alignment"] = _finite(alignment, several[:, 0], several[:, 1])
            found["lidar"] = _finite(lidar, several)
    return distributed.broadcast_object((found, eigenvalues))


def _finite(metric: Callable[..., float], *features: Tensor) -> float:
    """Measure; nan of a diverging model's features, which decompositions refuse."""
    return metric(*features) if all(x.isfinite().all() for x in features) else math.nan
