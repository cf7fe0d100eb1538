"""Weighted nearest neighbours. Wu et al. 2018, https://arxiv.org/abs/1805.01978."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stable_ssl.evaluation.evaluator import Evaluator, Labelled, Split
from stable_ssl.evaluation.predictions import Accuracy
from stable_ssl.loggers.names import Metric
from stable_ssl.schema import ConfigError, key


@dataclass
class KnnConfig:
    """Weighted nearest neighbours, Wu et al. 2018, https://arxiv.org/abs/1805.01978."""

    k: int = key(20, low=1)
    temperature: float = key(0.07, above=0)


class Knn(Evaluator):
    """Let the nearest images of the bank vote on each image of a split."""

    key = "knn"
    names = ("knn_acc1", "knn_acc5")
    needs_bank = needs_labels = each_rank = True

    def __init__(self, config: KnnConfig):
        self.config = config
        self._ask(config.k)

    def _ask(self, k: int) -> None:
        """Let so many neighbours vote, and say so."""
        self.k, temperature = k, self.config.temperature
        title = f"kNN (k={k})"
        protocol = f"kNN, k={k}, temperature {temperature:g}, on {{bank}}"
        self.metrics = {"knn_acc1": Metric("kNN accuracy", title, protocol, 0)}
        if k >= 5:  # fewer neighbours name fewer classes
            self.metrics["knn_acc5"] = Metric(
                "kNN accuracy, top 5", f"{title}, top 5", f"{protocol}, top 5", 0
            )

    def check_bank(self, size: int, labels: Tensor | None) -> None:
        """Refuse more neighbours than there are; the default is then all there are."""
        if not size:
            raise ConfigError("the bank has no labels; set log.eval.knn=null")
        if self.config.k > size:
            if self.config.k == KnnConfig.k:
                return self._ask(size)
            raise ConfigError(
                f"log.eval.knn.k={self.config.k}, but the bank has {size:,} images; use"
                " at most that"
            )

    def __call__(self, split: Split) -> Iterator[tuple[str, float]]:
        """Yield top 1 and, of more than five classes, top 5; nan of a diverged run.

        Top 5 needs five neighbours.
        """
        if not split.finite:
            yield "knn_acc1", math.nan
            return
        queries = split.features, split.labels
        scores = knn_accuracy(
            split.bank,
            queries,
            split.num_classes,
            self.k,
            self.config.temperature,
        )
        for name, value in scores.items():
            if f"knn_{name}" in self.metrics:
                yield f"knn_{name}", value


def knn_scores(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Score the classes of each query by its k nearest neighbours (section 3.4).

    A neighbour votes for its class with weight exp(cosine similarity / temperature),
    divided here by that of the nearest, so that it is 1 at any temperature.

    Args:
        bank: features of the labelled samples, (M, D).
        bank_labels: (M,) int64 below num_classes.
        queries: features to classify, (N, D).
        num_classes: C; classes absent from the bank get no votes.
        k: neighbours, at most M of them.
        temperature: tau in the paper.

    Returns:
        Votes (N, C) float32.
    """
    similarity = normalize(queries.float(), dim=1) @ normalize(bank.float(), dim=1).T
    nearest, index = similarity.topk(min(k, len(bank)), dim=1)
    weight = ((nearest - nearest[:, :1]) / temperature).exp()
    votes = torch.zeros(len(queries), num_classes, device=queries.device)
    return votes.scatter_add_(1, bank_labels[index], weight)


def knn_accuracy(
    bank: Labelled,
    queries: Labelled,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> dict[str, float]:
    """Return the accuracies {"acc1", "acc5"} of the neighbours' vote on all ranks.

    A class without a vote is no answer, though fewer than five have one.

    Args:
        bank: features (M, D) and labels (M,).
        queries: this rank's features (N, D) and labels (N,).
        num_classes: of the dataset.
        k: neighbours.
        temperature: of the vote's weights.
        chunk: queries at a time; memory is chunk x M.
    """
    accuracy = Accuracy()
    for features, labels in zip(*(t.split(chunk) for t in queries), strict=True):
        votes = knn_scores(*bank, features, num_classes, k, temperature)
        classes = labels.clamp(0, num_classes - 1)[:, None]
        named = votes.gather(1, classes)[:, 0] > 0
        accuracy.update(votes, labels.where(named | (labels < 0), num_classes))
    return accuracy.compute()
