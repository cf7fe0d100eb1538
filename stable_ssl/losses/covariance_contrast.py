"""Covariance contrast: views agree, and avoid the directions that are taken most."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_ssl import distributed
from stable_ssl.losses.checks import check_rows, in_float32
from stable_ssl.vectors import unit


@torch.no_grad()
@in_float32
def second_moment(z: Tensor) -> Tensor:
    """Return the mean of z z^T over the rows of all ranks, scaled to norm 1.

    Args:
        z: (N, D), of any norm; N is this rank's batch.

    Returns:
        (D, D) without gradient, the same on every rank. In float32 at least.
        Synchronises ranks.

    Raises:
        ValueError: z is not (N, D).
    """
    check_rows("second_moment", z)
    z = unit(z)
    return distributed.all_mean(z.T @ z / len(z))


@in_float32
def tico(z_a: Tensor, z_b: Tensor, covariance: Tensor, rho: float = 8.0) -> Tensor:
    """Bring views together, and turn them from the directions of large covariance.

    Zhu et al. 2022 (TiCo), https://arxiv.org/abs/2206.10698: 1 - cos of the views plus
    rho z_a^T C z_a, the loss of the paper but for the 1. The caller averages C over the
    batches.

    Args:
        z_a: projections of one view, (N, D), not normalised; N is this rank's batch.
        z_b: those of the other view by the teacher, row by row of the same images.
        covariance: C, (D, D), the moving average of `second_moment` of z_a, with that
            of this batch; detached here.
        rho: weight of the covariance term.

    Returns:
        Scalar, the mean over N. Does not synchronise ranks; its mean over them is the
        loss of the whole batch.

    Raises:
        ValueError: the shapes do not fit.
    """
    check_rows("tico", z_a, z_b)
    width = z_a.shape[1]
    if covariance.shape != (width, width):
        raise ValueError(
            f"tico found a covariance of shape {tuple(covariance.shape)} for rows of"
            f" {width}; use ({width}, {width})"
        )
    z_a, z_b = unit(z_a), unit(z_b)
    contrast = ((z_a @ covariance.detach()) * z_a).sum(1).mean()
    return 1 - (z_a * z_b).sum(1).mean() + rho * contrast
