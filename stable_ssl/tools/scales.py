"""The scale of an axis that suits the values of a key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stable_ssl.loggers.names import spelled
from stable_ssl.tools import keys

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHARACTER = 0.075  # inches a character of 7 pt and its room


@dataclass(frozen=True)
class Scale:
    """Where the values of a key stand on an axis.

    Args:
        places: by the value's text.
        log: whether the axis is logarithmic.
        even: whether places are numbered, and say nothing of the values.
        joined: whether a line may join them: they are numbers.
    """

    places: dict[str, float]
    log: bool
    even: bool
    joined: bool

    @classmethod
    def of(cls, values: Sequence[Any]) -> Scale:
        """Return the scale that suits the values of a key."""
        texts = sorted({keys.cell(value) for value in values}, key=keys.rank)
        if not keys.numeric(texts):
            return cls({t: i for i, t in enumerate(texts)}, False, True, False)
        numbers = [float(text) for text in texts]
        positive = [number for number in numbers if number > 0]
        log = _geometric(positive)
        if log and len(positive) < len(numbers):  # 0 beside them has no logarithm
            return cls({t: i for i, t in enumerate(texts)}, False, True, True)
        return cls(dict(zip(texts, numbers, strict=True)), log, False, True)

    def apply(self, axes: Axes, key: str, width: float) -> None:
        """Set scale and ticks of x; each value has one where there is room.

        Args:
            axes: to set.
            key: whose values they are.
            width: of the figure, in inches.
        """
        if self.log:
            axes.set_xscale("log")
        names = [spelled(key, text) for text in self.places]
        fits = sum(len(name) + 1 for name in names) < (width - 0.6) / CHARACTER
        if fits or self.even:
            axes.set_xticks(list(self.places.values()), names)
            axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        if self.even:
            turn_long(axes, names, width)
            axes.set_xlim(-0.5, len(names) - 0.5)
        else:
            axes.margins(x=0.06)


def _geometric(numbers: Sequence[float]) -> bool:
    """Return whether the ratios of ascending numbers are more even than their gaps."""
    import numpy as np

    if len(numbers) < 2 or numbers[0] <= 0:
        return False
    if len(numbers) == 2:
        return numbers[1] >= 10 * numbers[0]

    def unevenness(steps: Any) -> float:
        return float(np.std(steps) / np.mean(steps))

    return unevenness(np.diff(np.log(numbers))) < unevenness(np.diff(numbers))


def turn_long(axes: Axes, texts: Sequence[str], width: float) -> None:
    """Turn tick labels that would touch one another."""
    if max(map(len, texts)) * len(texts) * CHARACTER > width - 1.2:
        axes.tick_params(axis="x", labelrotation=30)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
