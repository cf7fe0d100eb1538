"""Few-label accuracy: balanced draws, standardised features, chance for noise."""

import pytest
import torch

from stable_ssl.data.few_labels import choose_few
from stable_ssl.evaluation.bank import standardiser
from stable_ssl.evaluation.few_labels import FewLabels, few_label_accuracy
from stable_ssl.evaluation.logistic import logistic_accuracy


def blobs(spread):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    centres = torch.randn(4, 8, generator=generator)
    x = centres[labels] + spread * torch.randn(400, 8, generator=generator)
    return (x[:200], labels[:200]), (x[200:], labels[200:])


def test_more_labels_are_better_and_far_clusters_are_solved():
    bank, queries = blobs(spread=0.05)
    assert few_label_accuracy(bank, queries, "2") == 1.0
    bank, queries = blobs(spread=1.0)
    few, more = (few_label_accuracy(bank, queries, k) for k in ("2", "50"))
    assert 0.25 < few < more < 1


def test_noise_is_chance():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2000, 8, generator=generator), torch.arange(2000) % 4
    found = few_label_accuracy((x[:1000], y[:1000]), (x[1000:], y[1000:]), "10")
    assert abs(found - 0.25) < 0.04


def test_the_draws_are_a_function_of_the_seed():
    bank, queries = blobs(spread=1.0)
    found = [few_label_accuracy(bank, queries, "2", seed=s) for s in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_a_bank_of_one_class_predicts_it():
    """A single batch, as fast_dev_run sees it, may hold one class or one image."""
    queries = torch.randn(8, 4), torch.tensor([3, 3, 0, 1, 2, 4, 5, 6])
    for n in (5, 1):
        bank = torch.randn(n, 4), torch.full((n,), 3)
        assert few_label_accuracy(bank, queries, "2") == 0.25


def test_a_share_is_of_each_class_and_at_least_one_label():
    y = torch.tensor([0] * 200 + [1] * 30 + [2] * 3)
    few = choose_few(y, "10%", seed=0, draw=0)
    assert y[few].bincount().tolist() == [20, 3, 1]
    assert y[choose_few(y, "0.1%", 0, 0)].bincount().tolist() == [1, 1, 1]
    assert y[choose_few(y, "10", 0, 0)].bincount().tolist() == [10, 10, 3]
    assert not torch.equal(few, choose_few(y, "10%", seed=0, draw=1))


def test_all_labels_are_logistic_regression_on_the_bank():
    bank, queries = blobs(spread=1.0)
    scaled = standardiser(bank)
    scaled = [(scaled(x), y) for x, y in (bank, queries)]
    found = few_label_accuracy(bank, queries, "100%")
    assert found == pytest.approx(logistic_accuracy(*scaled))


def test_a_name_stands_for_one_number_of_labels():
    names = list(FewLabels(["2", "10", "1%", "0.5%"]).metrics)
    assert names == ["few2_acc1", "few10_acc1", "few1pct_acc1", "few0.5pct_acc1"]
