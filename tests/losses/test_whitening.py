import pytest
import torch

from stable_ssl.losses import w_mse
from stable_ssl.losses.whitening import whiten


def views(count=2, n=12, d=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, n, d, generator=generator, dtype=torch.float64)
    return list(x @ torch.tensor([[1.0, 2, 0], [0, 1, 3], [1, 0, 1]]).double() + 5)


def w_mse_reference(given, order, size, epsilon):
    """The loss of the W-MSE paper, part by part, with an explicit inverse."""
    total, pairs, rows = 0.0, 0, order.argsort().tolist()
    for part in (rows[i : i + size] for i in range(0, len(rows), size)):
        white = []
        for view in given:
            covariance = (1 - epsilon) * view[part].T.cov() + epsilon * torch.eye(
                3
            ).double()
            w = torch.linalg.inv(torch.linalg.cholesky(covariance))
            white.append([w @ (row - view[part].mean(0)) for row in view[part]])
        for i, a in enumerate(white):
            for b in white[i + 1 :]:
                for u, v in zip(a, b, strict=True):
                    total += ((u / u.norm() - v / v.norm()) ** 2).sum().item()
                    pairs += 1
    return total / pairs


@pytest.mark.parametrize(("count", "size"), [(2, 12), (2, 6), (3, 4)])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_w_mse_equals_the_formula_of_the_paper(count, size, epsilon):
    given, order = views(count), torch.tensor([5, 1, 9, 2, 8, 7, 0, 3, 6, 4, 11, 10])
    expected = w_mse_reference(given, order, size, epsilon)
    found = w_mse(given, order, size, epsilon)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_what_is_whitened_has_the_identity_as_covariance():
    parts = whiten(views()[0].view(2, 6, 3))
    for part in parts:
        torch.testing.assert_close(part.T.cov(), torch.eye(3, dtype=part.dtype))
        assert part.mean(0).abs().max() < 1e-12


def test_the_gradient_reaches_both_views_and_equals_finite_differences():  # fault 30
    z, order = torch.stack(views()).requires_grad_(), torch.arange(12)
    assert torch.autograd.gradcheck(lambda z: w_mse(list(z), order, 6), z)


def test_the_order_chooses_the_parts_and_an_affine_map_changes_nothing():
    a, b = views()
    order = torch.arange(12)
    found = w_mse([a, b], order, 6)
    mixed = order.roll(3) * 5 % 12
    assert (w_mse([a, b], mixed, 6) - found).abs() > 1e-3
    torch.testing.assert_close(w_mse([a[mixed], b[mixed]], order[mixed], 6), found)
    lower = torch.tensor([[2.0, 0, 0], [1, 3, 0], [0, 1, 1]]).double()
    torch.testing.assert_close(w_mse([a @ lower.T + 7, b], order, 6), found)


def test_collapse_is_not_a_number():
    z = torch.ones(8, 3)
    assert w_mse([z, z], torch.arange(8), 4).isnan()


@pytest.mark.parametrize(
    "views, order, size, words",
    [
        ([torch.ones(4, 3)], torch.arange(4), 4, "1 view"),
        ([torch.ones(4, 3), torch.ones(5, 3)], torch.arange(4), 4, "expected the same"),
        ([torch.ones(4, 3)] * 2, torch.arange(3), 4, r"shape \(3,\) for 4 images"),
        (
            [torch.ones(6, 3)] * 2,
            torch.arange(6),
            4,
            "N=6 over all ranks in parts of 4",
        ),
        ([torch.ones(6, 3)] * 2, torch.arange(6), 3, "to whiten 3 features"),
    ],
)
def test_wrong_input_is_refused_in_words(views, order, size, words):
    with pytest.raises(ValueError, match=words):
        w_mse(views, order, size)
