"""Semi-supervised losses on images without labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stable_ssl.losses.checks import check_rows, in_float32


@in_float32
def pseudo_label(
    weak_logits: Tensor, strong_logits: Tensor, threshold: float = 0.95
) -> Tensor:
    """Train the strong view on the class predicted from the weak one, where confident.

    Sohn et al. 2020 (FixMatch), https://arxiv.org/abs/2001.07685, eq. 4.

    Args:
        weak_logits: (N, K) of weakly augmented images; detached here.
        strong_logits: (N, K) of the same images, strongly augmented.
        threshold: minimal probability of the likeliest class, tau in the paper.

    Returns:
        Scalar, the mean over all N rows, those below the threshold counting as 0. Does
        not synchronise ranks.

    Raises:
        ValueError: the shapes are not one (N, K).
    """
    check_rows("pseudo_label", weak_logits, strong_logits)
    confidence, label = weak_logits.detach().softmax(1).max(1)
    losses = F.cross_entropy(strong_logits, label, reduction="none")
    return (losses * (confidence >= threshold)).mean()


@in_float32
def consistency(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Keep the student's probabilities near the teacher's.

    Tarvainen and Valpola 2017 (Mean Teacher), https://arxiv.org/abs/1703.01780,
    section 2: the squared distance of the softmax outputs, as the mean over classes.

    Args:
        student_logits: (N, K).
        teacher_logits: (N, K) of the same images; detached here.

    Returns:
        Scalar, the mean over N and K. Does not synchronise ranks.

    Raises:
        ValueError: the shapes are not one (N, K).
    """
    check_rows("consistency", student_logits, teacher_logits)
    return F.mse_loss(student_logits.softmax(1), teacher_logits.detach().softmax(1))
