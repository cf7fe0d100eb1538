"""Sliced regularisation: along every direction, features are a standard normal's."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_ssl import distributed
from stable_ssl.losses.checks import check_directions, check_rows, in_float32

EPS = 1e-6  # added to a standard deviation, in the authors' code


@in_float32
def visreg(z: Tensor, directions: Tensor) -> Tensor:
    """Bring features to mean 0, to deviation 1 and to the shape of a Gaussian.

    Wu et al. 2026 (VISReg), https://arxiv.org/abs/2606.02572, the sum of three parts as
    in the authors' code: the mean squares of each feature's mean and of 1 minus its
    standard deviation, and the sliced Wasserstein distance. For that, features are
    standardised, by deviations which are constants to the gradient, and the sorted rows
    along each direction are compared with the quantiles i / (N + 1) of the standard
    normal distribution. Unlike a statistic that has no slope at collapse, the second
    part has its largest there.

    Args:
        z: features of one view, (N, D), not normalised; N is this rank's batch.
        directions: (D, M), columns of norm 1, the same on every rank; draw new ones
            each step.

    Returns:
        Scalar, the same on every rank. Synchronises ranks.

    Raises:
        ValueError: the shapes do not fit, or N < 2 over all ranks (no variance).
    """
    n = check_rows("visreg", z, minimum=2)
    check_directions("visreg", directions, z)
    z = distributed.gather(z)
    mean = z.mean(0)
    centred = z - mean
    deviation = centred.std(0, correction=0) + EPS
    along = (centred / deviation.detach()) @ directions.to(z.dtype)
    ranks = torch.arange(1, n + 1, dtype=z.dtype, device=z.device)
    quantiles = torch.special.ndtri(ranks / (n + 1))
    shape = (along.sort(0).values - quantiles[:, None]).square().mean()
    return mean.square().mean() + (1 - deviation).square().mean() + shape
