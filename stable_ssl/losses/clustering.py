"""Clustering: views of an image are assigned to the same prototypes.

Assignments that share the batch equally among the prototypes prevent collapse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from stable_ssl import distributed
from stable_ssl.losses.checks import check_positive, check_rows, in_float32
from stable_ssl.losses.swapped import check_views, swapped_cross_entropy
from stable_ssl.vectors import unit


@torch.no_grad()
@in_float32
def sinkhorn(
    scores: Tensor,
    epsilon: float = 0.05,
    iterations: int = 3,
    counted: Tensor | None = None,
) -> Tensor:
    """Assign rows to prototypes, each of which gets an equal share of all rows.

    The Sinkhorn-Knopp algorithm as in Caron et al. 2020 (SwAV),
    https://arxiv.org/abs/2006.09882, eq. 3 to 5, on logarithms: no score is so large or
    so small that its exponential overflows or leaves a row of zeros.

    Args:
        scores: similarities of this rank's rows to the prototypes, (N, K).
        epsilon: their temperature; a smaller one makes assignments harder.
        iterations: of scaling prototypes and then rows; with more the shares of the
            prototypes come nearer to equal.
        counted: (N,) bool, true for rows that share the prototypes; others are assigned
            as well, and change nothing. None: all.

    Returns:
        (N, K) without gradient; rows sum to 1, and columns, over all ranks, to about
        N / K. In float32 at least. Synchronises ranks.

    Raises:
        ValueError: scores are not (N, K), or epsilon or iterations is not positive.
    """
    check_rows("sinkhorn", scores)
    check_positive("sinkhorn", epsilon=epsilon, iterations=iterations)
    log_codes = scores / epsilon
    for _ in range(iterations):
        rows = log_codes
        if counted is not None:  # not -inf: the lowest number leaves no NaN
            lowest = torch.finfo(rows.dtype).min
            rows = rows.masked_fill(~counted[:, None], lowest)
        shares = distributed.gather(rows.logsumexp(0, keepdim=True)).logsumexp(0)
        log_codes = (log_codes - shares).log_softmax(1)
    return log_codes.exp()


@in_float32
def swav(
    scores: Sequence[Tensor],
    assigned: int = 2,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    queue_scores: Sequence[Tensor] | None = None,
) -> Tensor:
    """Predict from each view the assignments of every other view.

    Caron et al. 2020 (SwAV), https://arxiv.org/abs/2006.09882, eq. 1 and 2, and eq. 6
    for more views than two.

    Args:
        scores: similarities of each view's embeddings to the prototypes, (N, K); N is
            this rank's batch. Both are normalised by the caller.
        assigned: leading views which get assignments; the others, small crops, only
            predict.
        temperature: divides the scores of predictions, tau in the paper.
        epsilon: as of `sinkhorn`.
        iterations: as of `sinkhorn`.
        queue_scores: of earlier embeddings, (Q, K) for each assigned view, compared
            with the present prototypes; only `sinkhorn` uses them.

    Returns:
        Scalar, the mean over pairs of different views and over N; gradients reach the
        predictions alone. Synchronises ranks; its mean over them is the loss of the
        whole batch.

    Raises:
        ValueError: there is no pair of views, shapes differ, queue_scores are not one
            for each assigned view, or a number is not positive.
    """
    check_views("swav", scores[:assigned], scores)
    check_rows("swav", *scores)
    check_positive("swav", temperature=temperature)
    pools = scores[:assigned]
    if queue_scores is not None:
        if len(queue_scores) != assigned:
            raise ValueError(
                f"swav found {len(queue_scores)} queues for {assigned} assigned views;"
                " use one for each, so that views are not mixed"
            )
        pools = [torch.cat(pair) for pair in zip(pools, queue_scores, strict=True)]
    n = len(scores[0])
    codes = [sinkhorn(pool, epsilon, iterations)[:n] for pool in pools]
    return swapped_cross_entropy(codes, [x / temperature for x in scores])


@in_float32
def msn(
    anchors: Sequence[Tensor],
    targets: Tensor,
    temperature: float = 0.1,
    sharpening: float = 0.25,
    iterations: int = 3,
    mean_entropy: float = 1.0,
) -> Tensor:
    """Predict from views of an image to which prototypes another one is assigned.

    Assran et al. 2022 (MSN), https://arxiv.org/abs/2204.07141, eq. 1 and 2: the
    assignments are sharpened, and the predictions' mean is kept from few prototypes,
    which is the me-max regulariser.

    Args:
        anchors: of each view that predicts, cosines with the prototypes, (N, K); N is
            this rank's batch.
        targets: of the view that is assigned, (N, K); detached here.
        temperature: divides all of them, tau.
        sharpening: exponent 1 / T of the assignments, T in the paper.
        iterations: of `sinkhorn` on the sharpened assignments, as in the authors' code;
            0: none, as in the paper's equations.
        mean_entropy: weight of the regulariser, lambda.

    Returns:
        Scalar, the mean over views and N. Synchronises ranks; its mean over them is the
        loss of the whole batch.

    Raises:
        ValueError: the shapes differ, or a temperature is not positive.
    """
    check_rows("msn", targets, *anchors)
    check_positive("msn", temperature=temperature, sharpening=sharpening)
    with torch.no_grad():
        sharp = (targets / temperature).log_softmax(1) / sharpening
        codes = sharp.softmax(1)
        if iterations:
            codes = sinkhorn(sharp.log_softmax(1), 1.0, iterations)
    logits = torch.stack(list(anchors)) / temperature
    distance = -(codes * logits.log_softmax(2)).sum(2).mean()
    mean = distributed.all_mean(logits.softmax(2).mean((0, 1)))
    tiny = torch.finfo(mean.dtype).tiny  # of a probability of 0 the product is 0
    spread = (mean * mean.clamp(min=tiny).log()).sum() + math.log(len(mean))
    return distance + mean_entropy * spread


@in_float32
def deepcluster(
    views: Sequence[Tensor],
    centroids: Tensor,
    assignments: Tensor,
    temperature: float = 0.1,
) -> Tensor:
    """Predict from every view the cluster of its image, in each of several clusterings.

    DeepCluster v2: Caron et al. 2020, https://arxiv.org/abs/2006.09882, appendix; the
    classifier's weights are the centroids.

    Args:
        views: projections (N, D), not normalised, row by row of the same images; N is
            this rank's batch.
        centroids: of H clusterings, (H, K, D), of norm 1; detached here.
        assignments: of the images, (N, H) integers; -1 where one has none, which then
            does not count.
        temperature: divides the cosines.

    Returns:
        Scalar, the mean over clusterings of the mean over views and over the images of
        all ranks that are assigned; 0 where none is. Synchronises ranks; its mean over
        them is the loss of the whole batch.

    Raises:
        ValueError: the shapes do not fit, or the temperature is not positive.
    """
    check_rows("deepcluster", *views)
    check_positive("deepcluster", temperature=temperature)
    (n, width), heads = views[0].shape, len(centroids)
    if assignments.shape != (n, heads) or centroids.shape[2:] != (width,):
        raise ValueError(
            f"deepcluster found centroids of shape {tuple(centroids.shape)} and"
            f" assignments of {tuple(assignments.shape)} for projections of"
            f" {(n, width)}; use (H, K, {width}) and ({n}, H)"
        )
    z, targets = unit(torch.cat(list(views))), assignments.repeat(len(views), 1)
    logits = torch.einsum("nd,hkd->nkh", z, centroids.detach()) / temperature
    losses = cross_entropy(logits, targets, ignore_index=-1, reduction="none")
    assigned = distributed.all_sum((targets >= 0).sum(0).to(losses.dtype))
    shares = distributed.world_size() / assigned.clamp(min=1)
    return (losses.sum(0) * shares).mean()
