"""Metrics of a split are those of all its samples, however they are batched."""

import math

import pytest
import torch

from stable_ssl import ConfigError, distributed
from stable_ssl.evaluation.predictions import (
    Accuracy,
    Scores,
    auroc,
    average_precision,
    mean_average_precision,
)

generator = torch.Generator().manual_seed(0)
LOGITS = torch.randn(103, 10, generator=generator)
LABELS = torch.randint(0, 10, (103,), generator=generator)


def scored(scores, predictions, labels, size=20):
    for batch in zip(predictions.split(size), labels.split(size), strict=True):
        scores.update(*batch)
    return scores.compute()


def test_top_1_and_top_5_over_uneven_batches():
    ranks = (LOGITS > LOGITS.gather(1, LABELS[:, None])).sum(1)
    assert scored(Scores(), LOGITS, LABELS) == {
        "acc1": (ranks < 1).sum().item() / 103,
        "acc5": (ranks < 5).sum().item() / 103,
    }


def test_few_classes_have_no_top_5():
    accuracy = Accuracy()
    accuracy.update(torch.eye(3), torch.tensor([0, 1, 0]))
    assert accuracy.compute() == {"acc1": 2 / 3}


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_logits_that_are_no_numbers_have_no_score(task):
    scores, logits = Scores(task, {"own": lambda x, y: 1.0}), LOGITS.clone()
    labels = LABELS if task == "multiclass" else (LOGITS > 0).long()
    logits[3, 0] = math.nan
    pair = (logits[:, 0], labels[:, 0]) if task == "binary" else (logits, labels)
    found = scored(scores, *pair)
    assert len(found) > 1 and all(map(math.isnan, found.values()))


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_nothing_seen_is_nothing_reported(task):
    assert Scores(task).compute() == {}


def precision_by_hand(scores, labels):
    """Mean, over the positives, of the precision at each one's place."""
    order = sorted(zip(scores.tolist(), labels.tolist(), strict=True), reverse=True)
    hits, total = 0, 0.0
    for place, (_, label) in enumerate(order, 1):
        hits += label
        total += label * hits / place
    return total / hits


def test_binary_is_accuracy_at_a_half_and_two_rankings():
    logits, labels = LOGITS[:, 0], (LABELS < 4).float()
    found = scored(Scores("binary"), logits, labels)
    pairs = [(p, n) for p in logits[labels > 0] for n in logits[labels == 0]]
    assert found == {
        "acc1": pytest.approx(((logits.sigmoid() > 0.5) == labels).float().mean()),
        "ap": pytest.approx(precision_by_hand(logits, labels)),
        "auroc": pytest.approx(sum(p > n for p, n in pairs) / len(pairs)),
    }


def test_multilabel_is_the_mean_over_the_classes_that_occur():
    labels = (LOGITS + torch.randn(103, 10, generator=generator) > 1).long()
    labels[:, 3] = 0
    classes = [c for c in range(10) if c != 3]
    expected = [precision_by_hand(LOGITS[:, c], labels[:, c]) for c in classes]
    found = scored(Scores("multilabel"), LOGITS, labels.float())
    assert found == {"map": pytest.approx(sum(expected) / 9)}


ONE = LOGITS[:, 0]
SOFT = torch.linspace(0, 1, 103)


@pytest.mark.parametrize(
    ("task", "predictions", "labels", "same"),
    [
        ("binary", ONE[:, None], LABELS % 2, (ONE, LABELS % 2)),
        ("binary", ONE[:, None], (LABELS % 2)[:, None], (ONE, LABELS % 2)),
        ("binary", ONE, (LABELS % 2).float()[:, None], (ONE, LABELS % 2)),
        ("multiclass", LOGITS, LABELS[:, None], (LOGITS, LABELS)),
        ("multiclass", LOGITS, LABELS.int(), (LOGITS, LABELS)),
        ("multilabel", ONE[:, None], LABELS % 2, (ONE[:, None], LABELS[:, None] % 2)),
    ],
)
def test_a_column_is_as_good_as_a_row(task, predictions, labels, same):
    assert scored(Scores(task), predictions, labels) == scored(Scores(task), *same)


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_pixels_are_counted_as_samples_are(task):
    predictions, labels = {
        "multiclass": (LOGITS, LABELS),
        "binary": (ONE, LABELS % 2),
        "multilabel": (LOGITS, (LOGITS > 0.5).long()),
    }[task]

    def maps(x):
        x = x[:100].view(4, 5, 5, *x.shape[1:])
        return x.movedim(3, 1) if x.ndim > 3 else x

    found = scored(Scores(task), maps(predictions), maps(labels))
    assert found == scored(Scores(task), predictions[:100], labels[:100])


@pytest.mark.parametrize(
    ("task", "predictions", "labels", "words"),
    [
        (
            "multiclass",
            LOGITS,
            torch.eye(10)[LABELS],
            r"labels of \(20, 10\); the task",
        ),
        ("multiclass", LOGITS, [3] * 20, "for list; the task is multiclass"),
        ("multiclass", ONE, LABELS, r"returned \(20,\)"),
        ("binary", LOGITS, LABELS % 2, r"predictions \(N,\) and labels \(N,\)"),
        ("multilabel", LOGITS, LABELS, r"labels of \(20,\)"),
    ],
)
def test_shapes_that_are_not_those_of_the_task_are_refused(
    task, predictions, labels, words
):
    with pytest.raises(ConfigError, match=words):
        Scores(task).update(predictions[:20], labels[:20])


@pytest.mark.parametrize(
    ("task", "predictions", "labels", "words"),
    [
        ("binary", ONE, SOFT, "from 0 to 1, and acc1, ap, auroc need 0 or 1"),
        ("binary", ONE, LABELS, "from 0 to 9"),
        ("multilabel", ONE[:, None], SOFT[:, None], "map need 0 or 1"),
        ("multilabel", LOGITS, LOGITS.sign(), "from -1 to 1"),
        ("multiclass", LOGITS, SOFT, "mine need whole numbers"),
    ],
)
def test_labels_that_are_not_those_of_the_task_are_refused(
    task, predictions, labels, words
):
    scores = Scores(task, {"mine": len} if task == "multiclass" else {})
    with pytest.raises(ConfigError, match=words):
        scored(scores, predictions, labels)


def test_a_ranking_of_one_kind_is_no_number():
    x, none = torch.randn(4), torch.zeros(4)
    assert math.isnan(average_precision(x, none)) and math.isnan(auroc(x, none))
    assert math.isnan(auroc(x, none + 1)) and average_precision(x, none + 1) == 1
    assert math.isnan(mean_average_precision(x[:, None], none[:, None]))


def on_a_part(world):
    """Score this rank's part of each batch, of which the last leaves some without."""
    own, rank = {}, distributed.rank()
    order = {"order": lambda p, y: (p[:, 0] * torch.arange(len(p))).sum()}
    labels = {"multiclass": LABELS, "multilabel": (LOGITS > 0.5).long()}
    for task, y in labels.items():
        scores = Scores(task, order)
        for batch in zip(LOGITS.split(17), y.split(17), strict=True):
            part = [t.tensor_split(world)[rank] for t in batch]
            if len(part[1]):
                scores.update(*part)
        own[task] = scores.compute()
    return own


@pytest.mark.slow
def test_ranks_report_the_whole_split(ranks):
    """103 = 6 x 17 + 1: of the last batch the second rank has nothing."""
    (whole,) = ranks(1, on_a_part, 1)
    assert set(whole["multiclass"]) == {"acc1", "acc5", "order"}
    for found in ranks(2, on_a_part, 2):
        for task, values in whole.items():
            assert found[task] == pytest.approx(values, rel=1e-6)
