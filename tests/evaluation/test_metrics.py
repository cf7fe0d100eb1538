"""Accuracy over a split is that of all its samples, however they are batched."""

import torch

from stable_ssl.evaluation.metrics import Accuracy


def test_top_1_and_top_5_over_uneven_batches():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(103, 10, generator=generator)
    labels = torch.randint(0, 10, (103,), generator=generator)
    accuracy = Accuracy()
    for x, y in zip(logits.split(20), labels.split(20), strict=True):
        accuracy.update(x, y)
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert accuracy.compute() == {
        "acc1": (ranks < 1).sum().item() / 103,
        "acc5": (ranks < 5).sum().item() / 103,
    }


def test_few_classes_have_no_top_5():
    accuracy = Accuracy()
    accuracy.update(torch.eye(3), torch.tensor([0, 1, 0]))
    assert accuracy.compute() == {"acc1": 2 / 3}


def test_nothing_seen_is_nothing_reported():
    assert Accuracy().compute() == {}
