"""Manifold capacity: views of an image coincide, the means of images fill the space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stable_ssl import distributed
from stable_ssl.losses.checks import check_rows, in_float32
from stable_ssl.vectors import unit


@in_float32
def mmcr(
    views: Sequence[Tensor],
    weight: float = 0.0,
    teacher: Sequence[Tensor] | None = None,
) -> Tensor:
    """Maximise the nuclear norm of the images' mean projections.

    Maximum manifold capacity representations, Yerxa et al. 2023,
    https://arxiv.org/abs/2303.03307: minus that norm, plus the weighted mean of
    the nuclear norms of each image's own views. A mean is long where the views
    coincide, and the norm is largest where means are orthogonal. All rows are scaled
    to norm 1 first.

    Args:
        views: two or more projections (N, D), not normalised, row by row of the same
            images; N is this rank's batch.
        weight: of the images' own norms, lambda in the paper; 0 leaves them out.
        teacher: projections of the same views by a teacher: a mean is then that of the
            student's and the teacher's, as in the official code. Detached here.

    Returns:
        Scalar; its first part is the same on every rank. It grows with N over all
        ranks, at most to the root of N min(N, D). Synchronises ranks; its mean over
        them is the loss of the whole batch.

    Raises:
        ValueError: fewer than two views, or shapes that are not one (N, D).
    """
    if len(views) < 2:
        raise ValueError(f"mmcr found {len(views)} view of each image; use two or more")
    check_rows("mmcr", *views, *(teacher or ()))
    z = torch.stack([unit(view) for view in views], 1)  # (N, views, D)
    means = z.mean(1)
    if teacher is not None:
        of_teacher = torch.stack([unit(view.detach()) for view in teacher], 1)
        means = (means + of_teacher.mean(1)) / 2
    loss = -_nuclear_norm(distributed.gather(means))
    if weight:
        loss = loss + weight * _nuclear_norm(z).mean()
    return loss


def _nuclear_norm(matrices: Tensor) -> Tensor:
    """Return the sum of the singular values of matrices (..., N, D), (...).

    It is the inner product of U V^T, its gradient, and the matrix. Where some singular
    values are 0, as where D exceeds the width of a projector's hidden layer, many U V^T
    are possible; the one taken has no part in their directions.
    """
    with torch.no_grad():
        u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
        smallest = torch.finfo(s.dtype).eps * max(matrices.shape[-2:])
        kept = s > smallest * s.amax(-1, keepdim=True)
        slope = (u * kept.unsqueeze(-2)) @ vh
    return (slope * matrices).sum((-2, -1))
