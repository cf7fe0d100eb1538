"""Features of a split, and what is measured on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice, zip_longest
from typing import Any

import torch
from torch import Tensor

from stable_ssl import distributed
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
        Features (N, D) float32 and labels (N,) of all ranks, in the order of the
        split, on the device of the batches. Synchronises ranks.
    """
    features, labels = [], []
    for x, y in islice(loader, limit):
        features.append(encode(first_view(x)).float())
        labels.append(y)
    return gather_batches(features), gather_batches(labels)


def gather_batches(parts: Sequence[Tensor]) -> Tensor:
    """Join every rank's parts of the batches of a split, batch after batch.

    Args:
        parts: one a batch, (n, ...), of which a rank has at least one; n may differ
            between ranks, and the last may be missing on some.

    Returns:
        (N, ...), as one process would see them; synchronises ranks.
    """
    own = torch.cat(list(parts))
    if distributed.world_size() == 1:
        return own
    lengths = distributed.all_gather_object([len(part) for part in parts])
    whole = distributed.gather_uneven(own).split([n for some in lengths for n in some])
    ranks, start = [], 0
    for some in lengths:
        ranks.append(whole[start : start + len(some)])
        start += len(some)
    batches = zip_longest(*ranks, fillvalue=own[:0])
    return torch.cat([part for batch in batches for part in batch])


def feature_metrics(
    bank: Labelled,
    queries: tuple[Sequence[Tensor], Sequence[Tensor]],
    num_classes: int,
    config: Any,
    few_labels: bool,
    seed: int,
) -> dict[str, float]:
    """Measure the features of a split against those of the train split.

    Args:
        bank: train split, seen as in validation, of all ranks.
        queries: this rank's batches of the split in question.
        num_classes: of the dataset.
        config: group `log.eval`: knn and few_labels are read.
        few_labels: whether to fit classifiers on a few labels a class.
        seed: chooses the few labels.

    Returns:
        knn_acc1, knn_acc5, and few<k>_acc1 for each k of `config.few_labels`.
    """
    found = {}
    if config.knn is not None:
        own = torch.cat(list(queries[0])), torch.cat(list(queries[1]))
        knn = config.knn
        scores = knn_accuracy(bank, own, num_classes, knn.k, knn.temperature)
        found |= {f"knn_{name}": value for name, value in scores.items()}
    if few_labels and config.few_labels:
        whole = gather_batches(queries[0]), gather_batches(queries[1])
        if distributed.is_main():  # the others wait: it is no work for several
            for k in config.few_labels:
                found[f"few{k}_acc1"] = few_label_accuracy(bank, whole, k, seed=seed)
        found = distributed.broadcast_object(found)
    return found
