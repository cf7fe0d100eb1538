"""Contrastive losses: views of one image attract, those of other images repel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from stable_ssl import distributed
from stable_ssl.losses.checks import check_positive, check_rows, check_width, in_float32
from stable_ssl.vectors import unit

BLOCK = 2**21  # similarities in memory at once: 8 MiB in float32


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
    check_rows("nt_xent", z_a, z_b, minimum=2)
    check_positive("nt_xent", temperature=temperature)
    anchors = unit(torch.cat([z_a, z_b]))
    candidates = distributed.gather(anchors)  # rank by rank, both views of each
    partners = anchors.roll(len(z_a), 0)
    similarity = (anchors * partners).sum(1).mean() / temperature
    own = _indices(anchors)[:, None]
    return _mean_log_sum_exp(anchors / temperature, candidates, own) - similarity


@in_float32
def dcl(
    z_a: Tensor, z_b: Tensor, temperature: float = 0.1, sigma: float | None = None
) -> Tensor:
    """Attract each view's partner, repel the 2N - 2 views of other images.

    Decoupled contrastive learning, Yeh et al. 2022, https://arxiv.org/abs/2110.06848,
    eq. 6: NT-Xent whose denominator has no positive, by one log-sum-exp over all
    negatives. With sigma the weighted form, DCLW: an image's attraction is multiplied
    by 2 - exp(s / sigma) / mean exp(s / sigma), s being the cosine of its two views and
    the mean that of the batch, so that views which are far apart count more. Memory
    grows with N, not with its square.

    Args:
        z_a: projections of one view, (N, D), not normalised; N is this rank's batch.
        z_b: those of the other view, row by row of the same images.
        temperature: divides the cosine similarities, tau in the paper.
        sigma: of the weights, which are constants to the gradient; None weighs all
            images alike.

    Returns:
        Scalar, the mean over this rank's 2N anchors against the views of all ranks.
        Synchronises ranks; its mean over them is the loss of the whole batch.

    Raises:
        ValueError: the shapes are not one (N, D), N < 2 over all ranks (no negatives),
            or the temperature or sigma is not positive.
    """
    n = check_rows("dcl", z_a, z_b, minimum=2)
    check_positive("dcl", temperature=temperature)
    anchors = unit(torch.cat([z_a, z_b]))
    candidates = distributed.gather(anchors)  # rank by rank, both views of each
    similarities = (anchors * anchors.roll(len(z_a), 0)).sum(1)
    if sigma is not None:
        check_positive("dcl", sigma=sigma)
        scaled = similarities.detach() / sigma
        of_all = distributed.gather(scaled[: len(z_a)]).logsumexp(0)
        similarities = similarities * (2 - n * (scaled - of_all).exp())
    own = _indices(anchors)
    own = torch.stack([own, own.roll(len(z_a))], 1)  # both views of the image
    repulsion = _mean_log_sum_exp(anchors / temperature, candidates, own)
    return repulsion - similarities.mean() / temperature


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
    check_rows("info_nce", queries, keys, minimum=2 if negatives is None else 1)
    check_positive("info_nce", temperature=temperature)
    queries, keys = unit(queries), unit(keys)
    candidates = distributed.gather(keys)
    if negatives is not None:
        check_width("info_nce", "negatives", negatives, keys)
        candidates = torch.cat([candidates, unit(negatives)])
    similarity = (queries * keys).sum(1).mean() / temperature
    return _mean_log_sum_exp(queries / temperature, candidates, None) - similarity


@in_float32
def moco(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Tell each query's key from a queue; keys of other images are not candidates.

    He et al. 2020 (MoCo), https://arxiv.org/abs/1911.05722, eq. 1. Memory grows with
    N K, the similarities to the queue.

    Args:
        queries: (N, D), not normalised; N is this rank's batch.
        keys: (N, D), row by row of the same images; detached here.
        queue: (K, D), earlier keys, likewise not yet those of this batch.
        temperature: divides the similarities, tau in the paper.

    Returns:
        Scalar, the mean over N; log(K + 1) when all vectors coincide. Does not
        synchronise ranks; its mean over them is the loss of the whole batch.

    Raises:
        ValueError: the shapes do not fit, or the temperature is not positive.
    """
    check_rows("moco", queries, keys)
    check_positive("moco", temperature=temperature)
    check_width("moco", "a queue", queue, keys)
    queries, keys, queue = unit(queries), unit(keys.detach()), unit(queue.detach())
    positives = (queries * keys).sum(1, keepdim=True)
    logits = torch.cat([positives, queries @ queue.T], 1) / temperature
    return -logits.log_softmax(1)[:, 0].mean()


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
        labels: integers (N,); the positives of an image whose label is negative, which
            is none, are its own views.
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
    check_rows("sup_con", *views, minimum=2)
    check_positive("sup_con", temperature=temperature)
    if labels.shape != views[0].shape[:1]:
        raise ValueError(
            f"sup_con found labels of shape {tuple(labels.shape)} for"
            f" {len(views[0])} images; use one integer for each"
        )
    anchors = unit(torch.cat(list(views)))
    candidates = distributed.gather(anchors)
    labels = labels.where(labels >= 0, -1 - _indices(labels))
    labels = labels.repeat(len(views))
    labels_of_all = distributed.gather(labels)
    ordered = labels_of_all.sort().values  # torch.unique would wait for the device
    group = torch.searchsorted(ordered, labels)  # a label's first position among all
    group_of_all = torch.searchsorted(ordered, labels_of_all)
    sums = torch.zeros_like(candidates).index_add(0, group_of_all, candidates)
    ones = torch.ones_like(group_of_all)
    sizes = torch.zeros_like(group_of_all).index_add(0, group_of_all, ones)
    mean_positives = (sums[group] - anchors) / (sizes[group] - 1)[:, None]
    similarity = (anchors * mean_positives).sum(1).mean() / temperature
    own = _indices(anchors)[:, None]
    return _mean_log_sum_exp(anchors / temperature, candidates, own) - similarity


def _indices(anchors: Tensor) -> Tensor:
    """Return the indices of this rank's rows among those gathered of all ranks."""
    first = len(anchors) * distributed.rank()
    return first + torch.arange(len(anchors), device=anchors.device)


class _MeanLogSumExp(Function):
    """The mean over anchors (M, D) of log sum exp(anchor . candidate), those (C, D).

    `excluded` (M, E) are the candidates that an anchor leaves out. Anchors are compared
    in blocks, so that the M x C similarities never exist together. All anchors have one
    weight, so the forward pass knows the gradient up to a factor, and computes it while
    it has the similarities.
    """

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, candidates: Tensor, excluded: Tensor | None
    ) -> Tensor:
        total = anchors.new_zeros(())
        needed = ctx.needs_input_grad
        anchor_grads = torch.empty_like(anchors) if needed[0] else None
        candidate_grads = torch.zeros_like(candidates) if needed[1] else None
        rows = max(1, BLOCK // len(candidates))
        for start in range(0, len(anchors), rows):
            block = anchors[start : start + rows]
            logits = block @ candidates.T
            if excluded is not None:
                left_out = excluded[start : start + rows]
                logits.scatter_(1, left_out, -torch.inf)
            largest = logits.amax(1, keepdim=True)
            exps = logits.sub_(largest).exp_()  # the only exponentials there are
            sums = exps.sum(1, keepdim=True)
            total += (largest + sums.log()).sum()
            if needed[0]:
                anchor_grads[start : start + rows] = (exps @ candidates).div_(sums)
            if needed[1]:
                candidate_grads.addmm_(exps.T, block / sums)
        ctx.save_for_backward(anchor_grads, candidate_grads)
        ctx.count = len(anchors)
        return total / ctx.count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad / ctx.count
        return *(grad * x if x is not None else None for x in ctx.saved_tensors), None


_mean_log_sum_exp = _MeanLogSumExp.apply
