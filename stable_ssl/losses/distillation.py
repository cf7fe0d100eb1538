"""Distillation: a student predicts the output of a teacher without gradient.

Where the teacher follows the student, the methods prevent collapse, not these losses:
by a predictor and the stopped gradient, or by the centre and the temperatures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from stable_ssl.losses.checks import check_positive, check_rows, check_width, in_float32
from stable_ssl.losses.clustering import sinkhorn
from stable_ssl.losses.swapped import check_views, swapped_cross_entropy
from stable_ssl.vectors import unit


@in_float32
def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Turn predictions towards targets: minus their cosine similarity.

    Chen and He 2021 (SimSiam), https://arxiv.org/abs/2011.10566, eq. 1 with the
    stopped gradient of eq. 3.

    Args:
        p: predictions, (N, D), not normalised; N is this rank's batch.
        z: targets, (N, D), not normalised; detached here.

    Returns:
        Scalar, the mean over N, from -1 to 1. Does not synchronise ranks.

    Raises:
        ValueError: the shapes are not one (N, D).
    """
    check_rows("negative_cosine", p, z)
    return -(unit(p) * unit(z.detach())).sum(1).mean()


def cosine_regression(p: Tensor, z: Tensor) -> Tensor:
    """Return the squared distance of the normalised rows, 2 - 2 cos.

    Grill et al. 2020 (BYOL), https://arxiv.org/abs/2006.07733, eq. 2: for one order of
    the views; the paper adds the other.

    Args:
        p: predictions, (N, D), as of `negative_cosine`.
        z: targets, (N, D); detached.

    Returns:
        Scalar, the mean over N, from 0 to 4.
    """
    return 2 + 2 * negative_cosine(p, z)


@in_float32
def dino(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    center: Tensor | None,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """Let the student predict from each view the teacher's output for every other.

    Caron et al. 2021 (DINO), https://arxiv.org/abs/2104.14294, eq. 3, with the centre
    and temperatures of algorithm 1. The caller updates the centre. Without one it is
    the loss of DINOv2, Oquab et al. 2023, https://arxiv.org/abs/2304.07193, section 4.

    Args:
        student: logits (N, K) of all views; N is this rank's batch.
        teacher: logits (N, K) of the first of these views; detached here.
        center: (K,) or (1, K), subtracted from the teacher's logits; None: its views,
            all at once, are assigned by three iterations of `sinkhorn`.
        student_temperature: divides the student's logits, tau_s.
        teacher_temperature: divides the teacher's, tau_t; a lower one sharpens.

    Returns:
        Scalar, the mean over pairs of different views and over N. Synchronises ranks
        without a centre; its mean over them is the loss of the whole batch.

    Raises:
        ValueError: a single view (there is no pair), more teacher views than student
            views, shapes that differ, or a temperature that is not positive.
    """
    check_views("dino", teacher, student)
    check_rows("dino", *student, *teacher)
    check_positive(
        "dino",
        student_temperature=student_temperature,
        teacher_temperature=teacher_temperature,
    )
    codes = _codes(torch.cat(list(teacher)), center, teacher_temperature)
    codes = codes.chunk(len(teacher))
    return swapped_cross_entropy(codes, [x / student_temperature for x in student])


@in_float32
def ibot(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    center: Tensor | None,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """Let the student predict for hidden patches the teacher's output, which sees them.

    Zhou et al. 2022 (iBOT), https://arxiv.org/abs/2111.07832, eq. 2, with the mean over
    an image's patches as in the authors' code: each image counts alike. Without a
    centre it is the loss of DINOv2, Oquab et al. 2023,
    https://arxiv.org/abs/2304.07193, section 4.

    Args:
        student: logits (N, k, K) of k patches an image; N is this rank's batch.
        teacher: logits (N, k, K) of the same patches; detached here.
        mask: (N, k) bool, true for patches that were hidden; others do not count, and
            an image of which none was has a loss of 0.
        center: as of `dino`; None: `sinkhorn` assigns all hidden patches at once.
        student_temperature: as of `dino`.
        teacher_temperature: as of `dino`.

    Returns:
        Scalar, the mean over N. Synchronises ranks without a centre; its mean over them
        is the loss of the whole batch.

    Raises:
        ValueError: the shapes do not fit, or a temperature is not positive.
    """
    if student.ndim != 3 or teacher.shape != student.shape:
        raise ValueError(
            f"ibot found a student of shape {tuple(student.shape)} and a teacher of"
            f" {tuple(teacher.shape)}; use (N, k, K) twice"
        )
    if mask.shape != student.shape[:2]:
        raise ValueError(
            f"ibot found a mask of shape {tuple(mask.shape)} for patches of"
            f" {tuple(student.shape)}; use (N, k)"
        )
    check_positive(
        "ibot",
        student_temperature=student_temperature,
        teacher_temperature=teacher_temperature,
    )
    counted = mask.flatten()
    codes = _codes(teacher.flatten(0, 1), center, teacher_temperature, counted)
    predictions = (student / student_temperature).log_softmax(2)
    errors = -(codes.view_as(teacher) * predictions).sum(2)
    return ((errors * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


@torch.no_grad()
def _codes(
    logits: Tensor,
    center: Tensor | None,
    temperature: float,
    counted: Tensor | None = None,
) -> Tensor:
    """Return a teacher's distributions over the prototypes, (rows, K)."""
    if center is None:
        return sinkhorn(logits, temperature, counted=counted)
    return ((logits - center) / temperature).softmax(1)


@in_float32
def gram(student: Tensor, teacher: Tensor) -> Tensor:
    """Keep the similarities of an image's patches as they are in a teacher.

    Simeoni et al. 2025 (DINOv3, Gram anchoring), https://arxiv.org/abs/2508.10104,
    section 4.2: squared differences of cosines, here the mean of them, as in the
    authors' code; the paper's equation has their sum.

    Args:
        student: patches (N, L, D), not normalised; N is this rank's batch.
        teacher: patches (N, L, E) in the same places; detached here.

    Returns:
        Scalar, the mean over N and over L x L, from 0 to 4. Does not synchronise ranks.

    Raises:
        ValueError: the shapes do not fit.
    """
    shapes = student.shape, teacher.shape
    if {len(shape) for shape in shapes} != {3} or shapes[0][:2] != shapes[1][:2]:
        raise ValueError(
            f"gram found a student of shape {tuple(student.shape)} and a teacher of"
            f" {tuple(teacher.shape)}; use (N, L, D) and (N, L, E)"
        )
    own, other = unit(student), unit(teacher.detach())
    return (own @ own.mT - other @ other.mT).square().mean()


@in_float32
def feature_matching(
    student: Tensor, teacher: Tensor, cosine: float = 0.9, smooth_l1: float = 0.1
) -> Tensor:
    """Pull a student's features to those of a teacher, by direction and by value.

    Ranzinger et al. 2024 (AM-RADIO), https://arxiv.org/abs/2312.06709, eq. 3 for
    patches; with weights 1 and 0 its eq. 2 for an image.

    Args:
        student: (..., D), not normalised; the first dimension is this rank's batch.
        teacher: (..., D); detached here.
        cosine: weight of 1 minus the cosine similarity, alpha.
        smooth_l1: weight of the smooth L1 distance, the mean over D; beta.

    Returns:
        Scalar, the mean over all but D. Does not synchronise ranks.

    Raises:
        ValueError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"feature_matching found a student of shape {tuple(student.shape)} and a"
            f" teacher of {tuple(teacher.shape)}; project the student's to the width"
            " of the teacher's"
        )
    teacher = teacher.detach()
    apart = 1 - (unit(student) * unit(teacher)).sum(-1).mean()
    return cosine * apart + smooth_l1 * smooth_l1_loss(student, teacher)


@in_float32
def ressl(
    student: Tensor,
    teacher: Tensor,
    queue: Tensor,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Let the student be as like earlier images as the teacher is.

    Zheng et al. 2021 (ReSSL), https://arxiv.org/abs/2107.09282, section 3.

    Args:
        student: projections of the strong view, (N, D), not normalised; N is this
            rank's batch.
        teacher: projections of the weak view, row by row of the same images; detached
            here.
        queue: (K, D), earlier projections by the teacher, without those of this batch;
            detached here.
        student_temperature: divides the student's cosines, tau_s.
        teacher_temperature: divides the teacher's, tau_t; a lower one sharpens.

    Returns:
        Scalar, the mean over N of the cross-entropy. Does not synchronise ranks; its
        mean over them is the loss of the whole batch.

    Raises:
        ValueError: the shapes do not fit, or a temperature is not positive.
    """
    check_rows("ressl", student, teacher)
    check_width("ressl", "a queue", queue, student)
    check_positive(
        "ressl",
        student_temperature=student_temperature,
        teacher_temperature=teacher_temperature,
    )
    queue = unit(queue.detach())
    relations = (unit(teacher.detach()) @ queue.T / teacher_temperature).softmax(1)
    predictions = (unit(student) @ queue.T / student_temperature).log_softmax(1)
    return -(relations * predictions).sum(1).mean()
