"""What is measured on several processes is what one measures, each with its share."""

import os

import pytest
import torch

from stable_ssl import distributed, seeding
from stable_ssl.evaluation import knn
from stable_ssl.evaluation.bank import Bank, encode_bank, standardiser
from stable_ssl.evaluation.config import OfflineConfig
from stable_ssl.evaluation.few_labels import few_label_accuracy
from stable_ssl.evaluation.knn import knn_accuracy
from stable_ssl.evaluation.linear import classifiers, linear_accuracy
from stable_ssl.evaluation.logistic import logistic_accuracy

CLASSES = 7  # odd, so that ranks have unequal shares of them


def samples(n, seed, dim=12):
    """Return features (n, dim) with twins among them, and labels (n,)."""
    keys = seeding.sample_keys(0, seed, torch.arange(n))
    labels = seeding.randint(keys, CLASSES)
    x = seeding.normal(keys, (dim,))
    x[:, :CLASSES] += torch.nn.functional.one_hot(labels, CLASSES)
    x[1::9] = x[:1]
    return x, labels


def batches(x, y, size):
    """Yield this rank's consecutive part of each batch; the last one may be missing."""
    world, rank = distributed.world_size(), distributed.rank()
    for start in range(0, len(x), size):
        parts = (t[start : start + size].tensor_split(world)[rank] for t in (x, y))
        x_part, y_part = parts
        if start == 0 or len(y_part):
            yield x_part, y_part


def mine(x, y):
    """Return this rank's queries: none of the last."""
    world, rank = distributed.world_size(), distributed.rank()
    shares = [t.tensor_split(max(1, world - 1)) for t in (x, y)]
    return tuple(s[rank] if rank < len(s) else s[0][:0] for s in shares)


def measured():
    """Return what is measured on a bank that came by batches."""
    x, y = samples(203, 0)
    y = y.where(torch.arange(203) % 10 != 3, -1)
    bank = encode_bank(lambda view: view, batches(x, y, 50))
    queries = mine(*samples(61, 1))
    config = OfflineConfig(lrs=[1e-2, 0.1, 1e30], epochs=3, batch_size=40)
    found = {
        f"knn {k} {name}": value
        for k in (1, 5, 30, 900)
        for name, value in knn_accuracy(bank, queries, CLASSES, k).items()
    }
    found |= linear_accuracy(bank, queries, CLASSES, config)
    found["few"] = few_label_accuracy(bank, queries, "3", draws=2)
    scaled = standardiser(bank)
    whole = bank.whole(keep=distributed.is_main())
    assert (whole is None) == (distributed.rank() > 0)
    fitted = whole and (scaled(whole[0]), whole[1])
    found["logistic"] = logistic_accuracy(fitted, (scaled(queries[0]), queries[1]))
    return found, bank.whole(), bank.take(torch.tensor([100, 3, 100]))


def in_float64():
    """Return the logits of classifiers, and how many rows this rank held."""
    x, y = samples(150, 0)
    bank, rows = Bank.of((x.double(), y)), torch.arange(140).flip(0)
    fit = dict(lrs=[0.1, 1.0], epochs=4, batch_size=32, seed=1)
    logits = classifiers(bank, CLASSES, **fit, rows=rows)
    return logits(samples(20, 1)[0].double()), len(bank.features)


def compared():
    """Return how many pairs this rank compares, a portion of queries at a time."""
    pairs, search = [], knn._Search.__call__
    with pytest.MonkeyPatch.context() as patch:

        def counted(self, queries):
            pairs.append(len(self.bank) * len(queries))
            return search(self, queries)

        patch.setattr(knn, "QUERIES", 32)
        patch.setattr(knn._Search, "__call__", counted)
        knn_accuracy(samples(200, 0), mine(*samples(60, 1)), CLASSES)
    return sum(pairs)


def all_of_it():
    return measured(), in_float64(), compared()


@pytest.mark.parametrize("n", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_measure_as_one_and_each_does_its_share(ranks, n):
    (alone, whole, taken), (logits, size), pairs = all_of_it()
    x, y = samples(203, 0)
    known = torch.arange(203) % 10 != 3
    assert torch.equal(whole[0], x[known]) and torch.equal(whole[1], y[known])
    assert torch.equal(taken, x[known][[100, 3, 100]])
    assert pairs == 200 * 60
    several = ranks(n, all_of_it)
    assert sum(held for _, (_, held), _ in several) == size
    for (found, features, some), (again, held), share in several:
        assert found == alone
        assert all(map(torch.equal, features, whole)) and torch.equal(some, taken)
        torch.testing.assert_close(again, logits, rtol=1e-10, atol=1e-10)
        assert held <= size // n + 1 and share == pairs // n


def test_a_bank_of_halves_stays_in_halves_and_is_compared_in_float32():
    x, y = samples(90, 0)
    half = encode_bank(lambda view: view.bfloat16(), [(x, y)])
    assert half.features.dtype == torch.bfloat16
    single = x.bfloat16().float(), y
    queries = samples(30, 1)
    assert knn_accuracy(half, queries, CLASSES) == knn_accuracy(
        single, queries, CLASSES
    )
    assert half.take(torch.arange(90)).equal(single[0])
    assert encode_bank(lambda view: view.double(), [(x, y)]).features.equal(x)


def grown(size, dim):
    """Return the MB by which collecting, kNN and classifiers raise a rank's peak."""
    from benchmarks.measured import peak

    part, found = 512, []

    def noise(n):
        for key in range(n // part):
            keys = seeding.sample_keys(distributed.rank(), key, torch.arange(part // 2))
            yield seeding.normal(keys, (dim,)), torch.arange(part // 2) % CLASSES

    def run(n):
        bank = encode_bank(lambda x: x, noise(n))
        found.append(peak())
        queries = torch.ones(300, dim), torch.zeros(300, dtype=torch.long)
        knn_accuracy(bank, queries, CLASSES)
        found.append(peak())
        classifiers(bank, CLASSES, [0.1] * 9, 1, 256, seed=0)
        found.append(peak())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn, "SLAB", 2**22)
        run(4 * part)
        found[:] = [peak()]
        run(size)
    return [after - before for before, after in zip(found, found[1:], strict=False)]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="reads memory in /proc")
def test_no_rank_holds_the_bank_of_all(ranks):
    """Its own half is copied once where it is collected, and never after that."""
    size, dim = 2**17, 512
    own = size * dim * 4 / 2 / 1e6  # MB
    for collected, searched, fitted in ranks(2, grown, size, dim):
        assert collected < 3 * own + 20  # batches leave gaps between them
        assert searched < own / 2 and fitted < own / 2
