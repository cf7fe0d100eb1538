"""Redundancy reduction: views agree, features vary and do not correlate.

There are no negatives: the variance and correlation of features over the batch of all
ranks prevent collapse.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import mse_loss

from stable_ssl import distributed
from stable_ssl.losses.checks import check_rows, in_float32

EPSILON = 1e-5  # added to variances, as by the authors' batch norm of the projections


@in_float32
def barlow_twins(
    z_a: Tensor, z_b: Tensor, offdiagonal: float = 5e-3, scale: float = 1.0
) -> Tensor:
    """Push the cross-correlation of two views towards the identity.

    Zbontar et al. 2021, https://arxiv.org/abs/2103.03230, eq. 1 and 2. Each view is
    standardised by itself, as by a batch norm with its 1e-5 beside the variance, so an
    affine map of a feature changes next to nothing. Computed in float32, or in float64
    if the projections are.

    Args:
        z_a: projections of one view, (N, D), not normalised; N is this rank's batch.
        z_b: those of the other view, row by row of the same images.
        offdiagonal: weight of the redundancy term, lambda in the paper.
        scale: factor of the loss, a sum over D x D entries. The steps of SGD and LARS
            depend on it, so it is chosen together with the learning rate.

    Returns:
        Scalar, about 0 at the optimum, the same on every rank. Synchronises ranks.

    Raises:
        ValueError: the shapes are not one (N, D), or N < 2 over all ranks (no
            variance to normalise by).
    """
    n = check_rows("barlow_twins", z_a, z_b, minimum=2)
    redundancy, diagonal = _covariance(_standardised(z_a), _standardised(z_b), n)
    return scale * ((1 - diagonal).square().sum() + offdiagonal * redundancy)


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
    unbias = n / (n - 1)
    loss = invariance * mse_loss(z_a, z_b)
    for z in (_centred(z_a), _centred(z_b)):
        squares, biased = _covariance(z, z, n)
        deviation = (biased * unbias + 1e-4).sqrt()  # epsilon of eq. 2
        loss = loss + variance / 2 * (1 - deviation).relu().mean()
        loss = loss + covariance * unbias**2 / z.shape[1] * squares
    return loss


def _centred(z: Tensor) -> Tensor:
    """Return z (N, D) without its mean over all ranks: sums of squares would cancel."""
    return z - distributed.all_mean(z.mean(0))


def _standardised(z: Tensor) -> Tensor:
    """Return z (N, D) with mean 0 and variance 1 over all ranks, but for epsilon."""
    z = _centred(z)
    variance = distributed.all_mean(z.square().mean(0))
    return z * (variance + EPSILON).rsqrt()


def _covariance(a: Tensor, b: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return of a^T b / n (D, D) the sum of squares off its diagonal, and that (D,).

    Where features are many more than rows, the matrix is not made: the squares of
    a^T b sum up to the inner product of a a^T and b b^T, which are (n, n).

    Args:
        a: this rank's rows, (N, D), centred.
        b: likewise; the matrix sums over the rows of all ranks.
        n: rows of all ranks.
    """
    if a.shape[1] < 2 * n:  # where all could lie on the diagonal, a difference cancels
        return _Covariance.apply(a, b)
    gathered = distributed.gather(a)
    gram = gathered @ gathered.T
    if b is a:
        squares = gram.square().sum()
    else:
        gathered = distributed.gather(b)
        squares = (gram * (gathered @ gathered.T)).sum()
    diagonal = distributed.all_mean((a * b).mean(0))
    return squares / n**2 - diagonal.square().sum(), diagonal


class _Covariance(Function):
    """`_covariance` by the matrix, which alone is kept; its gradient is one product.

    Autograd would make two of them where b is a.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        matrix = _mean_product(a, b)
        diagonal = matrix.diagonal().clone()
        matrix.diagonal().zero_()
        ctx.save_for_backward(a, b, matrix)
        ctx.same = b is a
        # by rows: in float32 the norm of all at once is wrong by 20 % at D = 8192
        return torch.linalg.vector_norm(matrix, dim=1).square().sum(), diagonal

    @staticmethod
    def backward(
        ctx: Any, of_squares: Tensor, of_diagonal: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        a, b, matrix = ctx.saved_tensors
        if torch.is_grad_enabled():  # as for a penalty of the gradient
            matrix = _mean_product(a, b)
        factor = (2 if ctx.same else 1) / len(a)
        slope = matrix * (distributed.all_mean(of_squares) * (2 * factor))
        slope.diagonal().copy_(distributed.all_mean(of_diagonal) * factor)
        return b @ slope.T, None if ctx.same else a @ slope


def _mean_product(a: Tensor, b: Tensor) -> Tensor:
    """Return a^T b / n, (D, D), of all ranks."""
    return distributed.all_mean(a.T @ b / len(a))
