"""Colour: brightness, contrast, saturation, hue, grey, solarize, normalize."""
# ruff: noqa: D102 - Op describes what out_size, draw and apply are

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.data.augment.op import (
    Op,
    Pair,
    Params,
    Sometimes,
    check,
    check_a_channel,
    check_colours,
    check_range,
    column,
    constant,
    grey_of,
    numbers,
    total,
)

HAS_TRITON = find_spec("triton") is not None
NAMES = ("brightness", "contrast", "saturation", "hue")
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # torchvision's numbers


def _turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of x (N, 3, H, W) by `turn` (N,), a fraction of the circle.

    On the hexagon of hues, with red at 0, green at 2 and blue at -2, a colour with
    chroma c and minimum m has the angle 1 + (g + b - r - m) / c from red, and a channel
    at distance d from the hue is m + c clamp(2 - d, 0, 1), where 3 - d = ||a| - 3| for
    any difference a of two angles in [-3, 3].
    """
    red, green, blue = x.unbind(1)
    low, high = torch.minimum(green, blue), torch.maximum(green, blue)
    angle = (low + high).sub_(red)
    low, high = torch.minimum(low, red), torch.maximum(high, red)
    chroma = high.sub_(low)
    angle.sub_(low).div_(chroma.clamp(min=1e-12)).add_(1)
    angle = torch.copysign(angle, green - blue).add_(column(turn * 6, low))
    angle.sub_((angle / 6).round_().mul_(6))  # back to [-3, 3]
    base, out = low.sub_(chroma), torch.empty_like(x)
    for primary, channel in zip((0, 2, -2), out.unbind(1), strict=True):
        torch.sub(angle, primary, out=channel)
        channel.abs_().sub_(3).abs_().clamp_(1, 2).mul_(chroma).add_(base)
    return out


class _Colour(Sometimes):
    """The four colour ops, in an order drawn for each image."""

    def __post_init__(self):
        super().__post_init__()
        self.ranges: dict[int, tuple[float, float]] = {}  # of each op in use
        for number, name in enumerate(NAMES):
            low, high, neutral = (-0.5, 0.5, 0) if number == HUE else (0, math.inf, 1)
            factors = check_range(name, self.amount_of(name), low, high, neutral)
            if factors != (neutral, neutral):
                self.ranges[number] = factors

    def amount_of(self, name: str) -> Pair:
        """Return how much to change, by one of `NAMES`; 0 leaves it alone."""
        return getattr(self, name)

    def check_images(self, channels: int, height: int, width: int) -> None:
        check_colours("a colour op", channels)

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw `on` (N,), `order` and `factor` (N, ops).

        `order` lists the ops as they run, by torchvision's numbers (brightness 0,
        contrast 1, saturation 2, hue 3); `factor` is theirs, in that order.
        """
        k = len(self.ranges)
        u = seeding.uniform(keys, (1 + 2 * k,))
        chance, shuffle, factor = u[:, 0], u[:, 1 : 1 + k], u[:, 1 + k :]
        low = tuple(low for low, _ in self.ranges.values())
        span = tuple(high - low for low, high in self.ranges.values())
        factor = factor * constant(span, u.device) + constant(low, u.device)
        order = constant(tuple(self.ranges), u.device).long().expand_as(factor)
        if k > 1:
            shuffle = shuffle.argsort(stable=True)
            order, factor = order.gather(1, shuffle), factor.gather(1, shuffle)
        return {"on": chance < self.p, "order": order, "factor": factor}

    def apply(self, x: Tensor, on: Tensor, order: Tensor, factor: Tensor) -> Tensor:
        if not self.ranges:
            return x
        if x.is_cuda and x.shape[1] == 3 and HAS_TRITON:
            from stable_ssl.data.augment.triton_colour import jitter

            return jitter(x.contiguous(), on, order, factor)
        return super().apply(x, on, order=order, factor=factor)

    def change(self, x: Tensor, order: Tensor, factor: Tensor) -> Tensor:
        """Run the ops before hue, turn the hue, and run the ops after it.

        Images are sorted by the position of hue in their order: then those whose i-th
        op blends are a slice, which needs no copy.
        """
        n, ops = order.shape
        colours = x.shape[1] == 3
        if not colours:
            factor = torch.where(order < SATURATION, factor, 1)
        if not colours or HUE not in self.ranges:
            x = x.clone()
            for i in range(ops):
                self._blend(x, order[:, i], factor[:, i])
            return x
        hue = order == HUE
        position, turn = hue.byte().argmax(1), (factor * hue).sum(1)
        by_hue = position.argsort(stable=True)
        ends = position.bincount(minlength=ops).cumsum(0).tolist()
        x, order, factor, turn, position = (
            v.index_select(0, by_hue) for v in (x, order, factor, turn, position)
        )
        for i in range(ops - 1):
            s = slice(ends[i], n)
            self._blend(x[s], order[s, i], factor[s, i])
        x = _turn_hue(x, turn)
        for i in range(1, ops):
            s = slice(ends[i - 1])
            self._blend(x[s], order[s, i], factor[s, i])
        return torch.empty_like(x).index_copy_(0, by_hue, x)

    def _blend(self, x: Tensor, op: Tensor, factor: Tensor) -> None:
        """Blend x in place with black, its mean grey or its grey, by the op (N,)."""
        if not len(x):
            return
        scale = column(factor, x[:, 0])
        if not {CONTRAST, SATURATION} & set(self.ranges):
            x.mul_(scale[:, None]).clamp_(0, 1)
            return
        grey, rest = grey_of(x), 1 - factor
        mean = total(total(grey)) / grey[0].numel()
        grey.mul_(column(rest * (op == SATURATION), grey))
        grey.add_(column(rest * (op == CONTRAST) * mean, grey))
        for channel in x.unbind(1):
            channel.mul_(scale).add_(grey).clamp_(0, 1)


@dataclass(eq=False)
class ColorJitter(_Colour):
    """Jitter brightness, contrast, saturation and hue, in a random order."""

    # range of a factor; a number a stands for [max(0, 1 - a), 1 + a], 0 for none
    brightness: Pair = 0.0
    contrast: Pair = 0.0
    saturation: Pair = 0.0
    # range of the turn, within [-.5, .5] of the circle; a number a stands for [-a, a]
    hue: Pair = 0.0
    p: float = 1.0  # probability of jittering an image at all


@dataclass(eq=False)
class _Single(_Colour):
    amount: Pair
    p: float = 1.0

    def amount_of(self, name: str) -> Pair:
        return self.amount if name == type(self).__name__.lower() else 0.0


class Brightness(_Single):
    """Scale the image by a factor; `amount` and `p` as in ColorJitter."""


class Contrast(_Single):
    """Blend with the mean grey; `amount` and `p` as in ColorJitter."""


class Saturation(_Single):
    """Blend with the greyscale image; `amount` and `p` as in ColorJitter."""


class Hue(_Single):
    """Turn the hue; `amount` and `p` as in ColorJitter."""


@dataclass(eq=False)
class Grayscale(Sometimes):
    """Replace the channels by their luma with probability p."""

    p: float = 0.1

    def check_images(self, channels: int, height: int, width: int) -> None:
        check_colours("grayscale", channels)

    def change(self, x: Tensor) -> Tensor:
        return grey_of(x)[:, None].repeat(1, x.shape[1], 1, 1)


@dataclass(eq=False)
class Solarize(Sometimes):
    """Invert the pixels at or above a threshold with probability p."""

    threshold: float = 0.5  # within [0, 1]
    p: float = 0.5

    def __post_init__(self):
        check_range("threshold", self.threshold, 0, 1)
        super().__post_init__()

    def change(self, x: Tensor) -> Tensor:
        above = x.clone().ge_(self.threshold)  # 0 or 1, as a float
        return (1 - 2 * above).mul_(x).add_(above)


@dataclass(eq=False)
class Normalize(Op):
    """Subtract the mean and divide by the standard deviation, one a channel."""

    mean: Pair
    std: Pair

    def __post_init__(self):
        self.mean, self.std = numbers(self.mean), numbers(self.std)
        check(
            len(self.mean) == len(self.std) and min(self.std, default=0) > 0,
            f"mean={self.mean}, std={self.std}",
            "expected one mean and one positive std a channel",
        )

    def check_images(self, channels: int, height: int, width: int) -> None:
        check_a_channel("normalize.mean", self.mean, channels)

    def apply(self, x: Tensor) -> Tensor:
        mean, std = constant(self.mean, x.device), constant(self.std, x.device)
        return (x - mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))
