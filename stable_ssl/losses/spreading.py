"""Spreading: features keep apart from their nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_ssl import distributed
from stable_ssl.losses.checks import check_rows, in_float32
from stable_ssl.vectors import unit

EPS = 1e-8  # added to differences and distances: equal rows have a finite logarithm


@in_float32
def koleo(z: Tensor) -> Tensor:
    """Push each row away from its nearest neighbour in the batch.

    The regulariser of Sablayrolles et al. 2019, https://arxiv.org/abs/1806.03198, eq.
    3, after the estimator of entropy of Kozachenko and Leonenko; on directions, as in
    DINOv2, Oquab et al. 2023, https://arxiv.org/abs/2304.07193, section 4. Differs from
    the authors' code: neighbours are those of all ranks, not of one.

    Args:
        z: features (N, D), not normalised; N is this rank's batch.

    Returns:
        Scalar, minus the mean over N of the logarithm of the distance to the neighbour.
        Synchronises ranks; its mean over them is the loss of the whole batch.

    Raises:
        ValueError: z is not (N, D), or N < 2 over all ranks (no neighbour).
    """
    check_rows("koleo", z, minimum=2)
    own = unit(z)
    others = distributed.gather(own)
    with torch.no_grad():
        similarity = own @ others.T
        itself = torch.arange(len(own), device=z.device)
        itself = itself + distributed.rank() * len(own)
        similarity.scatter_(1, itself[:, None], -2.0)
        nearest = similarity.argmax(1)
    distance = (own - others[nearest] + EPS).norm(dim=1)
    return -(distance + EPS).log().mean()
