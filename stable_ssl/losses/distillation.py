"""Self-distillation: a student predicts the output of a teacher without gradient.

The methods prevent collapse, not these losses: by a predictor and the stopped gradient,
or by the centre and the temperatures.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from stable_ssl.losses.checks import check_positive, check_rows, check_width, in_float32
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
    center: Tensor,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """Let the student predict from each view the teacher's output for every other.

    Caron et al. 2021 (DINO), https://arxiv.org/abs/2104.14294, eq. 3, with the centre
    and temperatures of algorithm 1. The caller updates the centre.

    Args:
        student: logits (N, K) of all views; N is this rank's batch.
        teacher: logits (N, K) of the first of these views; detached here.
        center: (K,) or (1, K), subtracted from the teacher's logits.
        student_temperature: divides the student's logits, tau_s.
        teacher_temperature: divides the teacher's, tau_t; a lower one sharpens.

    Returns:
        Scalar, the mean over pairs of different views and over N. Does not
        synchronise ranks; its mean over them is the loss of the whole batch.

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
    codes = [((x - center) / teacher_temperature).softmax(1).detach() for x in teacher]
    return swapped_cross_entropy(codes, [x / student_temperature for x in student])


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
