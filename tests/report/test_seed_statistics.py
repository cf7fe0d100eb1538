"""Seeds as a sample: against scipy and the formulas written out."""

import math
import warnings

import pytest
from scipy import stats

from stable_ssl.tools.seed_statistics import sample, told_apart

A, B = [97.1, 97.4, 97.9, 97.2], [96.2, 96.9, 96.4]


def test_mean_deviation_and_interval_of_the_formulas():
    found = sample(A)
    mean = sum(A) / 4
    std = math.sqrt(sum((a - mean) ** 2 for a in A) / 3)
    assert (found.n, found.mean) == (4, pytest.approx(mean, rel=1e-14))
    assert found.std == pytest.approx(std, rel=1e-14)
    low, high = stats.t.interval(0.95, 3, mean, std / 2)
    assert found.ci95 == pytest.approx((high - low) / 2, rel=1e-12)


def test_one_value_has_no_spread_and_none_is_no_sample():
    one = sample([0.5, math.nan, None])
    assert one.n == 1 and math.isnan(one.std) and math.isnan(one.ci95)
    assert sample([math.nan, math.inf]) is None


def test_welchs_statistic_of_its_formula_decides():
    a, b = sample(A), sample(B)
    parts = a.std**2 / a.n, b.std**2 / b.n
    t = (a.mean - b.mean) / math.sqrt(sum(parts))
    freedom = sum(parts) ** 2 / sum(
        p**2 / (s.n - 1) for p, s in zip(parts, (a, b), strict=True)
    )
    p = 2 * stats.t.sf(abs(t), freedom)
    assert p < 0.05 and told_apart(a, b) and told_apart(b, a)
    near = sample([v + (a.mean - b.mean) - 0.2 for v in B])
    assert not told_apart(a, near)


@pytest.mark.parametrize(
    ("a", "b", "apart"),
    [
        ([1.0], [1.0], False),
        ([1.0], [1.1, 1.2], True),  # one value tells nothing of its spread
        ([1.0, 1.0], [1.0, 1.0], False),
        ([1.0, 1.0], [1.1, 1.1], True),
    ],
)
def test_samples_without_spread(a, b, apart):
    assert told_apart(sample(a), sample(b)) is apart


def test_seeds_that_agree_are_compared_without_a_warning():
    same, others = sample([98.75] * 3), sample([98.0, 98.5, 99.25])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not told_apart(same, others)
        assert told_apart(same, sample([97.0, 97.1, 97.2]))
