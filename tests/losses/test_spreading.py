import math

import pytest
import torch

from stable_ssl.losses import koleo


def rows(n=7, d=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def test_equals_the_distances_to_nearest_neighbours_one_by_one():
    z = rows()
    units = [row / row.norm() for row in z]
    nearest = [
        min((a - b).norm().item() for j, b in enumerate(units) if j != i)
        for i, a in enumerate(units)
    ]
    expected = -sum(map(math.log, nearest)) / len(nearest)
    assert koleo(z).item() == pytest.approx(expected, rel=1e-6)


def test_equal_rows_have_a_finite_loss_and_gradient():
    z = torch.ones(4, 3, requires_grad=True)
    loss = koleo(z)
    loss.backward()
    assert loss.isfinite() and z.grad.isfinite().all()


def test_a_step_against_the_gradient_spreads():
    z = rows().requires_grad_()
    loss = koleo(z)
    loss.backward()
    with torch.no_grad():
        assert koleo(z - 0.01 * z.grad) < loss


def test_one_row_has_no_neighbour():
    with pytest.raises(ValueError, match="N=1 over all ranks, expected 2 or more"):
        koleo(rows(1))
