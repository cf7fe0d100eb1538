"""Colour: brightness, contrast, saturation, hue, grey, solarize, normalize."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product

import torch
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.augment import arguments as arg
from stable_ssl.augment.op import Op, Params, Sometimes, constant, on_gpu, total
from stable_ssl.augment.registry import OPS, register_op

HAS_TRITON = find_spec("triton") is not None
NAMES = ("brightness", "contrast", "saturation", "hue")  # by torchvision's numbers
NEUTRAL = ((1, 1), (1, 1), (1, 1), (0, 0))  # ranges that change nothing


def _grey_of(x: Tensor) -> Tensor:
    """Return the luma (N, 1, H, W) of x (N, 3, H, W), with torchvision's weights."""
    if x.shape[1] == 1:
        return x.clone()
    red, green, blue = x.split(1, 1)
    return (red * 0.2989).add_(green * 0.587).add_(blue * 0.114)


# Each of the four changes x (N, C, H, W) in place by a factor (N, 1, 1, 1).


def _brighten(x: Tensor, factor: Tensor) -> None:
    x.mul_(factor).clamp_(0, 1)


def _contrast(x: Tensor, factor: Tensor) -> None:
    grey = _grey_of(x)
    mean = total(total(grey)) / grey[0].numel()
    x.mul_(factor).add_((1 - factor) * mean[..., None, None]).clamp_(0, 1)


def _saturate(x: Tensor, factor: Tensor) -> None:
    if x.shape[1] == 3:
        grey = _grey_of(x).mul_(1 - factor)
        x.mul_(factor).add_(grey).clamp_(0, 1)


def _turn_hue(x: Tensor, factor: Tensor) -> None:
    """Turn by a fraction of the circle.

    On the hexagon of hues, with red at 0, green at 2 and blue at -2, a colour with
    chroma c and minimum m has the angle 1 + (g + b - r - m) / c from red, and a channel
    at distance d from the hue is m + c clamp(2 - d, 0, 1), where 3 - d = ||a| - 3| for
    any difference a of two angles in [-3, 3].
    """
    if x.shape[1] == 1:
        return
    red, green, blue = x.split(1, 1)
    low, high = torch.minimum(green, blue), torch.maximum(green, blue)
    angle = (low + high).sub_(red)
    low, high = torch.minimum(low, red), torch.maximum(high, red)
    chroma = high.sub_(low)
    angle.sub_(low).div_(chroma.clamp(min=1e-12)).add_(1)
    angle.copysign_(green - blue).add_(factor * 6)
    angle.sub_((angle / 6).round_().mul_(6))  # back to [-3, 3]
    torch.sub(angle, constant((0, 2, -2), x.device).view(-1, 1, 1), out=x)
    x.abs_().sub_(3).abs_().clamp_(1, 2).mul_(chroma).add_(low.sub_(chroma))


CHANGES = (_brighten, _contrast, _saturate, _turn_hue)


class ColourOp(Sometimes):
    """An op for grey images and for those of red, green and blue."""

    def check_images(self, channels: int, height: int, width: int) -> None:
        op, expected = type(self).__name__, "it is for grey or red, green and blue"
        found = f"image_transform: {op} found images of {channels} channels"
        arg.check(channels in (1, 3), found, f"{expected}; leave it out")


@register_op("color_jitter")
@dataclass(eq=False)
class ColorJitter(ColourOp):
    """Jitter brightness, contrast, saturation and hue, in a random order.

    The first three blend the image with black, with its mean grey, or with its grey, by
    a factor within the range; a number a stands for [max(0, 1 - a), 1 + a]. Hue is
    turned by a fraction of the circle; a stands for [-a, a]. 0 leaves out any of them.
    """

    brightness: arg.Pair = arg.interval(0.0, low=0, centre=1)
    contrast: arg.Pair = arg.interval(0.0, low=0, centre=1)
    saturation: arg.Pair = arg.interval(0.0, low=0, centre=1)
    hue: arg.Pair = arg.interval(0.0, low=-0.5, high=0.5, centre=0)
    p: float = arg.probability(1.0)  # of jittering an image at all

    def __post_init__(self) -> None:
        super().__post_init__()
        ranges = {op: getattr(self, name) for op, name in enumerate(NAMES)}
        self.ranges = {op: r for op, r in ranges.items() if r != NEUTRAL[op]}  # in use
        self.needs_range = bool(self.ranges)

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
        shuffle = shuffle.argsort(stable=True)
        order, factor = order.gather(1, shuffle), factor.gather(1, shuffle)
        return {"on": chance < self.p, "order": order, "factor": factor}

    def apply(self, x: Tensor, on: Tensor, order: Tensor, factor: Tensor) -> Tensor:
        if not self.ranges:
            return x
        if x.is_cuda and x.shape[1] == 3 and HAS_TRITON:
            from stable_ssl.augment.triton_colour import jitter

            return jitter(x.contiguous(), on, order, factor)
        if on_gpu(x):  # to sort images would wait for the device
            for i, op in product(range(len(self.ranges)), self.ranges):
                changed = x.clone()
                CHANGES[op](changed, factor[:, i].view(-1, 1, 1, 1))
                now = on & (order[:, i] == op)
                x = torch.where(now.view(-1, 1, 1, 1), changed, x)
            return x
        # images of one order of ops are neighbours, and change together
        index = on.nonzero().flatten()
        if not len(index):
            return x
        of_order = order[index] @ 4 ** torch.arange(order.shape[1], device=x.device)
        index = index[of_order.argsort(stable=True)]
        jittered, order, factor = (v.index_select(0, index) for v in (x, order, factor))
        _, counts = order.unique_consecutive(dim=0, return_counts=True)
        parts = (v.split(counts.tolist()) for v in (jittered, order, factor))
        for images, ops, factors in zip(*parts, strict=True):
            for i, op in enumerate(ops[0].tolist()):
                CHANGES[op](images, factors[:, i].view(-1, 1, 1, 1))
        if len(counts) == 1 and len(index) == len(x):
            return jittered
        return x.index_copy(0, index, jittered)


def _alone(name: str) -> Callable[..., ColorJitter]:
    """Return what builds the jitter of one of `NAMES` alone."""

    def build(amount: arg.Pair, p: float = 1.0) -> ColorJitter:
        return ColorJitter(**{name: amount}, p=p)

    build.__qualname__ = name  # for messages
    return build


OPS.update({name: _alone(name) for name in NAMES})


@register_op("grayscale")
@dataclass(eq=False)
class Grayscale(ColourOp):
    """Replace the channels by their luma with probability p."""

    p: float = arg.probability(0.1)

    def change(self, x: Tensor) -> Tensor:
        return _grey_of(x).repeat(1, x.shape[1], 1, 1)


@register_op("solarize")
@dataclass(eq=False)
class Solarize(Sometimes):
    """Invert the pixels at or above a threshold with probability p."""

    threshold: float = arg.number(0.5, high=1)
    p: float = arg.probability(0.5)
    needs_range = True

    def change(self, x: Tensor) -> Tensor:
        above = x.clone().ge_(self.threshold)  # 0 or 1, as a float
        return (1 - 2 * above).mul_(x).add_(above)


@register_op("normalize")
@dataclass(eq=False)
class Normalize(Op):
    """Subtract the mean and divide by the standard deviation, one a channel."""

    mean: arg.Pair = arg.numbers()
    std: arg.Pair = arg.numbers()

    def __post_init__(self) -> None:
        super().__post_init__()
        arg.check(
            len(self.mean) == len(self.std) and min(self.std, default=0) > 0,
            f"mean={self.mean}, std={self.std}",
            "expected one mean and one positive std a channel",
        )
        pairs = list(zip(self.mean, self.std, strict=True))
        self.leaves_range = any(mean > 0 or 1 - mean > std for mean, std in pairs)

    def check_images(self, channels: int, height: int, width: int) -> None:
        arg.check_channels("normalize.mean", self.mean, channels)

    def apply(self, x: Tensor) -> Tensor:
        mean, std = constant(self.mean, x.device), constant(self.std, x.device)
        return (x - mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))
