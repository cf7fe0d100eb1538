"""Contrastive losses: views of one image attract, those of other images repel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from stable_ssl import distributed
from stable_ssl.losses.inputs import check_positive, check_rows, in_float32, unit

BLOCK = 2**21  # similarities held at once: 8 MiB in float32


@in_float32
def nt_xent(z_a: Tensor, z_b: Tensor, temperature: float = 0.5) -> Tensor:
    """Tell each view's partner from the 2N - 2 views of other images (NT-Xent).

    Chen et al. 2020, https://arxiv.org/abs/2002.05709, eq. 1. Computed in float32, or
    in float64 if the projections are, whatever the autocast state. Memory grows with N,
    not with its square.

    Args:
        z_a: projections of one view, (N, D), not normalised; N is this rank's batch.
        z_b: those of the other view, row by row of the same images.
        temperature: divides the cosine similarities, tau in the paper.

    Returns:
        Scalar, the mean over this rank's 2N anchors against the views of all ranks;
        log(2N - 1), N over all ranks, when all projections coincide. Synchronises
        ranks; its mean over them is the loss of the whole batch.

    Raises:
        ValueError: the shapes are not one (N, D), N < 2 over all ranks (no negatives),
            or the temperature is not positive.
    """
    check_rows("nt_xent", z_a, z_b, least=2)
    check_positive("nt_xent", temperature=temperature)
    anchors = torch.cat([unit(z_a), unit(z_b)])
    candidates = distributed.gather(anchors)  # rank by rank, both views of each
    partners = anchors.roll(len(z_a), 0)
    alike = (anchors * partners).sum(1).mean() / temperature
    return _spread(anchors / temperature, candidates, _own_column(anchors)) - alike


@in_float32
def info_nce(
    queries: Tensor,
    keys: Tensor,
    temperature: float,
    negatives: Tensor | None = None,
) -> Tensor:
    """Tell each query's key from the keys of other images and from further negatives.

    InfoNCE, van den Oord et al. 2018, https://arxiv.org/abs/1807.03748, eq. 4, on
    cosine similarities; eq. 1 of MoCo v3 (https://arxiv.org/abs/2104.02057) but for its
    factor 2 tau, and with nearest neighbours as queries eq. 3 of NNCLR
    (https://arxiv.org/abs/2104.14548). Memory grows with N + K, not with their product.

    Args:
        queries: (N, D), not normalised; N is this rank's batch.
        keys: (N, D), row by row of the same images; those of all ranks are candidates.
            Gradients reach both; detach what is not to learn.
        temperature: divides the similarities, tau in the papers.
        negatives: (K, D) that are candidates, too, such as a queue.

    Returns:
        Scalar, the mean over this rank's queries. Synchronises ranks; its mean over
        them is the loss of the whole batch.

    Raises:
        ValueError: the shapes do not fit, there is a single candidate, or the
            temperature is not positive.
    """
    check_rows("info_nce", queries, keys, least=2 if negatives is None else 1)
    check_positive("info_nce", temperature=temperature)
    queries, keys = unit(queries), unit(keys)
    candidates = distributed.gather(keys)
    if negatives is not None:
        if negatives.ndim != 2 or negatives.shape[1] != keys.shape[1]:
            raise ValueError(
                f"info_nce found negatives of shape {tuple(negatives.shape)} beside"
                f" keys of {tuple(keys.shape)}; use (K, {keys.shape[1]})"
            )
        candidates = torch.cat([candidates, unit(negatives)])
    alike = (queries * keys).sum(1).mean() / temperature
    return _spread(queries / temperature, candidates) - alike


@in_float32
def sup_con(
    views: Sequence[Tensor], labels: Tensor, temperature: float = 0.1
) -> Tensor:
    """Attract all views of images with the same label, repel those of others.

    Khosla et al. 2020, https://arxiv.org/abs/2004.11362, eq. 2 (L_out). With two views
    and all labels different it is `nt_xent`. Memory grows with N, not with its square.

    Args:
        views: two or more projections (N, D), not normalised, row by row of the same
            images; N is this rank's batch.
        labels: integers (N,).
        temperature: divides the cosine similarities, tau in the paper.

    Returns:
        Scalar, the mean over this rank's anchors, which are all views of its images,
        against those of all ranks. Synchronises ranks; its mean over them is the loss
        of the whole batch.

    Raises:
        ValueError: fewer than two views (an anchor may have no positive), their shapes
            are not one (N, D), labels do not fit, N < 2 over all ranks, or the
            temperature is not positive.
    """
    if len(views) < 2:
        raise ValueError(
            f"sup_con found {len(views)} view, and a label that occurs once has no"
            " positive; use two views or more"
        )
    check_rows("sup_con", *views, least=2)
    check_positive("sup_con", temperature=temperature)
    if labels.shape != views[0].shape[:1]:
        raise ValueError(
            f"sup_con found labels of shape {tuple(labels.shape)} for"
            f" {len(views[0])} images; use one integer for each"
        )
    anchors = torch.cat([unit(view) for view in views])
    candidates = distributed.gather(anchors)
    labels = labels.repeat(len(views))
    labels_of_all = distributed.gather(labels)
    in_order = labels_of_all.sort().values
    own, of_all = (
        torch.searchsorted(in_order, x) for x in (labels, labels_of_all)
    )  # one number for each label, found without synchronising the host
    sums = torch.zeros_like(candidates).index_add(0, of_all, candidates)
    sizes = torch.zeros_like(of_all).index_add(0, of_all, torch.ones_like(of_all))
    positives = (sums[own] - anchors) / (sizes[own] - 1)[:, None]  # their mean
    alike = (anchors * positives).sum(1).mean() / temperature
    return _spread(anchors / temperature, candidates, _own_column(anchors)) - alike


def _own_column(anchors: Tensor) -> Tensor:
    """Return where this rank's rows stand among those gathered of all ranks."""
    first = len(anchors) * distributed.rank()
    return first + torch.arange(len(anchors), device=anchors.device)


def _spread(
    anchors: Tensor, candidates: Tensor, excluded: Tensor | None = None
) -> Tensor:
    """Return the mean over anchors of log sum exp(anchor . candidate).

    Args:
        anchors: (M, D).
        candidates: (C, D).
        excluded: the candidate that each anchor leaves out, (M,).
    """
    return _MeanLogSumExp.apply(anchors, candidates, excluded)


class _MeanLogSumExp(Function):
    """Blocks of anchors: the M x C similarities never exist together.

    All anchors weigh alike, so the gradient is known in the forward pass up to a
    factor; taken there, no similarity is computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, candidates: Tensor, excluded: Tensor | None
    ) -> Tensor:
        total = anchors.new_zeros(())
        needed = ctx.needs_input_grad
        of_anchors = torch.empty_like(anchors) if needed[0] else None
        of_candidates = torch.zeros_like(candidates) if needed[1] else None
        rows = max(1, BLOCK // len(candidates))
        for start in range(0, len(anchors), rows):
            block = anchors[start : start + rows]
            logits = block @ candidates.T
            if excluded is not None:
                left_out = excluded[start : start + rows, None]
                logits.scatter_(1, left_out, -torch.inf)
            sums = logits.logsumexp(1, keepdim=True)
            total += sums.sum()
            softmax = logits.sub_(sums).exp_() if any(needed[:2]) else None
            if needed[0]:
                of_anchors[start : start + rows] = softmax @ candidates
            if needed[1]:
                of_candidates.addmm_(softmax.T, block)
        ctx.save_for_backward(of_anchors, of_candidates)
        ctx.count = len(anchors)
        return total / ctx.count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad / ctx.count
        return *(grad * x if x is not None else None for x in ctx.saved_tensors), None
