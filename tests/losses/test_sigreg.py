import math

import pytest
import torch

from stable_ssl.losses import sigreg


def features(n=6, d=3, m=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=generator, dtype=torch.float64)
    directions = torch.randn(d, m, generator=generator, dtype=torch.float64)
    return z, directions / directions.norm(dim=0)


def epps_pulley_closed_form(x):
    """N int_R |phi_N(t) - exp(-t^2/2)|^2 exp(-t^2/2) dt, by Gaussian integrals."""
    n = len(x)
    pairs = sum(math.exp(-((a - b) ** 2) / 2) for a in x for b in x) / n**2
    cross = sum(math.exp(-(a**2) / 4) for a in x) / n * math.sqrt(1 / 2)
    return n * math.sqrt(2 * math.pi) * (pairs - 2 * cross + math.sqrt(1 / 3))


def quadrature(x):
    """The same from -3 to 3 by the trapezoidal rule, knot by knot."""
    total = 0.0
    for k in range(-16, 17):
        t = 3 * k / 16
        real = sum(math.cos(t * a) for a in x) / len(x) - math.exp(-t * t / 2)
        imaginary = sum(math.sin(t * a) for a in x) / len(x)
        weight = 3 / 16 * (0.5 if abs(k) == 16 else 1)
        total += weight * (real**2 + imaginary**2) * math.exp(-t * t / 2)
    return len(x) * total


def test_sigreg_equals_the_formula_of_the_paper():
    z, directions = features()
    along = (z @ directions).T.tolist()
    found = sigreg(z, directions).item()
    assert found == pytest.approx(sum(map(quadrature, along)) / 4, rel=1e-12)
    exact = sum(map(epps_pulley_closed_form, along)) / 4
    assert found == pytest.approx(exact, rel=0.02)  # the tails beyond 3


def test_a_gaussian_costs_about_one_and_other_distributions_more():
    z, directions = features(1000, 64, 128)
    expected = math.sqrt(2 * math.pi) * (1 - math.sqrt(1 / 3))  # of N(0, 1) rows, 1.06
    assert sigreg(z, directions).item() == pytest.approx(expected, rel=0.25)
    for other in (2 * z, z + 1, torch.zeros_like(z), z[:, :1] + 0 * z):
        assert sigreg(other, directions) > 20


def test_order_of_rows_and_signs_of_directions_change_nothing():
    z, directions = features()
    expected = sigreg(z, directions)
    torch.testing.assert_close(sigreg(z.flip(0), directions), expected)
    torch.testing.assert_close(sigreg(z, -directions.flip(1)), expected)


def test_the_gradient_equals_finite_differences():
    z, directions = features()
    assert torch.autograd.gradcheck(lambda z: sigreg(z, directions), z.requires_grad_())


def test_directions_of_another_width_are_refused_in_words():
    with pytest.raises(ValueError, match=r"use \(3, M\), normalised columns"):
        sigreg(torch.ones(4, 3), torch.ones(4, 16))
