import math

import pytest
import torch
import torch.nn.functional as F

from stable_ssl.losses import mmcr


def views(count=2, n=6, d=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, n, d, generator=generator, dtype=torch.float64)
    return list(x)


def nuclear(matrix):
    """Return the trace of the square root of m m^T, m having more columns."""
    matrix = matrix if matrix.shape[0] < matrix.shape[1] else matrix.T
    return torch.linalg.eigvalsh(matrix @ matrix.T).clamp(min=0).sqrt().sum().item()


def mmcr_reference(z, weight, teacher):
    """The objective of the MMCR paper, image by image."""
    rows = [F.normalize(x) for x in z]
    means = sum(rows) / len(rows)
    if teacher:
        means = (means + sum(F.normalize(x) for x in teacher) / len(teacher)) / 2
    own = [nuclear(torch.stack([x[i] for x in rows])) for i in range(len(means))]
    return weight * sum(own) / len(own) - nuclear(means.T)


@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize(("count", "n"), [(2, 6), (4, 3)])  # more rows, more columns
def test_mmcr_equals_the_formula_of_the_paper(count, n, taught, weight):
    z = views(count, n)
    teacher = views(count, n, seed=1) if taught else None
    expected = mmcr_reference(z, weight, teacher)
    assert mmcr(z, weight, teacher).item() == pytest.approx(expected, rel=1e-9)


def test_the_gradient_equals_finite_differences_and_spares_the_teacher():
    z, teacher = views(3, 4, 3), [x.requires_grad_() for x in views(3, 4, 3, seed=1)]
    z = torch.stack(z).requires_grad_()
    loss = lambda z: mmcr(list(z), 0.2, teacher)  # noqa: E731
    assert torch.autograd.gradcheck(loss, z)
    assert all(
        g is None for g in torch.autograd.grad(loss(z), teacher, allow_unused=True)
    )


def test_directions_that_no_image_takes_get_no_gradient():
    z = torch.zeros(5, 4, dtype=torch.float64)
    z[:, :2] = views(1, 5, 2)[0]
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    grads = torch.autograd.grad(mmcr([a, b]), (a, b))
    for grad in grads:  # an SVD's own derivative would be of any size there
        assert grad[:, :2].norm() > 0.1 and grad[:, 2:].norm() < 1e-12


def test_the_best_is_orthogonal_and_the_worst_is_collapse():
    n = 4
    spread = torch.eye(n)
    assert mmcr([spread, spread]).item() == pytest.approx(-n)
    ones = torch.ones(n, n)
    assert mmcr([ones, ones]).item() == pytest.approx(-math.sqrt(n))
    assert mmcr([spread, -spread]).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "views, words",
    [
        ([torch.ones(4, 3)], "1 view"),
        ([torch.ones(4, 3), torch.ones(5, 3)], r"\(4, 3\) and \(5, 3\)"),
    ],
)
def test_wrong_input_is_refused_in_words(views, words):
    with pytest.raises(ValueError, match=words):
        mmcr(views)
