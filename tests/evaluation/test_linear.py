"""Classifiers of frozen features: all rates at once, chosen without the test split."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from stable_ssl.evaluation.bank import standardiser
from stable_ssl.evaluation.config import OfflineConfig
from stable_ssl.evaluation.linear import classifiers, linear_accuracy

QUICK = OfflineConfig(epochs=5, batch_size=64)


def blobs(n=400, spread=1.0, classes=4, dim=8):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, dim, generator=generator)
    x = centres[labels] + spread * torch.randn(n, dim, generator=generator)
    return (x[: n // 2], labels[: n // 2]), (x[n // 2 :], labels[n // 2 :])


def trained_alone(x, y, lr, epochs, batch_size, seed):
    """Train one linear layer with torch's optimizer and schedule."""
    from stable_ssl import seeding

    layer = nn.Linear(x.shape[1], 4, dtype=x.dtype)
    nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr, momentum=0.9)
    steps = epochs * -(-len(y) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        order = seeding.permutation(len(y), seed, 1, epoch)
        for rows in order.split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return layer


def test_each_rate_is_fitted_as_if_alone():
    (x, y), (test, _) = blobs()
    x, test, lrs = 3 * x.double() + 1, 3 * test.double() + 1, [1e-3, 1e-1, 10.0]
    logits = classifiers((x, y), 4, lrs, epochs=3, batch_size=64, seed=5)(test)
    scaled = standardiser((x, y))
    for lr, found in zip(lrs, logits, strict=True):
        layer = trained_alone(scaled(x), y, lr, 3, 64, 5)
        torch.testing.assert_close(found, layer(scaled(test)), rtol=1e-6, atol=1e-8)


def test_the_optimum_is_that_of_logistic_regression():
    (x, y), (test, _) = blobs(spread=2.0)  # not separable: the optimum is finite
    x, test = x.double(), test.double()
    logits = classifiers((x, y), 4, [1.0], 1000, 200, seed=0)(test)[0]
    scaled = standardiser((x, y))
    model = LogisticRegression(C=1e6, max_iter=5000).fit(scaled(x).numpy(), y)
    expected = torch.from_numpy(model.predict_proba(scaled(test).numpy()))
    torch.testing.assert_close(logits.softmax(1), expected, rtol=0, atol=2e-3)


def test_features_of_any_scale_give_one_accuracy():
    bank, queries = blobs()
    found = [
        linear_accuracy((s * bank[0], bank[1]), (s * queries[0], queries[1]), 4, QUICK)
        for s in (1, 2.0**-9, 2.0**9)
    ]
    assert found[0] == found[1] == found[2]
    assert found[0]["acc1"] > 0.6


def test_the_rate_is_chosen_on_the_bank_alone():
    """The test labels are wrong: the rate and the weights stay what they are."""
    bank, (x, y) = blobs()
    right = linear_accuracy(bank, (x, y), 4, QUICK)
    wrong = linear_accuracy(bank, (x, (y + 1) % 4), 4, QUICK)
    assert right["lr"] == wrong["lr"]
    assert right["acc1"] > 0.6 > 0.3 > wrong["acc1"]


def test_a_rate_that_diverges_is_not_chosen():
    bank, queries = blobs()
    found = linear_accuracy(bank, queries, 4, OfflineConfig(lrs=[1e30, 1e-2], epochs=5))
    assert found["lr"] == 1e-2


def test_of_rates_that_are_equally_good_the_smallest_is_chosen():
    bank, queries = blobs(spread=0.01)
    found = linear_accuracy(
        bank, queries, 4, OfflineConfig(lrs=[0.3, 0.01, 0.1], epochs=20)
    )
    assert found == {"acc1": 1.0, "lr": 0.01}


def test_it_is_a_function_of_the_seed():
    (x, y), (test, _) = blobs(classes=8)
    a, b, c = (
        classifiers((x, y), 8, [0.1], epochs=2, batch_size=32, seed=s)(test)
        for s in (0, 0, 1)
    )
    assert torch.equal(a, b) and not torch.equal(a, c)
    found = linear_accuracy((x, y), (test, y), 8, QUICK)
    assert set(found) == {"acc1", "acc5", "lr"}


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_bank_of_one_class_predicts_it(n):
    """A single batch, as fast_dev_run sees it, may hold one class or one image."""
    queries = torch.randn(8, 4), torch.tensor([3, 3, 0, 1, 2, 4, 1, 2])
    bank = torch.randn(n, 4), torch.full((n,), 3)
    assert linear_accuracy(bank, queries, 5, OfflineConfig())["acc1"] == 0.25
