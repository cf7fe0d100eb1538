"""Redundancy reduction: views agree, features vary and do not correlate.

There are no negatives: the variance and correlation of features over the batch of all
ranks prevent collapse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stable_ssl import distributed
from stable_ssl.losses.checks import check_rows, in_float32

MIN_VARIANCE = 1e-5  # divided by: a constant feature must not multiply gradients


@in_float32
def barlow_twins(
    z_a: Tensor, z_b: Tensor, offdiagonal: float = 5e-3, scale: float = 1.0
) -> Tensor:
    """Push the cross-correlation of two views towards the identity.

    Zbontar et al. 2021, https://arxiv.org/abs/2103.03230, eq. 1 and 2. Each view is
    standardised by itself, so an affine map of a feature changes nothing. Computed in
    float32, or in float64 if the projections are.

    Args:
        z_a: projections of one view, (N, D), not normalised; N is this rank's batch.
        z_b: those of the other view, row by row of the same images.
        offdiagonal: weight of the redundancy term, lambda in the paper.
        scale: factor of the loss, a sum over D x D entries. The steps of SGD and LARS
            depend on it, so it is chosen together with the learning rate.

    Returns:
        Scalar, 0 at the optimum, the same on every rank. Synchronises ranks.

    Raises:
        ValueError: the shapes are not one (N, D), or N < 2 over all ranks (no
            variance to normalise by).
    """
    check_rows("barlow_twins", z_a, z_b, minimum=2)
    centred, variance = _moments(torch.stack([z_a, z_b]))
    h_a, h_b = centred * variance.clamp(min=MIN_VARIANCE).rsqrt()[:, None]
    correlation = distributed.all_mean(h_a.T @ h_b / len(h_a))
    invariance = (1 - correlation.diagonal()).square().sum()
    return scale * (invariance + offdiagonal * _off_diagonal_squares(correlation))


@in_float32
def vicreg(
    z_a: Tensor,
    z_b: Tensor,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> Tensor:
    """Bring two views together; keep each feature's spread and decorrelate features.

    Bardes et al. 2022, https://arxiv.org/abs/2105.04906, eq. 6. The variance term is
    the mean over the two views, as in the official code; eq. 6 has their sum, twice as
    much. Computed in float32, or in float64 if the projections are.

    Args:
        z_a: projections of one view, (N, D), not normalised; N is this rank's batch.
        z_b: those of the other view, row by row of the same images.
        invariance: weight of the mean squared difference, over N and D; lambda.
        variance: weight of the hinge at a standard deviation of 1; mu.
        covariance: weight of the squared covariances, over D, summed over views; nu.

    Returns:
        Scalar, 0 at the optimum. Synchronises ranks; its mean over them is the loss
        of the whole batch.

    Raises:
        ValueError: the shapes are not one (N, D), or N < 2 over all ranks (no
            variance).
    """
    n = check_rows("vicreg", z_a, z_b, minimum=2)
    centred, biased = _moments(torch.stack([z_a, z_b]))
    deviation = (biased * n / (n - 1) + 1e-4).sqrt()  # epsilon of eq. 2
    products = centred.mT @ centred / centred.shape[1]
    covariances = distributed.all_mean(products) * n / (n - 1)
    return (
        invariance * (z_a - z_b).square().mean()
        + variance * (1 - deviation).relu().mean()
        + covariance * _off_diagonal_squares(covariances) / z_a.shape[1]
    )


def _moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return z (V, N, D) centred by view, and its biased variance (V, D), of all ranks.

    In two steps: sums of squares would cancel where the mean is large.
    """
    centred = z - distributed.all_mean(z.mean(1))[:, None]
    return centred, distributed.all_mean(centred.square().mean(1))


def _off_diagonal_squares(x: Tensor) -> Tensor:
    """Return the sum of squares of what is not on the diagonals of x (..., D, D)."""
    diagonal = torch.eye(x.shape[-1], dtype=torch.bool, device=x.device)
    return x.masked_fill(diagonal, 0).square().sum()
