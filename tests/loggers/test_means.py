"""Means between rows: values, weights, state."""

import math

import pytest
import torch

from stable_ssl.config import ConfigError
from stable_ssl.loggers.means import Means


def test_means_of_tensors_and_numbers():
    means = Means()
    means.add({"a": torch.tensor(1.0), "b": 2})
    means.add({"a": torch.tensor(3.0, dtype=torch.bfloat16), "b": torch.tensor([4.0])})
    assert means.take() == {"a": 2.0, "b": 3.0}
    assert means.take() == {}


def test_weights_make_the_mean_of_samples():
    means = Means()
    means.add({"a": 1.0}, weight=3)
    means.add({"a": torch.tensor(5.0)}, weight=1)
    assert means.take()["a"] == pytest.approx(2.0)


def test_no_graph_is_kept():
    means, w = Means(), torch.ones(1, requires_grad=True)
    means.add({"a": (2 * w).sum()})
    assert not means.values["a"][0].requires_grad


def test_a_value_that_changes_later_keeps_what_it_was():
    means, w = Means(), torch.ones(1, requires_grad=True)
    means.add({"a": w, "b": w[0]})
    with torch.no_grad():
        w += 1
    assert means.take() == {"a": 1.0, "b": 1.0}


def test_a_restored_state_gives_the_same_mean_to_the_last_bit():
    values = torch.rand(7, generator=torch.Generator().manual_seed(0))
    whole, before, after = Means(), Means(), Means()
    for i, value in enumerate(values):
        whole.add({"a": value})
        if i < 3:
            before.add({"a": value})
        if i == 3:
            after.load_state(before.state())
        if i >= 3:
            after.add({"a": value})
    assert whole.take() == after.take()


def test_what_overflows_is_not_finite_and_no_error():
    means = Means()
    for a, b in ((math.inf, 1e308), (-math.inf, 1e308)):
        means.add({"a": torch.tensor(a), "b": b})
    found = means.take()
    assert math.isnan(found["a"]) and found["b"] == math.inf


@pytest.mark.parametrize("value", ["high", None, torch.zeros(2)])
def test_what_is_no_scalar_is_named(value):
    means = Means()
    means.add({"train/loss": 1.0, "train/mine": value})
    with pytest.raises(ConfigError, match="^train/mine was logged with something"):
        means.take()


def test_sums_last_values_and_functions_of_all():
    means = Means()
    for value in (1.0, 4.0, 2.0):
        means.add({"sum": value}, reduce="sum")
        means.add({"last": torch.tensor(value)}, weight=3, reduce="last")
        means.add({"median": torch.tensor([value, 9.0])}, reduce=torch.median)
        means.add({"mean": value})
    again = Means()
    kept = {n: v for n, v in means.values.items() if n != "median"}
    means.values, median = kept, means.values["median"]
    again.load_state(means.state())
    again.add({"median": torch.cat(median)}, reduce=torch.median)
    assert again.take() == {"sum": 7.0, "last": 2.0, "mean": 7 / 3, "median": 4.0}
    with pytest.raises(ConfigError, match="use mean, sum, last"):
        means.add({"x": 1.0}, reduce="max")
