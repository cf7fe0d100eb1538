"""Alignment, uniformity and spread, against the formulas and the extremes."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from stable_ssl.evaluation.collapse import (
    alignment,
    collapse_warning,
    feature_std,
    uniformity,
)


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_alignment_equals_the_formula_of_the_paper():
    x, y = normal(20, 5), normal(20, 5, seed=1)
    pairs = zip(normalize(x).tolist(), normalize(y).tolist(), strict=True)
    expected = sum(math.dist(u, v) ** 2 for u, v in pairs) / 20
    assert alignment(x, 7 * y) == pytest.approx(expected, rel=1e-12)
    assert alignment(x, 3 * x) == pytest.approx(0, abs=1e-12)
    assert alignment(x, -x) == pytest.approx(4)


@pytest.mark.parametrize("chunk", [4, 1024])
def test_uniformity_equals_the_formula_of_the_paper(chunk):
    x = normal(15, 5)
    unit = normalize(x).tolist()
    potentials = [
        math.exp(-2 * math.dist(unit[i], unit[j]) ** 2)
        for i in range(15)
        for j in range(i)
    ]
    expected = math.log(sum(potentials) / len(potentials))
    assert uniformity(7 * x, chunk=chunk) == pytest.approx(expected, rel=1e-10)


def test_uniformity_of_opposite_points_and_of_collapse():
    assert uniformity(torch.tensor([[1.0, 0], [-1, 0]])) == pytest.approx(-8)
    assert uniformity(torch.ones(50, 8)) == pytest.approx(0, abs=1e-12)
    assert math.isnan(uniformity(torch.ones(1, 8)))


def test_feature_std_is_1_if_isotropic_and_0_if_collapsed():
    assert feature_std(1e4 * normal(20_000, 32)) == pytest.approx(1, abs=0.01)
    assert feature_std(torch.ones(20, 32)) == pytest.approx(0, abs=1e-12)
    assert feature_std(torch.zeros(20, 32)) == 0
    few = torch.cat([normal(20_000, 2), torch.zeros(20_000, 30)], 1)
    assert feature_std(few) == pytest.approx((2 / 32) ** 0.5, abs=0.01)


def test_a_collapse_is_said_where_images_have_one_direction():
    """The bound of the docstring: a mean cosine of 1 - s^2."""
    for noise, warned in ((0.3, False), (0.06, False), (0.04, True), (0.0, True)):
        x = normalize(1 + noise * normal(5000, 64))
        std = feature_std(x)
        cosine = x.mean(0).square().sum().item()
        assert cosine == pytest.approx(1 - std**2, abs=1e-4)
        assert bool(collapse_warning(x)) is warned
    assert "feature_std=0, below 0.05" in collapse_warning(torch.zeros(9, 4))
    assert collapse_warning(torch.zeros(1, 4)) is None
    assert collapse_warning(torch.full((9, 4), math.nan)) is None  # it diverges
