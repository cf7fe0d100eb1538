"""Contrastive losses: two views of an image attract, views of other images repel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_ssl import distributed

EPS = 1e-6  # least norm divided by: a zero row must not multiply gradients by 1e12


def nt_xent(z_a: Tensor, z_b: Tensor, temperature: float = 0.5) -> Tensor:
    """Tell each view's partner from the 2N - 2 views of other images (NT-Xent).

    Chen et al. 2020, https://arxiv.org/abs/2002.05709, eq. 1. Computed in float32, or
    in float64 if the projections are, whatever the autocast state.

    Args:
        z_a: projections of one view, (N, D), not normalised; N is this rank's batch.
        z_b: those of the other view, row by row of the same images.
        temperature: divides the cosine similarities, tau in the paper.

    Returns:
        Scalar, the mean over this rank's 2N anchors against the views of all ranks;
        log(2N - 1), N over all ranks, when all projections coincide. Synchronises
        ranks; its mean over them is the loss of the whole batch.

    Raises:
        ValueError: the shapes are not one (N, D), N < 2 (no negatives), or the
            temperature is not positive.
    """
    if z_a.ndim != 2 or z_a.shape != z_b.shape:
        raise ValueError(
            f"nt_xent found shapes {tuple(z_a.shape)} and {tuple(z_b.shape)}, "
            "expected the same (N, D) twice; flatten the projections"
        )
    if temperature <= 0:
        raise ValueError(f"nt_xent found temperature={temperature}; use one above 0")
    n, ranks = len(z_a), distributed.world_size()
    if n * ranks < 2:
        raise ValueError(
            f"nt_xent found N={n}, and one image has no negatives; "
            "use a batch of 2 or more (and drop_last, if the last one is smaller)"
        )
    with torch.autocast(z_a.device.type, enabled=False):
        anchors = torch.cat([_unit(z_a), _unit(z_b)])
        candidates = distributed.gather(anchors)  # rank by rank, both views of each
        row = torch.arange(2 * n, device=z_a.device)
        first = 2 * n * distributed.rank()
        itself, partner = first + row, first + row.roll(n)  # columns
        logits = (anchors / temperature) @ candidates.T
        logits[row, itself] = -torch.inf
        return F.cross_entropy(logits, partner)


def _unit(z: Tensor) -> Tensor:
    """Return the rows scaled to norm 1, in float32 at least; half squares overflow."""
    return F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), eps=EPS)
