"""Masked modelling: what was hidden of an image is predicted from the rest."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from stable_ssl import distributed
from stable_ssl.losses.checks import check_positive, in_float32


@in_float32
def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared error of the masked patches.

    He et al. 2022 (MAE), https://arxiv.org/abs/2111.06377, section 3, where the target
    is best `normalize_patches` of the pixels.

    Args:
        prediction: (N, L, P): P values for each of L patches; no class token.
        target: (N, L, P).
        mask: (N, L), 1 or True where a patch was hidden; others do not count.

    Returns:
        Scalar, the mean over the P values and over the masked patches of all ranks,
        which may have different numbers of them; NaN if none is masked. Synchronises
        ranks; its mean over them is the loss of the whole batch.

    Raises:
        ValueError: the shapes do not fit.
    """
    _check_patches("masked_mse", prediction, target, mask)
    return _masked_mean((prediction - target).square(), mask)


@in_float32
def masked_l1(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the mean absolute error of the masked patches, otherwise as `masked_mse`.

    Xie et al. 2022 (SimMIM), https://arxiv.org/abs/2111.09886, section 3.4.

    Args:
        prediction: (N, L, P).
        target: (N, L, P).
        mask: (N, L).

    Returns:
        Scalar; synchronises ranks.

    Raises:
        ValueError: the shapes do not fit.
    """
    _check_patches("masked_l1", prediction, target, mask)
    return _masked_mean((prediction - target).abs(), mask)


@in_float32
def masked_smooth_l1(
    prediction: Tensor, target: Tensor, mask: Tensor, beta: float = 1.0
) -> Tensor:
    """Return the smooth L1 error of the masked patches, otherwise as `masked_mse`.

    Baevski et al. 2022 (data2vec), https://arxiv.org/abs/2202.03555, eq. 4.

    Args:
        prediction: (N, L, P).
        target: (N, L, P).
        mask: (N, L).
        beta: of an error below it the square counts.

    Returns:
        Scalar; synchronises ranks.

    Raises:
        ValueError: the shapes do not fit, or beta is not positive.
    """
    _check_patches("masked_smooth_l1", prediction, target, mask)
    check_positive("masked_smooth_l1", beta=beta)
    errors = smooth_l1_loss(prediction, target, beta=beta, reduction="none")
    return _masked_mean(errors, mask)


def _check_patches(name: str, prediction: Tensor, target: Tensor, mask: Tensor) -> None:
    """Raise ValueError for shapes other than (N, L, P) twice and (N, L)."""
    shapes = [tuple(x.shape) for x in (prediction, target, mask)]
    if prediction.ndim != 3 or shapes[1] != shapes[0] or shapes[2] != shapes[0][:2]:
        raise ValueError(
            f"{name} found a prediction of shape {shapes[0]}, a target of"
            f" {shapes[1]} and a mask of {shapes[2]}; use (N, L, P) twice and (N, L),"
            " without the class token"
        )


def _masked_mean(errors: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over P and over the masked patches of all ranks."""
    mask = mask.to(errors.dtype)
    return (errors.mean(2) * mask).sum() / distributed.all_mean(mask.sum())


@in_float32
def normalize_patches(patches: Tensor) -> Tensor:
    """Standardise each patch by its mean and unbiased variance (+ 1e-6), as in MAE.

    Args:
        patches: (N, L, P), P of 2 or more.
    """
    centred = patches - patches.mean(-1, keepdim=True)
    return centred * (patches.var(-1, keepdim=True) + 1e-6).rsqrt()
