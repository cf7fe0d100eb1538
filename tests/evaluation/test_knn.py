"""Nearest neighbours against a plain loop of the paper's rule."""

import math

import pytest
import torch
import torch.nn.functional as F

from stable_ssl.evaluation import knn
from stable_ssl.evaluation.config import Eval, KnnConfig, OfflineConfig
from stable_ssl.evaluation.evaluator import Split
from stable_ssl.evaluation.knn import Knn, _nearest, _votes, knn_accuracy
from stable_ssl.evaluation.suite import asked_for
from stable_ssl.schema import ConfigError


def reference(bank, bank_labels, query, classes, k, temperature):
    """Return the votes for one query, in Python (section 3.4 of the paper)."""
    unit = [b / b.norm() for b in bank.double()]
    similarity = [float(query.double() / query.double().norm() @ b) for b in unit]
    nearest = sorted(range(len(bank)), key=lambda i: -similarity[i])[:k]
    votes = [0.0] * classes
    for i in nearest:
        votes[int(bank_labels[i])] += math.exp(similarity[i] / temperature)
    return torch.tensor(votes) / math.exp(similarity[nearest[0]] / temperature)


def knn_scores(bank, labels, queries, classes, k, temperature=0.07):
    return _votes(*_nearest(bank, queries, k), labels, classes, temperature)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(50, 8, generator=generator).split([40, 10])
    labels = torch.randint(0, 4, (40,), generator=generator)
    return bank, labels, queries


@pytest.mark.parametrize("k", [1, 5, 20, 100])
def test_votes_are_the_papers(data, k):
    bank, labels, queries = data
    scores = knn_scores(bank, labels, queries, 4, k=k, temperature=0.1)
    for query, votes in zip(queries, scores, strict=True):
        expected = reference(bank, labels, query, 4, k, 0.1)
        torch.testing.assert_close(votes, expected.float(), rtol=1e-4, atol=1e-5)


def test_chunks_do_not_matter(data, monkeypatch):
    bank, labels, queries = data
    truth = torch.arange(10) % 4
    whole = knn_accuracy((bank, labels), (queries, truth), 4)
    monkeypatch.setattr(knn, "QUERIES", 3)
    assert whole == knn_accuracy((bank, labels), (queries, truth), 4)


def test_classes_absent_from_the_bank_are_no_error():
    """The number of classes is the dataset's, not that of the labels present."""
    bank, labels = torch.eye(3), torch.tensor([0, 1, 2])
    found = knn_accuracy(
        (bank, labels), (torch.eye(3), torch.tensor([0, 1, 9])), 10, k=1
    )
    assert found["acc1"] == pytest.approx(2 / 3)


def test_a_point_is_its_own_nearest_neighbour(data):
    bank, labels, _ = data
    assert knn_accuracy((bank, labels), (bank, labels), 4, k=1) == {"acc1": 1.0}


def test_a_low_temperature_is_the_nearest_neighbour_alone(data):
    bank, labels, queries = data
    cold = knn_scores(bank, labels, queries, 4, k=20, temperature=1e-4)
    nearest = knn_scores(bank, labels, queries, 4, k=1)
    assert torch.equal(cold.argmax(1), nearest.argmax(1))


def test_a_class_without_a_vote_is_no_answer():
    bank = torch.eye(10), torch.arange(10)
    queries = torch.eye(10), torch.arange(10).roll(1)
    assert knn_accuracy(bank, queries, 10, k=1) == {"acc1": 0, "acc5": 0}


def test_features_that_are_not_finite_have_no_accuracy():
    x, y = torch.eye(10), torch.arange(10)
    config = Eval(few_labels=["1"], offline=OfflineConfig(), linear=None)
    split = Split("test", x / 0, y, None, (x, y), False, 10, 0)
    values = dict(pair for _, e in asked_for(config) for pair in e(split))
    assert list(values) == ["knn_acc1"] and math.isnan(values["knn_acc1"])


def test_the_default_of_a_small_bank_is_all_of_it_and_said():
    """A folder of a few images is measured; another number is what was asked for."""
    small = Knn(KnnConfig())
    small.check_bank(4, None)
    assert small.k == 4 and "knn_acc5" not in small.metrics
    assert "k=4" in small.metrics["knn_acc1"].protocol
    with pytest.raises(ConfigError, match="knn.k=21, but the bank has 4 images"):
        Knn(KnnConfig(k=21)).check_bank(4, None)


def by_a_stable_sort(bank, queries, k):
    """Return the k largest similarities and their rows, the least of equal ones."""
    similarity = F.normalize(queries) @ F.normalize(bank).T
    found = similarity.sort(dim=1, descending=True, stable=True)
    return found.values[:, :k], found.indices[:, :k]


@pytest.mark.parametrize("kind", ["apart", "pairs", "collapsed"])
@pytest.mark.parametrize("slab", [1, 2**26])  # of one block, of all
@pytest.mark.parametrize("size", [1024, 3000])
def test_a_search_by_groups_finds_what_all_similarities_say(
    size, slab, kind, monkeypatch
):
    """Of a bank with twins or of one direction, the first of equals are near."""
    monkeypatch.setattr(knn, "SLAB", slab)
    generator = torch.Generator().manual_seed(0)
    bank = torch.randint(-9, 9, (size, 6), generator=generator).float()
    if kind == "apart":
        bank = torch.randn(size, 6, generator=generator)
    if kind == "collapsed":
        bank = torch.ones(size, 6)
    queries = torch.randn(9, 6, generator=generator)
    labels = torch.randint(0, 5, (size,), generator=generator)
    for k in (1, 4, 14):
        nearest, index = by_a_stable_sort(bank, queries, k)
        weight = ((nearest - nearest[:, :1]) / 0.07).exp()
        expected = torch.zeros(9, 5).scatter_add_(1, labels[index], weight)
        found = knn_scores(bank, labels, queries, 5, k)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 7, 150])
@pytest.mark.parametrize("slab", [16 * 1024, 2**26])  # of a block of the bank, of all
def test_any_number_at_a_time_finds_the_same(rows, slab, monkeypatch):
    monkeypatch.setattr(knn, "SLAB", slab)
    monkeypatch.setattr(knn, "ROWS", rows)
    monkeypatch.setattr(knn, "SCORES", 1)
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(6150, 16, generator=generator).split([6000, 150])
    similarity, index = by_a_stable_sort(bank, queries, 20)
    nearest, places = knn._nearest(bank, queries, 20)
    order = nearest.argsort(1, descending=True)
    torch.testing.assert_close(nearest.gather(1, order), similarity)
    assert torch.equal(places.gather(1, order), index)


def test_the_bank_is_normalised_once_for_all_queries_that_memory_allows(
    data, monkeypatch
):
    bank, labels, queries = data
    seen, unit = [], knn._unit
    monkeypatch.setattr(knn, "_unit", lambda x: seen.append(len(x)) or unit(x))
    monkeypatch.setattr(knn, "ROWS", 3)
    monkeypatch.setattr(knn, "SCORES", 1)
    knn_accuracy((bank, labels), (queries, torch.arange(10) % 4), 4)
    assert seen == [10, 40]
