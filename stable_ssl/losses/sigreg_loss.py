"""Regularisation by shape: features are to be distributed as an isotropic Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_ssl import distributed
from stable_ssl.losses.checks import check_directions, check_rows, in_float32

LIMIT, KNOTS = 3.0, 17  # of the quadrature in the official code


@in_float32
def sigreg(z: Tensor, directions: Tensor) -> Tensor:
    """Compare features along given directions with a standard normal distribution.

    Sketched isotropic Gaussian regularisation: Balestriero and LeCun 2025 (LeJEPA),
    https://arxiv.org/abs/2511.08544. Along each direction it takes the statistic of
    Epps and Pulley 1983,

        N integral |phi_N(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt,

    phi_N being the empirical characteristic function of all ranks' rows. As in the
    official code the integral is from -3 to 3, by the trapezoidal rule at 17 points of
    its symmetric half.

    Args:
        z: features of one view, (N, D), not normalised; N is this rank's batch.
        directions: (D, M), columns of norm 1, the same on every rank; draw new ones
            each step.

    Returns:
        Scalar, the mean over directions, the same on every rank. It grows with N over
        all ranks where the distribution differs, and is about 1 where it does not.
        Synchronises ranks.

    Raises:
        ValueError: the shapes do not fit.
    """
    n = check_rows("sigreg", z)
    check_directions("sigreg", directions, z)
    t = torch.linspace(0, LIMIT, KNOTS, dtype=z.dtype, device=z.device)
    normal = (-t.square() / 2).exp()
    phases = (z @ directions.to(z.dtype))[:, :, None] * t
    characteristic = torch.stack([phases.cos().mean(0), phases.sin().mean(0)])
    real, imaginary = distributed.all_mean(characteristic)
    squares = (real - normal).square() + imaginary.square()  # (M, knots)
    return n * 2 * torch.trapezoid(squares * normal, t, dim=1).mean()
