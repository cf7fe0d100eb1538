"""Weighted nearest neighbours. Wu et al. 2018, https://arxiv.org/abs/1805.01978.

Each rank keeps its rows of the bank, finds among them the nearest of every rank's
queries, and gets what the others found for its own. The neighbours are those of one
process: of equally near ones, the first in the bank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count

import numpy
import torch
from torch import Tensor

from stable_ssl import distributed
from stable_ssl.evaluation.bank import Bank
from stable_ssl.evaluation.config import KnnConfig
from stable_ssl.evaluation.evaluator import Evaluator, Labelled, Split
from stable_ssl.evaluation.predictions import Accuracy
from stable_ssl.loggers.names import Metric
from stable_ssl.schema import ConfigError

QUERIES = 2**13  # of all ranks, whose neighbours are looked for at once
SLAB = 2**26  # numbers of the bank that are normalised at once: 256 MiB in float32
SCORES = 2**22  # similarities in memory at once: 16 MiB in float32 ...
ROWS = 256  # ... but of so many queries at least, or the product is slow
BLOCK, GROUP = 1024, 16  # of the bank on the CPU: what is compared in its cache
PART = 64  # queries that are chosen for at once: places take twice the memory
LAST = 2**62  # after any row


class Knn(Evaluator):
    """Let the nearest images of the bank vote on each image of a split."""

    key = "knn"
    names = ("knn_acc1", "knn_acc5")
    needs_bank = shares_bank = needs_labels = each_rank = True

    def __init__(self, config: KnnConfig):
        self.config = config
        self._ask(config.k)

    def _ask(self, k: int) -> None:
        """Let so many neighbours vote, and say so."""
        self.k, temperature = k, self.config.temperature
        title = f"kNN (k={k})"
        protocol = f"kNN, k={k}, temperature {temperature:g}, on {{bank}}"
        metrics = {"knn_acc1": Metric("kNN accuracy", title, protocol, 0)}
        if k >= 5:  # fewer neighbours name fewer classes
            metrics["knn_acc5"] = Metric(
                "kNN accuracy, top 5", f"{title}, top 5", f"{protocol}, top 5", 0
            )
        self.metrics = metrics

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
            if name == "acc1" or self.k >= 5:
                yield f"knn_{name}", value


def knn_accuracy(
    bank: Labelled | Bank,
    queries: Labelled,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> dict[str, float]:
    """Return the accuracies {"acc1", "acc5"} of the neighbours' vote on all ranks.

    A class without a vote is no answer, though fewer than five have one. Synchronises
    ranks.

    Args:
        bank: features (M, D) and labels (M,) that every rank holds, or their shares.
        queries: this rank's features (N, D) and labels (N,).
        num_classes: of the dataset.
        k: neighbours.
        temperature: of the vote's weights.
    """
    accuracy, bank = Accuracy(), Bank.of(bank)
    rows = max(ROWS, SCORES // num_classes)
    for first, *found in _of_all_ranks(bank, queries[0], k):
        labels = queries[1][first : first + len(found[0])]
        parts = zip(*(t.split(rows) for t in (*found, labels)), strict=True)
        for nearest, index, truth in parts:
            votes = _votes(nearest, index, bank.labels, num_classes, temperature)
            classes = truth.clamp(0, num_classes - 1)[:, None]
            named = votes.gather(1, classes)[:, 0] > 0
            accuracy.update(votes, truth.where(named | (truth < 0), num_classes))
    return accuracy.compute()


def _votes(
    nearest: Tensor,
    index: Tensor,
    bank_labels: Tensor,
    num_classes: int,
    temperature: float,
) -> Tensor:
    """Score the classes of each query by its k nearest neighbours (section 3.4).

    A neighbour votes for its class with weight exp(cosine similarity / temperature),
    divided here by that of the nearest, so that it is 1 at any temperature.

    Args:
        nearest: similarities of the neighbours, (N, k).
        index: their rows of the bank, (N, k) int64.
        bank_labels: (M,) int64 below num_classes.
        num_classes: C; classes absent from the bank get no votes.
        temperature: tau in the paper.

    Returns:
        Votes (N, C) float32.
    """
    order = index.argsort(1)  # added in one order, whoever found them first
    nearest, index = nearest.gather(1, order), index.gather(1, order)
    order = nearest.argsort(dim=1, descending=True, stable=True)
    nearest, index = nearest.gather(1, order), index.gather(1, order)
    weight = ((nearest - nearest[:, :1]) / temperature).exp()
    votes = torch.zeros(len(nearest), num_classes, device=nearest.device)
    return votes.scatter_add_(1, bank_labels[index], weight)


# --- who is near ----------------------------------------------------------------------


def _of_all_ranks(
    bank: Bank, queries: Tensor, k: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the neighbours of parts of this rank's queries (N, D); synchronises ranks.

    Yields:
        The first query of the part, and the similarities and rows in the bank of all,
        (n, k) each, in any order.
    """
    k, world, rank = (
        min(k, len(bank.labels)),
        distributed.world_size(),
        distributed.rank(),
    )
    counts, rows = distributed.all_gather_object(len(queries)), bank.rows
    step = max(1, QUERIES // world)
    for first in range(0, max(counts), step):
        own = queries[first : first + step]
        similarity, index = _nearest(bank.features, distributed.gather_uneven(own), k)
        index = rows[index]
        if world > 1:
            begin = sum(min(step, max(0, n - first)) for n in counts[:rank])
            mine = slice(begin, begin + len(own))
            similarity = _exchanged(similarity, k, -torch.inf)[mine]
            index = _exchanged(index, k, LAST)[mine]
            similarity, index = _largest(similarity, index, k)
        yield first, similarity, index


def _exchanged(found: Tensor, k: int, missing: float) -> Tensor:
    """Return what all ranks found (N, k each), (N, ranks * k)."""
    padded = found.new_full((len(found), k), missing)
    padded[:, : found.shape[1]] = found
    return distributed.gather(padded[None]).transpose(0, 1).flatten(1)


def _nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the similarities and rows (N, k) of the nearest of a bank, in any order.

    Of fewer than k rows, those there are. The bank may be in a file: it is read once.
    """
    queries = _unit(queries)
    similarity = queries.new_empty(len(queries), 0)
    index = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    size = max(1, SLAB // max(1, bank.shape[1]) // BLOCK) * BLOCK
    for first, slab in zip(count(0, size), bank.split(size), strict=False):
        if len(slab):
            more, rows = _Search(slab.to(queries.device), k, len(queries))(queries)
            similarity = torch.cat((similarity, more), 1)
            index = torch.cat((index, rows + first), 1)
            similarity, index = _largest(similarity, index, k)
    return similarity, index


def _unit(features: Tensor) -> Tensor:
    """Return features (N, D) of norm 1, float32, in memory of their size."""
    features = features.detach().float()
    norm = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / norm.clamp_(min=1e-12)


def _largest(similarity: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row (N, C) and their indices, in any order.

    Of equal ones, those of the least index.
    """
    if similarity.shape[1] <= k:
        return similarity, index
    return _settled(similarity, index, _places(similarity, k + 1))


def _places(x: Tensor, k: int) -> Tensor:
    """Return the places (N, k) of each row's k largest; the least of them comes first.

    Not by torch's topk on the CPU, where it takes three times as long.
    """
    if not x.is_cpu:
        return x.topk(k, dim=1).indices.flip(1)
    first = x.shape[1] - k
    order = numpy.argpartition(x.numpy(), first, axis=1)
    return torch.from_numpy(order[:, first:].copy())


def _settled(
    similarity: Tensor, index: Tensor, places: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the k largest and their indices, of the places (N, k + 1) of one more.

    That one shows whether a tie leaves a choice.
    """
    nearest, places = similarity.gather(1, places), places[:, 1:]
    tied = (nearest[:, 0] == nearest[:, 1:].amin(1)).nonzero()[:, 0]
    for rows in tied.split(PART) if len(tied) else ():
        bound, of_all = nearest[rows, :1], similarity[rows]
        order = torch.where(of_all > bound, -1, index[rows]).where(
            of_all >= bound, LAST
        )
        places[rows] = order.topk(places.shape[1], dim=1, largest=False).indices
    return similarity.gather(1, places), index.gather(1, places)


class _Search:
    """Find the k nearest of a bank, which is normalised once.

    On the CPU the bank is compared block by block, and while a block is in the cache
    the largest similarity of each `GROUP` of its images is noted: the k nearest are in
    those k groups whose largest are largest, unless there are few groups. One more
    group and neighbour show whether a tie leaves a choice; all are looked at then.

    Args:
        bank: features (M, D).
        k: neighbours; M, if that is less.
        queries: that there are, at most.
    """

    def __init__(self, bank: Tensor, k: int, queries: int):
        self.bank, self.k = _unit(bank), min(k, len(bank))
        self.rows = max(1, min(queries, max(ROWS, SCORES // len(bank))))
        if bank.is_cpu:  # made once: fresh memory costs a fifth of the product
            blocks = len(bank) // BLOCK + 1  # room for one more than all
            self.similarity = torch.empty(self.rows, blocks * BLOCK)
            self.similarity[:, len(bank) :] = -torch.inf
            self.largest = torch.full((self.rows, blocks, BLOCK // GROUP), -torch.inf)
        self.index = torch.arange(
            len(bank) // BLOCK * BLOCK + BLOCK, device=bank.device
        )

    def __call__(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return the similarities and indices of units, (N, k) each, in any order."""
        found = [
            self._chosen(*part)
            for rows in queries.split(self.rows)
            for part in self._compared(rows)
        ]
        nearest, index = map(torch.cat, zip(*found, strict=True))
        return nearest, index

    def _chosen(
        self, similarity: Tensor, largest: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the similarities and indices, (n, k) each, of what `_compared` did."""
        index = self.index[: similarity.shape[1]].expand_as(similarity)
        if largest is None or largest[0].numel() <= 2 * self.k:
            return _largest(similarity, index, self.k)
        best = _places(largest.flatten(1), self.k + 1)
        width = BLOCK // GROUP
        first = best // width * BLOCK + best % width
        members = first[:, None] + width * torch.arange(GROUP)[:, None]
        members = members.flatten(1)
        places = _places(similarity.gather(1, members), self.k + 1)
        return _settled(similarity, index, members.gather(1, places))

    def _compared(self, queries: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield all similarities, and the largest of each group of each block."""
        if not queries.is_cpu:
            yield queries @ self.bank.T, None
            return
        n = len(queries)
        for number, block in enumerate(self.bank.split(BLOCK)):
            start = number * BLOCK
            to_block = self.similarity[:n, start : start + BLOCK]
            torch.mm(queries, block.T, out=to_block[:, : len(block)])
            groups = to_block.unflatten(1, (GROUP, BLOCK // GROUP))
            torch.amax(groups, 1, out=self.largest[:n, number])
        parts = self.similarity[:n].split(PART), self.largest[:n].split(PART)
        yield from zip(*parts, strict=True)
