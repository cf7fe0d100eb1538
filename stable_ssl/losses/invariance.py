"""Invariance: all views of an image are to be where the mean of its large ones is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stable_ssl.losses.checks import check_rows, in_float32


@in_float32
def invariance(views: Sequence[Tensor], global_views: int) -> Tensor:
    """Return the mean squared distance of all views to the mean of the first ones.

    Balestriero and LeCun 2025 (LeJEPA), https://arxiv.org/abs/2511.08544.

    Args:
        views: projections of the views, (N, D) each; N is this rank's batch.
        global_views: leading ones whose mean counts; the gradient reaches it, too.

    Returns:
        Scalar, the mean over views, N and D. Does not synchronise ranks; its mean over
        them is the loss of the whole batch.

    Raises:
        ValueError: views of several shapes or not (N, D), or global views that are
            none of them.
    """
    check_rows("invariance", *views)
    if not 0 < global_views <= len(views):
        raise ValueError(
            f"invariance found global_views={global_views} of {len(views)} views; use"
            f" 1 to {len(views)}"
        )
    stacked = torch.stack(list(views))
    return (stacked - stacked[:global_views].mean(0)).square().mean()
