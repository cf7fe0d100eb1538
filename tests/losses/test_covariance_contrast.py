import pytest
import torch
import torch.nn.functional as F

from stable_ssl.losses import second_moment, tico


def views(n=6, d=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, d, generator=generator, dtype=torch.float64)


def tico_reference(z_a, z_b, c, rho):
    """The loss of the TiCo paper, image by image and entry by entry."""
    a, b = F.normalize(z_a), F.normalize(z_b)
    total = 0.0
    for u, v in zip(a.tolist(), b.tolist(), strict=True):
        total += 1 - sum(x * y for x, y in zip(u, v, strict=True))
        for i, x in enumerate(u):
            total += rho * sum(x * c[i, j].item() * y for j, y in enumerate(u))
    return total / len(a)


@pytest.mark.parametrize("rho", [0.0, 8.0])
def test_tico_equals_the_formula_of_the_paper(rho):
    z_a, z_b = views()
    c = second_moment(views(9, seed=1)[0])
    expected = tico_reference(z_a, z_b, c, rho)
    assert tico(z_a, z_b, c, rho).item() == pytest.approx(expected, rel=1e-12)


def test_the_second_moment_is_of_unit_rows_and_not_centred():
    z = 3 + views()[0]
    expected = sum(torch.outer(row, row) for row in F.normalize(z)) / len(z)
    found = second_moment(z.requires_grad_())
    torch.testing.assert_close(found, expected.detach())
    assert found.trace().item() == pytest.approx(1) and not found.requires_grad


def test_the_covariance_is_a_constant():  # fault 11
    z_a, z_b = views(4, 3).requires_grad_()
    c = second_moment(z_a).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: tico(a, b, c, 2.0), (z_a, z_b))
    assert not torch.autograd.grad(tico(z_a, z_b, c), c, allow_unused=True)[0]


@pytest.mark.parametrize("rho", [0.0, 8.0])
def test_collapse_is_the_worst_of_what_the_covariance_term_sees(rho):
    ones, spread = torch.ones(4, 4), torch.eye(4)
    collapsed = tico(ones, ones, second_moment(ones), rho)
    assert collapsed.item() == pytest.approx(rho)
    found = tico(spread, spread, second_moment(spread), rho)
    assert found.item() == pytest.approx(rho / 4)


@pytest.mark.parametrize(
    "z_b, c, words",
    [
        (torch.ones(5, 3), torch.eye(3), r"\(4, 3\) and \(5, 3\)"),
        (torch.ones(4, 3), torch.eye(2), r"shape \(2, 2\) for rows of 3"),
    ],
)
def test_wrong_input_is_refused_in_words(z_b, c, words):
    with pytest.raises(ValueError, match=words):
        tico(torch.ones(4, 3), z_b, c)
