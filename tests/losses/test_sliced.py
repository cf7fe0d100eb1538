from statistics import NormalDist

import pytest
import torch
from torch.nn.functional import normalize

from stable_ssl.losses import visreg


def features(n=9, d=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


DIRECTIONS = normalize(features(4, 7, seed=1), dim=0)


def visreg_reference(z, directions):
    """The three parts of the VISReg paper, feature by feature and slice by slice."""
    n, d = z.shape
    means = [z[:, j].mean().item() for j in range(d)]
    stds = [((z[:, j] - means[j]) ** 2).mean().sqrt().item() + 1e-6 for j in range(d)]
    total = sum(m**2 for m in means) / d + sum((1 - s) ** 2 for s in stds) / d
    white = (z - torch.tensor(means, dtype=z.dtype)) / torch.tensor(stds, dtype=z.dtype)
    for slice_ in directions.T:
        for i, x in enumerate(sorted((white @ slice_).tolist()), 1):
            gap = x - NormalDist().inv_cdf(i / (n + 1))
            total += gap**2 / n / directions.shape[1]
    return total


def test_visreg_equals_the_formula_of_the_paper():
    z = 2 * features() + 1
    expected = visreg_reference(z, DIRECTIONS)
    assert visreg(z, DIRECTIONS).item() == pytest.approx(expected, rel=1e-10)


def test_the_deviation_of_the_shape_is_a_constant_to_the_gradient():
    """Scaled, features keep their shape; the gradient of that part does not know."""
    z = features().requires_grad_()
    std = (z.detach().std(0, correction=0) + 1e-6).requires_grad_(False)
    (found,) = torch.autograd.grad(visreg(z, DIRECTIONS), z)
    centred = z - z.mean(0)
    along = (centred / std) @ DIRECTIONS
    n = len(z)
    places = [NormalDist().inv_cdf(i / (n + 1)) for i in range(1, n + 1)]
    shape = along.sort(0).values - torch.tensor(places, dtype=z.dtype)[:, None]
    scale = 1 - (z.std(0, correction=0) + 1e-6)
    parts = z.mean(0), scale, shape
    expected = sum(part.square().mean() for part in parts)
    (reference,) = torch.autograd.grad(expected, z)
    torch.testing.assert_close(found, reference)


def test_a_gaussian_is_nearly_free_and_collapse_is_not():
    z = features(4000)
    assert visreg(z, DIRECTIONS) < 0.01
    near = (1e-4 * z).requires_grad_()
    collapsed = visreg(near, DIRECTIONS)
    (grad,) = torch.autograd.grad(collapsed, near)
    assert collapsed > 0.9
    assert grad.norm() > 1e-2  # it does not fade where features come together


@pytest.mark.parametrize(
    "z, directions, words",
    [
        (torch.ones(1, 3), torch.ones(3, 2), "N=1 over all ranks"),
        (torch.ones(4, 3), torch.ones(2, 3), r"use \(3, M\)"),
    ],
)
def test_wrong_input_is_refused_in_words(z, directions, words):
    with pytest.raises(ValueError, match=words):
        visreg(z, directions)
