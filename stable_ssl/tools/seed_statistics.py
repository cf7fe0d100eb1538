"""Seeds as a sample: mean, spread, and what cannot be told from the best."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from stable_ssl.loggers.names import is_accuracy

if TYPE_CHECKING:
    from pandas import DataFrame

INTERVALS = {"std": "standard deviation", "ci95": "95 % interval of the mean"}
TESTED = 3  # values of a sample, at least
LEVEL = 0.05  # of the test that tells two samples apart
ROUNDING = 1e-12  # of a mean: differences that are none


@dataclass(frozen=True)
class Sample:
    """The values of one metric over seeds; their spreads are nan of one value."""

    values: tuple[float, ...]  # at least one, all finite

    @property
    def n(self) -> int:
        """How many values there are."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Their mean."""
        return fmean(self.values)

    @property
    def std(self) -> float:
        """Their standard deviation with n - 1."""
        return stdev(self.values) if self.n > 1 else math.nan

    @property
    def ci95(self) -> float:
        """Half the width of Student's 95 % interval of the mean."""
        from scipy.stats import t  # where it is used: it takes .3 s to import

        return float(t.ppf(0.975, self.n - 1)) * self.std / math.sqrt(self.n)

    def spread(self, interval: str) -> float:
        """Return `std` or `ci95`."""
        return self.std if interval == "std" else self.ci95


def sample_of(runs: DataFrame, metric: str) -> Sample | None:
    """Return the values of a metric of runs, accuracies in per cent."""
    scale = 100 if is_accuracy(metric) else 1
    return sample([scale * value for value in runs[metric]])


def sample(values: Sequence[float]) -> Sample | None:
    """Return the numbers among values as a sample; None where there is none."""
    numbers = tuple(float(v) for v in values if v is not None and math.isfinite(v))
    return Sample(numbers) if numbers else None


def told_apart(a: Sample, b: Sample) -> bool:
    """Return whether two samples differ in their means, by Welch's t-test at 5 %.

    Two-sided, without a correction for many comparisons. A sample of fewer than
    `TESTED` values says too little of its spread to judge by, so it is told from any
    other mean.

    Source: Welch 1947, https://doi.org/10.1093/biomet/34.1-2.28
    """
    size = max(abs(a.mean), abs(b.mean))
    if min(a.n, b.n) < TESTED or max(a.std, b.std) <= ROUNDING * size:
        return abs(a.mean - b.mean) > ROUNDING * size
    from scipy.stats import ttest_ind

    with warnings.catch_warnings():  # of seeds that agree to the last digit
        warnings.simplefilter("ignore", RuntimeWarning)
        return bool(ttest_ind(a.values, b.values, equal_var=False).pvalue < LEVEL)
