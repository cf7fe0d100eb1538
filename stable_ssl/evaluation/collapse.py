"""Whether features still tell images apart: alignment, uniformity, spread.

On the unit sphere and in float64, of the features of all ranks.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

COLLAPSED = 0.05  # feature_std below it; see `collapse_warning`


def alignment(x: Tensor, y: Tensor) -> float:
    """Return the mean squared distance of two views of an image, 0 to 4.

    Wang and Isola 2020, https://arxiv.org/abs/2005.10242, section 4.1, alpha = 2.

    Args:
        x: features of one view, (N, D).
        y: those of the other view of the same images.
    """
    return (_unit(x) - _unit(y)).square().sum(1).mean().item()


def uniformity(x: Tensor, t: float = 2.0, chunk: int = 1024) -> float:
    """Return the log of the mean Gaussian potential of all pairs, -2 t to 0.

    Wang and Isola 2020, https://arxiv.org/abs/2005.10242, section 4.1; 0 is collapse.

    Args:
        x: features, (N, D); time grows with N^2 D.
        t: of exp(-t |x - y|^2).
        chunk: rows at a time; memory is chunk x N.

    Returns:
        The mean is over the pairs of different images; nan for one image.
    """
    unit = _unit(x)
    total = sum((2 * t * (rows @ unit.T - 1)).exp().sum() for rows in unit.split(chunk))
    itself = (2 * t * (unit.square().sum(1) - 1)).exp().sum()  # each image with itself
    pairs = len(x) * (len(x) - 1)
    return ((total - itself) / pairs).log().item() if pairs else float("nan")


def feature_std(x: Tensor) -> float:
    """Return the spread of features on the sphere: 1 if isotropic, 0 if collapsed.

    Chen and He 2021, https://arxiv.org/abs/2011.10566, section 4.1: the deviation of
    each dimension of the normalised features, its mean over dimensions times sqrt(D).

    Args:
        x: features, (N, D).
    """
    unit = _unit(x)
    return (unit.std(0, correction=0).mean() * unit.shape[1] ** 0.5).item()


def collapse_warning(x: Tensor) -> str | None:
    """Say that features (N, D) have collapsed, or nothing; one image says nothing.

    A `feature_std` of s allows a mean cosine similarity of images of 1 - s^2 at least
    if all dimensions vary alike, or else a share of s^2 of the dimensions that vary:
    0.05 is 0.9975, or one dimension in 400.
    """
    if len(x) < 2 or not (std := feature_std(x)) < COLLAPSED:
        return None
    return (
        f"the features have collapsed: feature_std={std:.2g}, below {COLLAPSED} (1 is"
        " isotropic, 0 one point); lower optim.lr, or check what prevents collapse in"
        " the method: negatives, a predictor with stopped gradient, variance terms"
    )


def _unit(x: Tensor) -> Tensor:
    return normalize(float64(x), dim=1)


def float64(x: Tensor) -> Tensor:
    """Return x in float64, on the CPU where its device has none."""
    return (x.cpu() if x.device.type == "mps" else x).double()
