"""Ranks and decay of spectra, against the formulas and cases with known answers."""

import math

import numpy
import pytest
import torch

from stable_ssl.evaluation.evaluator import Split
from stable_ssl.evaluation.spectrum import (
    Spectrum,
    alpha_req,
    covariance_spectrum,
    lidar,
    rankme,
)

generator = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def with_spectrum(n, singular):
    """Return centred features (n, D) of exactly these singular values, rotated."""
    d = len(singular)
    left = torch.linalg.qr(normal(n, d) - 1 / n)[0]
    left = torch.linalg.qr(left - left.mean(0))[0]
    return left @ torch.diag(singular) @ torch.linalg.qr(normal(d, d))[0]


def entropy_rank(values):
    """Eq. 1 to 3 of the RankMe paper, term by term."""
    shares = [value / sum(values) + 1e-7 for value in values]
    return math.exp(-sum(p * math.log(p) for p in shares))


def test_rankme_equals_the_formula_of_the_paper():
    x = normal(40, 7) * torch.arange(1, 8)
    values = numpy.linalg.svd(x.numpy(), compute_uv=False).tolist()
    assert rankme(x) == pytest.approx(entropy_rank(values), rel=1e-12)


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_an_isotropic_gaussian_of_rank_r_has_rankme_r(rank):
    x = normal(20_000, rank) @ torch.linalg.qr(normal(16, rank))[0].T
    assert rankme(x) == pytest.approx(rank, rel=0.01)


@pytest.mark.parametrize("n", [1, 50])
def test_collapse_is_rank_1(n):
    assert rankme(torch.ones(n, 8)) == pytest.approx(1, abs=1e-4)
    assert 0 < rankme(torch.zeros(n, 8)) < 1.1
    assert math.isnan(alpha_req(torch.ones(n, 8)))
    assert math.isnan(alpha_req(torch.full((n, 8), 0.1) + 1e-17 * normal(n, 8)))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.3])
def test_alpha_req_finds_the_exponent_at_any_scale(alpha):
    j = torch.arange(1, 33, dtype=torch.float64)
    x = with_spectrum(100, j ** (-alpha / 2))
    for scale in (1e-3, 1.0, 1e3):
        assert alpha_req(scale * x + 5) == pytest.approx(alpha, abs=1e-8)


def test_alpha_req_ignores_directions_that_are_not_there():
    """Dead features have eigenvalues of rounding, whose logarithms are noise."""
    j = torch.arange(1, 9, dtype=torch.float64)
    x = with_spectrum(100, 1 / j)
    padded = torch.cat([x, torch.zeros(100, 8), x[:, :1]], 1)
    assert alpha_req(padded) < 4


def measured(features, views=None):
    """Return what the evaluator yields, and its eigenvalues."""
    evaluator = Spectrum()
    split = Split("val", features, None, views, None, True, None, 0)
    return dict(evaluator(split)), evaluator.eigenvalues


def test_the_spectrum_is_that_of_the_covariance():
    x = normal(60, 5) * torch.arange(1, 6) + 7
    expected = numpy.linalg.eigvalsh(numpy.cov(x.T.numpy(), bias=True))[::-1]
    found, eigenvalues = measured(x)
    assert eigenvalues == pytest.approx(expected.tolist(), rel=1e-10)
    assert found["alpha_req"] == alpha_req(x)
    assert covariance_spectrum(torch.full((9, 3), 0.1)).tolist() == [0, 0, 0]


def lidar_reference(views, delta=1e-4):
    """Section 4 of the paper: dense matrices, one outer product at a time."""
    x = views.numpy()
    n, q, d = x.shape
    mu, s_b, s_w = x.mean((0, 1)), numpy.zeros((d, d)), delta * numpy.eye(d)
    for image in x:
        own = image.mean(0)
        s_b += numpy.outer(own - mu, own - mu) / n
        for view in image:
            s_w += numpy.outer(view - own, view - own) / (n * q)
    values, vectors = numpy.linalg.eigh(s_w)
    root = vectors @ numpy.diag(values**-0.5) @ vectors.T
    return entropy_rank(numpy.linalg.eigvalsh(root @ s_b @ root).clip(0).tolist())


def test_lidar_equals_the_formula_of_the_paper():
    views = normal(30, 1, 6) * torch.arange(1, 7) + 0.3 * normal(30, 5, 6)
    assert lidar(views) == pytest.approx(lidar_reference(views), rel=1e-9)


def test_lidar_counts_the_directions_that_tell_images_apart():
    images = torch.cat([normal(5000, 1, 4), torch.zeros(5000, 1, 12)], 2)
    assert lidar(images + 1e-3 * normal(5000, 4, 16)) == pytest.approx(4, rel=0.05)


def test_lidar_discounts_what_views_vary():
    """RankMe sees 8 equal directions; 6 of them vary as much within an image."""
    noise = torch.cat([torch.full((2,), 1e-2), torch.full((6,), 30.0)])
    views = normal(2000, 1, 8) + noise * normal(2000, 10, 8)
    assert lidar(views) == pytest.approx(2, rel=0.05)
    with pytest.raises(ValueError, match="1 view of an image, expected 2"):
        lidar(views[:, :1])


def test_all_are_computed_in_float64():
    x = normal(50, 8) * torch.logspace(0, -4, 8)
    half = x.float()
    assert rankme(half) == rankme(half.double())
    assert alpha_req(half) == alpha_req(half.double())


def test_features_that_are_not_finite_end_no_run():
    """Decompositions raise on them; that the loss diverges is said elsewhere."""
    x = torch.full((10, 4), math.nan)
    found, eigenvalues = measured(x, x[:, None].repeat(1, 3, 1))
    assert eigenvalues == [] and len(found) == 6
    assert all(math.isnan(value) for value in found.values())
