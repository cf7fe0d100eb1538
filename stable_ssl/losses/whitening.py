"""Whitening: views agree, and features of a batch have the identity as covariance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from stable_ssl import distributed
from stable_ssl.losses.checks import check_rows, in_float32
from stable_ssl.vectors import unit


@in_float32
def w_mse(
    views: Sequence[Tensor], order: Tensor, size: int, epsilon: float = 0.0
) -> Tensor:
    """Bring views together after whitening each of them, a part of the batch at a time.

    Ermolov et al. 2021 (W-MSE), https://arxiv.org/abs/2007.06346, with the
    normalised distance, 2 - 2 cos, that the paper takes.

    Args:
        views: two or more projections (N, D), not normalised, row by row of the same
            images; N is this rank's batch.
        order: a random number for each image, (N,): the rows of all ranks, sorted by
            it, are cut into the parts that are whitened together.
        size: rows of a part; N over all ranks is a multiple of it. It is above D, best
            twice as much: the covariance of fewer rows cannot be whitened.
        epsilon: share of the identity that the covariance is mixed with.

    Returns:
        Scalar, the mean over pairs of views and over images, the same on every rank;
        NaN where a covariance is singular. Synchronises ranks.

    Raises:
        ValueError: fewer than two views, shapes that do not fit, or parts that do not.
    """
    if len(views) < 2:
        raise ValueError(f"w_mse found {len(views)} view of each image; use two")
    n, width = check_rows("w_mse", *views), views[0].shape[1]
    if order.shape != views[0].shape[:1]:
        raise ValueError(
            f"w_mse found an order of shape {tuple(order.shape)} for {len(views[0])}"
            " images; use a number for each"
        )
    if n % size or size <= width:
        raise ValueError(
            f"w_mse found N={n} over all ranks in parts of {size} to whiten {width}"
            " features; use a batch of whole parts, each of more rows than features"
        )
    rows = distributed.gather(order).argsort()
    whitened = [
        unit(whiten(distributed.gather(view)[rows].view(-1, size, width), epsilon))
        for view in views
    ]
    cosines = [(a * b).sum(-1).mean() for a, b in combinations(whitened, 2)]
    return 2 - 2 * torch.stack(cosines).mean()


def whiten(parts: Tensor, epsilon: float = 0.0) -> Tensor:
    """Return parts (P, S, D) centred and multiplied by the inverse Cholesky factor.

    Each part has the identity as its covariance then, by S - 1; NaN where that is
    singular, which no host need wait to know.
    """
    centred = parts - parts.mean(1, keepdim=True)
    covariance = centred.mT @ centred / (parts.shape[1] - 1)
    identity = torch.eye(parts.shape[2], dtype=parts.dtype, device=parts.device)
    mixed = (1 - epsilon) * covariance + epsilon * identity
    factor, failed = torch.linalg.cholesky_ex(mixed)
    factor = factor.where(failed[:, None, None] == 0, torch.nan)
    return torch.linalg.solve_triangular(factor, centred.mT, upper=False).mT
