import math

import pytest
import torch

from stable_ssl import distributed, losses
from stable_ssl.losses import nt_xent


def views(n=6, d=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, d, generator=generator, dtype=dtype)


def reference(z_a, z_b, temperature):
    """Eq. 1 of the SimCLR paper, term by term; 2k - 1 and 2k are views of one image."""
    z = [view for pair in zip(z_a.tolist(), z_b.tolist(), strict=True) for view in pair]

    def sim(u, v):
        dot = sum(x * y for x, y in zip(u, v, strict=True))
        return dot / math.sqrt(sum(x * x for x in u)) / math.sqrt(sum(y * y for y in v))

    def loss(i, j):
        others = (k for k in range(len(z)) if k != i)
        denominator = sum(math.exp(sim(z[i], z[k]) / temperature) for k in others)
        return -math.log(math.exp(sim(z[i], z[j]) / temperature) / denominator)

    pairs = [(2 * k, 2 * k + 1) for k in range(len(z_a))]
    return sum(loss(i, j) + loss(j, i) for i, j in pairs) / len(z)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_equals_the_formula_of_the_paper(n, temperature):
    z_a, z_b = views(n)
    expected = reference(z_a, z_b, temperature)
    found = nt_xent(z_a, z_b, temperature)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_gradient_equals_finite_differences():
    z_a, z_b = views(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(nt_xent, (z_a, z_b))


def test_swapping_the_views_changes_nothing():
    z_a, z_b = views()
    torch.testing.assert_close(nt_xent(z_a, z_b), nt_xent(z_b, z_a))


def test_permuting_the_batch_changes_nothing_but_together():
    z_a, z_b = views()
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    torch.testing.assert_close(nt_xent(z_a[order], z_b[order]), nt_xent(z_a, z_b))
    assert abs(nt_xent(z_a[order], z_b) - nt_xent(z_a, z_b)) > 1e-3


def test_the_norm_of_a_projection_changes_nothing():
    z_a, z_b = views()
    scale = torch.logspace(-3, 3, len(z_a), dtype=z_a.dtype)[:, None]
    torch.testing.assert_close(nt_xent(scale * z_a, z_b), nt_xent(z_a, z_b))


def test_collapse_costs_log_of_the_candidates():
    z = torch.ones(8, 4)
    assert nt_xent(z, z).item() == pytest.approx(math.log(15))


def test_half_inputs_are_computed_in_float32():
    z_a, z_b = views(dtype=torch.float32).half() * 1000  # squares overflow float16
    found = nt_xent(z_a, z_b, 0.1)
    assert found.dtype == torch.float32
    expected = reference(z_a.double(), z_b.double(), 0.1)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_autocast_does_not_enter():
    z_a, z_b = views(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = nt_xent(z_a, z_b, 0.1)
    assert torch.equal(inside, nt_xent(z_a, z_b, 0.1))


def test_a_zero_projection_keeps_the_gradient_bounded():
    z_a, z_b = views(dtype=torch.float32)
    z_a[0] = 0
    z_a.requires_grad_()
    loss = nt_xent(z_a, z_b)
    loss.backward()
    assert loss.isfinite() and z_a.grad.norm() < 1e6


@pytest.mark.parametrize(
    "z_a, z_b, temperature, words",
    [
        (torch.ones(1, 3), torch.ones(1, 3), 0.5, "N=1"),
        (torch.ones(4, 3), torch.ones(5, 3), 0.5, r"\(4, 3\) and \(5, 3\)"),
        (torch.ones(4, 3, 1), torch.ones(4, 3, 1), 0.5, "flatten"),
        (torch.ones(4, 3), torch.ones(4, 3), 0.0, "temperature=0.0"),
    ],
)
def test_wrong_input_is_refused_in_words(z_a, z_b, temperature, words):
    with pytest.raises(ValueError, match=words):
        nt_xent(z_a, z_b, temperature)


def on_a_part(name, dtype):
    """Return this rank's loss and the gradient of its rows; runs on every rank."""
    rank, world = distributed.rank(), distributed.world_size()
    own = [v.chunk(world)[rank].clone().requires_grad_() for v in views(16, 8)]
    loss = getattr(losses, name)(*(v.to(dtype) for v in own))
    loss.backward()
    return loss.detach(), [v.grad for v in own]


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)]
)
def test_ranks_have_the_loss_and_gradient_of_the_whole_batch(
    ranks, world, dtype, tolerance
):
    z = [v.requires_grad_() for v in views(16, 8)]
    whole = nt_xent(*(v.to(dtype) for v in z))
    whole.backward()
    parts = ranks(world, on_a_part, "nt_xent", dtype)
    mean = sum(loss for loss, _ in parts) / world
    assert (mean - whole).abs() <= tolerance * whole.abs()
    for i, view in enumerate(z):
        grad = torch.cat([grads[i] for _, grads in parts]) / world  # DDP's mean
        assert (grad - view.grad).norm() <= tolerance * view.grad.norm()
