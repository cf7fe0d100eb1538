import math

import pytest
import torch

from stable_ssl.losses import barlow_twins, vicreg


def views(n=12, d=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, n, d, generator=generator, dtype=dtype)
    return torch.stack([3 + 2 * a, a + 0.5 * b])


def barlow_reference(z_a, z_b, weight):
    """Eq. 1 and 2 of the Barlow Twins paper, entry by entry; its code adds 1e-5."""
    a, b = (z - z.mean(0) for z in (z_a, z_b))
    total = 0.0
    for i in range(a.shape[1]):
        for j in range(a.shape[1]):
            norms = ((x**2).mean() + 1e-5 for x in (a[:, i], b[:, j]))
            c = ((a[:, i] * b[:, j]).mean() / math.prod(norms) ** 0.5).item()
            total += (1 - c) ** 2 if i == j else weight * c**2
    return total


def vicreg_reference(z_a, z_b, invariance, variance, covariance):
    """Eq. 1 to 6 of the VICReg paper; its variance term is v(Z) + v(Z')."""
    n, d = z_a.shape

    def v(z):
        deviations = [(z[:, j].var() + 1e-4).sqrt().item() for j in range(d)]
        return sum(max(0, 1 - s) for s in deviations) / d

    def c(z):
        centred = z - z.mean(0)
        matrix = sum(torch.outer(row, row) for row in centred) / (n - 1)
        others = [(i, j) for i in range(d) for j in range(d) if i != j]
        return sum(matrix[i, j].item() ** 2 for i, j in others) / d

    s = sum(((a - b) ** 2).sum().item() for a, b in zip(z_a, z_b, strict=True)) / n / d
    both = v(z_a) + v(z_b), c(z_a) + c(z_b)
    return invariance * s + variance * both[0] + covariance * both[1]


# --- Barlow Twins ---------------------------------------------------------------------


@pytest.mark.parametrize("weight", [5e-3, 1.0])
@pytest.mark.parametrize("n", [2, 3, 12])  # of 5 features, more than twice as many
def test_barlow_equals_the_formula_of_the_paper(n, weight):
    z_a, z_b = views(n)
    expected = barlow_reference(z_a, z_b, weight)
    found = barlow_twins(z_a, z_b, weight)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_barlow_views_are_normalised_each_by_itself_not_jointly():
    z_a, z_b = views()
    scale, shift = torch.logspace(0, 2, 5), torch.linspace(-9, 40, 5)
    found = barlow_twins(z_a, scale * z_b + shift)
    torch.testing.assert_close(found, barlow_twins(z_a, z_b), rtol=1e-4, atol=0)
    # jointly normalised, a view and an affine map of it would differ
    z = 9 * torch.linalg.qr(z_a - z_a.mean(0)).Q
    torch.testing.assert_close(barlow_twins(z, 3 * z + 2), z.new_zeros(()))


def test_barlow_scale_multiplies_the_whole():
    z_a, z_b = views()
    found = barlow_twins(z_a, z_b, scale=0.024)
    torch.testing.assert_close(found, 0.024 * barlow_twins(z_a, z_b))


def test_a_feature_that_died_keeps_the_gradient_of_barlow_bounded():
    z_a, z_b = views(dtype=torch.float32)
    z_a[:, 0] = 5.1
    z_a.requires_grad_()
    loss = barlow_twins(z_a, z_b)
    loss.backward()
    assert loss.isfinite() and z_a.grad.norm() < 1e3


# --- VICReg ---------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(25, 25, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_vicreg_variance_is_the_mean_over_views_in_the_official_code(weights):
    z_a, z_b = 0.3 * views()
    invariance, variance, covariance = weights
    expected = vicreg_reference(z_a, z_b, invariance, variance / 2, covariance)
    found = vicreg(z_a, z_b, invariance, variance, covariance)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_vicreg_of_collapse_is_the_price_of_no_variance():
    z = torch.ones(8, 4, dtype=torch.float64)
    assert vicreg(z, z).item() == pytest.approx(25 * (1 - 1e-2))


def test_a_shift_of_both_views_changes_nothing_in_vicreg():
    z_a, z_b = views()
    torch.testing.assert_close(vicreg(z_a + 50, z_b + 50), vicreg(z_a, z_b))


# --- both -----------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [barlow_twins, vicreg])
def test_symmetries_and_gradient(loss):
    z_a, z_b = z = 0.5 * views()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(z_b, z_a), loss(z_a, z_b))
    torch.testing.assert_close(loss(z_a[order], z_b[order]), loss(z_a, z_b))
    assert (loss(z_a[order], z_b) - loss(z_a, z_b)).abs() > 1e-3
    assert torch.autograd.gradcheck(lambda z: loss(*z), z.requires_grad_())


@pytest.mark.parametrize("loss", [barlow_twins, vicreg])
@pytest.mark.parametrize(
    "z_a, z_b, words",
    [
        (torch.ones(1, 3), torch.ones(1, 3), "found N=1 over all ranks, expected 2"),
        (torch.ones(4, 3), torch.ones(4, 2), r"\(4, 3\) and \(4, 2\)"),
        (torch.ones(4, 3, 1), torch.ones(4, 3, 1), "flatten"),
    ],
)
def test_wrong_input_is_refused_in_words(loss, z_a, z_b, words):
    with pytest.raises(ValueError, match=words):
        loss(z_a, z_b)


@pytest.mark.parametrize("loss", [barlow_twins, vicreg])
@pytest.mark.parametrize("n", [700, 512, 40])  # rows; 1,024 features
def test_many_features_cost_no_precision(loss, n):
    """A sum of a million squares, and a difference of two, are those of float64."""
    z = views(n, 1024)
    widened, given = (x.clone().requires_grad_() for x in (z, z.float()))
    expected, found = loss(*widened), loss(*given)
    (slope,) = torch.autograd.grad(expected, widened)
    (grad,) = torch.autograd.grad(found, given)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (grad - slope).norm() <= 1e-5 * slope.norm()


@pytest.mark.parametrize("loss", [barlow_twins, vicreg])
def test_features_many_more_than_rows_make_no_matrix_of_their_own(loss):
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    z = views(8, 400).requires_grad_()
    with Watch():
        loss(*z).backward()
    assert largest <= z.numel()  # the correlations would be 160,000


@pytest.mark.parametrize("loss", [barlow_twins, vicreg])
@pytest.mark.parametrize(("n", "d"), [(7, 4), (3, 8)])  # by matrix, and by rows
def test_a_gradient_has_a_gradient(loss, n, d):
    z_a, z_b = (0.5 * z.requires_grad_() for z in views(n, d))
    assert torch.autograd.gradgradcheck(loss, (z_a, z_b))
    assert torch.autograd.gradgradcheck(lambda z: loss(z, z), (z_a,))
