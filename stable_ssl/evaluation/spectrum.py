"""What the features of a split say of themselves without labels: ranks and spread.

All in float64, of the features of all ranks. Features from an accelerator without
float64 are moved to the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from stable_ssl.evaluation.collapse import alignment, feature_std, float64, uniformity
from stable_ssl.evaluation.evaluator import Evaluator, Split
from stable_ssl.loggers.names import Metric

EPS = 1e-7  # added to each share of a spectrum, as in both papers on ranks


class Spectrum(Evaluator):
    """Measure ranks and spread; of a split with several views also what views share."""

    key = "spectrum"
    names = ("rankme", "alpha_req", "feature_std", "uniformity")
    all_views = True
    metrics = {
        "rankme": Metric("RankMe", protocol="effective rank of the features"),
        "alpha_req": Metric("alpha-ReQ", protocol="exponent of their spectrum"),
        "feature_std": Metric(
            "feature std", protocol="spread on the sphere, 1 isotropic, 0 collapsed"
        ),
        "uniformity": Metric(
            "uniformity", protocol="on the sphere, t=2; 0 is collapse"
        ),
        "alignment": Metric(
            "alignment", protocol="squared distance of the first two views"
        ),
        "lidar": Metric("LiDAR", protocol="effective rank of what tells images apart"),
    }

    def __init__(self, on: bool = True):
        self.eigenvalues: list[float] = []  # of the last split, largest first

    def __call__(self, split: Split) -> Iterator[tuple[str, float]]:
        """Yield each metric, nan of a diverging model's features."""
        x = split.features
        spectrum = covariance_spectrum(x) if x.isfinite().all() else None
        self.eigenvalues = [] if spectrum is None else spectrum.tolist()
        yield "rankme", _of_finite(rankme, x)
        yield "alpha_req", math.nan if spectrum is None else decay(spectrum)
        yield "feature_std", _of_finite(feature_std, x)
        yield "uniformity", _of_finite(uniformity, x)
        if split.views is not None:
            yield "alignment", _of_finite(alignment, *split.views[:, :2].unbind(1))
            yield "lidar", _of_finite(lidar, split.views)


def _of_finite(metric: Callable[..., float], *features: Tensor) -> float:
    """Measure; nan where decompositions would refuse the features."""
    return metric(*features) if all(x.isfinite().all() for x in features) else math.nan


def rankme(features: Tensor) -> float:
    """Return the effective rank of features, from 1 to about min(N, D), RankMe.

    Garrido et al. 2023, https://arxiv.org/abs/2210.02885, eq. 1: the exponential of the
    entropy of the singular values, as shares of their sum.

    Args:
        features: (N, D), not centred.
    """
    return effective_rank(torch.linalg.svdvals(float64(features)))


def alpha_req(features: Tensor) -> float:
    """Return the exponent alpha of a spectrum that decays as 1 / j^alpha, alpha-ReQ.

    Agrawal et al. 2022, https://papers.neurips.cc/paper_files/paper/2022/hash/
    70596d70542c51c8d9b4e423f4bf2736-Abstract-Conference.html. 0 is a flat spectrum,
    about 1 a good one, more a fast decay.

    Args:
        features: (N, D).

    Returns:
        nan where fewer than two eigenvalues differ from 0: a total collapse.
    """
    return decay(covariance_spectrum(features))


def covariance_spectrum(features: Tensor) -> Tensor:
    """Return the eigenvalues of the features' covariance, largest first.

    Args:
        features: (N, D).

    Returns:
        (min(N, D),) float64; those that are nothing but rounding are 0.
    """
    x = float64(features)
    singular = torch.linalg.svdvals(x - x.mean(0))
    rounding = torch.finfo(x.dtype).eps * max(x.shape) * x.norm()
    return singular.where(singular > rounding, 0) ** 2 / len(x)


def decay(spectrum: Tensor) -> float:
    """Return the exponent alpha of eigenvalues (K,), as `alpha_req` does of features.

    The line of least squares through (log j, log lambda_j), of all eigenvalues above
    1e-10 of the largest; the paper leaves the range open.
    """
    spectrum = spectrum[spectrum > 1e-10 * spectrum[0]]
    if len(spectrum) < 2:
        return float("nan")
    j = torch.arange(1, len(spectrum) + 1, dtype=spectrum.dtype, device=spectrum.device)
    j, y = j.log() - j.log().mean(), spectrum.log()
    return -((j * y).sum() / (j * j).sum()).item()


def lidar(views: Tensor, delta: float = 1e-4) -> float:
    """Return the rank of what tells images apart, whitened by what views vary: LiDAR.

    Thilak et al. 2024, https://arxiv.org/abs/2312.04000, section 4: each image is a
    surrogate class, its views are the members. The effective rank of
    S_w^-1/2 S_b S_w^-1/2, S_b the covariance of the images' means and S_w the mean
    covariance of an image's views plus delta on the diagonal.

    Args:
        views: features of V views of each of N images, (N, V, D); the paper takes
            V = 50 training views of 1,000 images, and features of the projector where
            there is one.
        delta: regularises S_w, in squared units of the features.

    Raises:
        ValueError: fewer than two views.
    """
    n, v, d = views.shape
    if v < 2:
        raise ValueError(f"lidar found {v} view of an image, expected 2 or more")
    x = float64(views)
    means = x.mean(1)
    between = means - means.mean(0)
    within = (x - means[:, None]).flatten(0, 1)
    covariance = within.T @ within / (n * v)
    values, vectors = torch.linalg.eigh(covariance)
    whitened = between @ vectors * (values.clamp_min(0) + delta).rsqrt()
    return effective_rank(torch.linalg.svdvals(whitened) ** 2)


def effective_rank(spectrum: Tensor) -> float:
    """Return exp of the entropy of a spectrum (K,), as shares of its sum."""
    share = spectrum / spectrum.sum().clamp_min(torch.finfo(spectrum.dtype).tiny) + EPS
    return (-(share * share.log()).sum()).exp().item()
