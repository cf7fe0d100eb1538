"""Batched augmentation: torchvision's operations, drawn per image from its key.

An op is `apply(images, **draw(keys, height, width))`. `draw` turns each image's key
into its own parameters, distributed as torchvision's; `apply` is arithmetic on the
batch. Both give an image the same bits whatever the batch it is in and however many
threads run. On the CPU, booleans and per-pixel selections are slow in torch: hence
clamps and signs where one expects `where`. On a GPU nothing here waits for the device.
"""
# ruff: noqa: D102 - Op describes what out_size, draw and apply are

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_ssl import seeding

Params = dict[str, Tensor]
Pair = float | Sequence[float]
Size = int | Sequence[int]

CHUNK = 2**19  # values that, with their temporaries, stay in a cache of the CPU
DENSE = 96  # longest side, in pixels, that is resampled by dense matrices on the CPU
ATTEMPTS = 10  # to draw a box that fits, as torchvision


class Op:
    """What the ops of this module share: an identity without parameters."""

    fixes_size: bool = False  # whether images of any size leave with the same one

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that an image of this size leaves with."""
        return height, width

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw parameters (N, ...) from keys (N,) for images of this size."""
        return {}

    def apply(self, x: Tensor, **params: Tensor) -> Tensor:
        """Transform x (N, C, H, W), float32 in [0, 1], by what `draw` returned."""
        return x

    def __call__(self, x: Tensor, keys: Tensor) -> Tensor:
        """Draw and apply: x (N, C, H, W), keys (N,) int64 on the same device."""
        return self.apply(x, **self.draw(keys, *x.shape[-2:]))


# --- shared arithmetic ----------------------------------------------------------------


def _on_gpu(x: Tensor) -> bool:
    return x.device.type != "cpu"


def _column(values: Tensor, x: Tensor) -> Tensor:
    """View (N,) as (N, 1, ...), to broadcast against x."""
    return values.view(-1, *[1] * (x.dim() - 1))


def _total(x: Tensor) -> Tensor:
    """Sum the last axis in an order that does not depend on the other axes.

    torch's CPU adds up each row alone; a GPU does not, so there by halves.
    """
    if not _on_gpu(x):
        return x.sum(-1)
    while (n := x.shape[-1]) > 1:
        half = x[..., : n // 2] + x[..., n // 2 : n // 2 * 2]
        if n % 2:
            half[..., 0] += x[..., -1]
        x = half
    return x[..., 0]


def _where(on: Tensor, f: Callable[..., Tensor], x: Tensor, *params: Tensor) -> Tensor:
    """Return f(x, *params) for the images that are `on` (N,), and x for the others."""
    if _on_gpu(x):  # to select them would wait for the device
        return torch.where(_column(on, x), f(x, *params), x)
    index = on.nonzero().flatten()
    if len(index) in (0, len(on)):
        return f(x, *params) if len(index) else x
    some = f(*(value.index_select(0, index) for value in (x, *params)))
    return x.index_copy(0, index, some)


def _coin(keys: Tensor, p: float) -> Tensor:
    return seeding.uniform(keys) < p


@lru_cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Keep small float32 tensors on the device: to copy them waits for the host."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def _grey(x: Tensor) -> Tensor:
    """Return the luma (N, H, W) of x (N, 3, H, W), with torchvision's weights."""
    if x.shape[1] == 1:
        return x[:, 0].clone()
    red, green, blue = x.unbind(1)
    return (red * 0.2989).add_(green * 0.587).add_(blue * 0.114)


def _check(ok: bool, found: str, expected: str) -> None:
    if not ok:
        raise ValueError(f"{found}: {expected}")


def _range(
    name: str,
    value: Pair,
    low: float,
    high: float = math.inf,
    centre: float | None = None,
) -> tuple[float, float]:
    """Read a pair, or an amount around a centre, that lies within [low, high]."""
    pair = value
    if not isinstance(value, Sequence) and centre is not None:
        _check(value >= 0, f"{name}={value}", "an amount is not negative; use a pair")
        pair = (max(centre - value, low) if centre else -value, centre + value)
    elif not isinstance(value, Sequence):
        pair = (value, value)
    _check(
        len(pair) == 2 and low <= pair[0] <= pair[1] <= high,
        f"{name}={value}",
        f"use [low, high] with {low:g} <= low <= high <= {high:g}",
    )
    return float(pair[0]), float(pair[1])


def _chance(p: float) -> None:
    _check(0 <= p <= 1, f"p={p}", "a probability is between 0 and 1")


def _numbers(value: Pair) -> tuple[float, ...]:
    values = value if isinstance(value, Sequence) else (value,)
    return tuple(float(v) for v in values)


def _sides(name: str, size: Size) -> tuple[int, int]:
    """Read (height, width), or one number for both; positive."""
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    _check(
        len(sides) == 2 and all(int(s) == s and s > 0 for s in sides),
        f"{name}={size}",
        "expected a positive integer, or two of them",
    )
    return int(sides[0]), int(sides[1])


# --- geometry -------------------------------------------------------------------------


def _linear(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp_(min=0)


def _cubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -1/2; each piece has a double zero where it ends."""
    x = x.abs()
    outer, inner = x.clamp(max=2), x.clamp(max=1)
    return (outer - 2) ** 2 * (1 - outer) / 2 + (inner - 1) ** 2 * (2 * inner - 1)


KERNELS = {"bilinear": _linear, "bicubic": _cubic}


def _resampling(
    start: Tensor, length: Tensor, size: int, out: int, interpolation: str
) -> Tensor:
    """Return matrices (N, out, size) that resize [start, start + length) to `out`."""
    start, length = start.float()[:, None], length.float()[:, None]
    scale = length / out
    centre = start + (torch.arange(out, device=start.device) + 0.5) * scale
    pixel = torch.arange(size, device=start.device) + 0.5
    inside = length / 2 - (pixel - start - length / 2).abs()
    distance = (pixel - centre[..., None]).div_(scale.clamp(min=1)[..., None])
    weight = KERNELS[interpolation](distance).mul_(inside.ge_(0)[:, None])
    return weight.div_(_total(weight)[..., None])


def _separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return rows @ x @ columns^T for each image and channel."""
    n, c, h, w = x.shape
    x = torch.bmm(x.reshape(n, c * h, w), columns.mT).view(n, c, h, columns.shape[1])
    return torch.matmul(rows[:, None], x)


def _interpolate(x: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    return F.interpolate(x, size, mode=interpolation, antialias=True)


def _draw_boxes(
    keys: Tensor,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    margin: int,
) -> tuple[Tensor, Params]:
    """Draw boxes of random area and aspect that fit into the image.

    Args:
        keys: (N,) int64.
        height: of the image, in pixels.
        width: of the image, in pixels.
        scale: range of the box's area over the image's.
        ratio: range of the box's width over its height, uniform in the logarithm.
        margin: 1 for boxes that are smaller than the image and may be empty, else 0.

    Returns:
        Whether an attempt fitted (N,), and the first that did: top, left, box_height,
        box_width (N,) int64.
    """
    u = seeding.uniform(keys, (4, ATTEMPTS))
    area = u[:, 0].mul(scale[1] - scale[0]).add_(scale[0]).mul_(height * width)
    log_low, log_high = (math.log(r) for r in ratio)
    aspect = u[:, 1].mul(log_high - log_low).add_(log_low).exp_()
    w, h = (area * aspect).sqrt_().round_(), (area / aspect).sqrt_().round_()
    fits = (w > -margin) & (w <= width - margin)
    fits &= (h > -margin) & (h <= height - margin)
    top = (u[:, 2] * (height - h + 1)).floor_()
    left = (u[:, 3] * (width - w + 1)).floor_()
    first = fits.byte().argmax(1, keepdim=True)
    boxes = torch.stack((top, left, h, w)).gather(2, first.expand(4, -1, -1))
    names = ("top", "left", "box_height", "box_width")
    return fits.any(1), dict(zip(names, boxes[..., 0].long(), strict=True))


@dataclass(eq=False)
class RandomResizedCrop(Op):
    """Crop a box of random area and aspect, and resize it with antialias.

    Args:
        size: of the output, in pixels; (height, width) or a number for both.
        scale: range of the box's area over the image's.
        ratio: range of the box's width over its height.
        interpolation: `bilinear`, or `bicubic` (clamped to [0, 1]).
    """

    size: Size
    scale: Pair = (0.08, 1.0)
    ratio: Pair = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"
    fixes_size: ClassVar[bool] = True

    def __post_init__(self):
        self.size = _sides("size", self.size)
        self.scale = _range("scale", self.scale, 0, 1)
        self.ratio = _range("ratio", self.ratio, 1e-3)
        _check_interpolation(self.interpolation)

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        return self.size

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw boxes: top, left, box_height, box_width (N,), in pixels."""
        fits, box = _draw_boxes(keys, height, width, self.scale, self.ratio, margin=0)
        h, w = height, width  # the largest central box of an allowed aspect
        if width / height < self.ratio[0]:
            h = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            w = round(height * self.ratio[1])
        central = ((height - h) // 2, (width - w) // 2, h, w)
        return {
            name: torch.where(fits, drawn, fallback)
            for (name, drawn), fallback in zip(box.items(), central, strict=True)
        }

    def apply(
        self,
        x: Tensor,
        top: Tensor,
        left: Tensor,
        box_height: Tensor,
        box_width: Tensor,
    ) -> Tensor:
        (h, w), (out_h, out_w) = x.shape[-2:], self.size
        if _on_gpu(x) or max(h, w, out_h, out_w) <= DENSE:
            rows = _resampling(top, box_height, h, out_h, self.interpolation)
            columns = _resampling(left, box_width, w, out_w, self.interpolation)
            x = _separable(x, rows, columns)
        else:
            boxes = torch.stack((top, left, top + box_height, left + box_width), 1)
            crops = [
                _interpolate(
                    image[None, :, y0:y1, x0:x1], self.size, self.interpolation
                )
                for image, (y0, x0, y1, x1) in zip(x, boxes.tolist(), strict=True)
            ]
            x = torch.cat(crops)
        return x.clamp_(0, 1) if self.interpolation == "bicubic" else x


def _check_interpolation(name: str) -> None:
    _check(name in KERNELS, f"interpolation={name}", f"use one of {', '.join(KERNELS)}")


@dataclass(eq=False)
class Resize(Op):
    """Resize with antialias.

    Args:
        size: of the shorter side, in pixels, keeping the aspect; or (height, width).
        interpolation: `bilinear`, or `bicubic` (clamped to [0, 1]).
    """

    size: Size
    interpolation: str = "bilinear"

    def __post_init__(self):
        self.fixes_size = isinstance(self.size, Sequence)
        sides = _sides("size", self.size)
        self.size = sides if self.fixes_size else sides[0]
        _check_interpolation(self.interpolation)

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        if self.fixes_size:
            return self.size
        short, long = sorted((height, width))
        long = int(self.size * long / short)
        return (self.size, long) if height <= width else (long, self.size)

    def apply(self, x: Tensor) -> Tensor:
        size = self.out_size(*x.shape[-2:])
        x = _interpolate(x, size, self.interpolation)
        return x.clamp_(0, 1) if self.interpolation == "bicubic" else x


@dataclass(eq=False)
class CenterCrop(Op):
    """Cut the central `size` (height, width, or a number for both); pad with zeros."""

    size: Size
    fixes_size: ClassVar[bool] = True

    def __post_init__(self):
        self.size = _sides("size", self.size)

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        return self.size

    def apply(self, x: Tensor) -> Tensor:
        for axis, out in zip((-2, -1), self.size, strict=True):
            missing = max(out - x.shape[axis], 0)
            pad = (missing // 2, missing - missing // 2)
            x = F.pad(x, (*pad, 0, 0) if axis == -1 else (0, 0, *pad))
            x = x.narrow(axis, round((x.shape[axis] - out) / 2), out)
        return x.contiguous()


@dataclass(eq=False)
class HorizontalFlip(Op):
    """Mirror left and right with probability p."""

    p: float = 0.5

    def __post_init__(self):
        _chance(self.p)

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw `on` (N,): whether to flip."""
        return {"on": _coin(keys, self.p)}

    def apply(self, x: Tensor, on: Tensor) -> Tensor:
        return _where(on, lambda x: x.flip(-1), x)


def _warp(x: Tensor, matrix: tuple[tuple[Tensor | float, ...], ...]) -> Tensor:
    """Sample x at matrix @ (column, row) about the centre; bilinear, zeros outside.

    Args:
        x: (N, C, H, W).
        matrix: from output to input, 2 x 2 entries that are numbers or (N,).
    """
    h, w = x.shape[-2:]
    row = torch.arange(h, device=x.device)[:, None] - (h - 1) / 2
    column = torch.arange(w, device=x.device) - (w - 1) / 2
    grid = x.new_empty(len(x), h, w, 2)
    for i, (side, entries) in enumerate(zip((w, h), matrix, strict=True)):
        a, b = (m[:, None, None] if isinstance(m, Tensor) else m for m in entries)
        grid[..., i] = (a * column + b * row) * (2 / side)
    return F.grid_sample(x, grid, align_corners=False)


@dataclass(eq=False)
class Rotation(Op):
    """Rotate about the centre, bilinear, with zeros outside.

    Args:
        degrees: range of the angle, counter-clockwise; a number stands for (-it, it).
    """

    degrees: Pair

    def __post_init__(self):
        self.degrees = _range("degrees", self.degrees, -math.inf, centre=0)

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw `angle` (N,), in degrees."""
        return {"angle": seeding.uniform(keys, (), *self.degrees)}

    def apply(self, x: Tensor, angle: Tensor) -> Tensor:
        radians = angle * (math.pi / 180)
        cos, sin = radians.cos(), radians.sin()
        return _warp(x, ((cos, -sin), (sin, cos)))


@dataclass(eq=False)
class Shear(Rotation):
    """Shear along the rows, bilinear, with zeros outside.

    Args:
        degrees: range of the angle; a number stands for (-it, it).
    """

    def apply(self, x: Tensor, angle: Tensor) -> Tensor:
        return _warp(x, ((1, (angle * (math.pi / 180)).tan()), (0, 1)))


def _filtering(weight: Tensor, size: int) -> Tensor:
    """Return matrices (N, size, size) that filter by weight (N, K), reflected."""
    n, taps = weight.shape
    radius, wide = taps // 2, size + taps - 1
    matrix = weight.new_zeros(n, size, wide)
    diagonals = matrix.as_strided((n, size, taps), (size * wide, wide + 1, 1))
    diagonals.copy_(weight[:, None])
    left, inner, right = matrix.split((radius, size, radius), 2)
    inner[..., 1 : radius + 1] += left.flip(2)
    inner[..., size - 1 - radius : size - 1] += right.flip(2)
    return inner


@dataclass(eq=False)
class GaussianBlur(Op):
    """Blur with a Gaussian of random width, reflected at the borders.

    Args:
        kernel_size: (x, y) or a number for both, in pixels; odd.
        sigma: range of the standard deviation, in pixels.
        p: probability.
    """

    kernel_size: Size
    sigma: Pair = (0.1, 2.0)
    p: float = 1.0

    def __post_init__(self):
        self.kernel_size = _sides("kernel_size", self.kernel_size)
        odd = all(k % 2 for k in self.kernel_size)
        _check(odd, f"kernel_size={self.kernel_size}", "use odd numbers")
        self.sigma = _range("sigma", self.sigma, 1e-3)
        _chance(self.p)

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw `on` (N,) and `sigma` (N,), in pixels."""
        coin, sigma = seeding.uniform(keys, (2,)).unbind(1)
        low, high = self.sigma
        return {"on": coin < self.p, "sigma": sigma * (high - low) + low}

    def apply(self, x: Tensor, on: Tensor, sigma: Tensor) -> Tensor:
        for side, kernel in zip(x.shape[:1:-1], self.kernel_size, strict=True):
            _check(
                kernel // 2 < side,
                f"kernel_size={kernel} on images of {side} pixels",
                f"use at most {2 * side - 1}",
            )
        return _where(on, self._blur, x, sigma)

    def _blur(self, x: Tensor, sigma: Tensor) -> Tensor:
        columns, rows = (
            _filtering(self._weights(taps, sigma), side)
            for taps, side in zip(self.kernel_size, x.shape[:1:-1], strict=True)
        )
        return _separable(x, rows, columns)

    def _weights(self, taps: int, sigma: Tensor) -> Tensor:
        distance = torch.arange(taps, device=sigma.device) - taps // 2
        exponent = (distance / sigma[:, None]).square_().mul_(-0.5)
        weight = exponent.clamp_(min=-50).exp_()  # denormal numbers cost ten times more
        return weight / _total(weight)[:, None]


# --- colour ---------------------------------------------------------------------------

BRIGHTNESS, CONTRAST, SATURATION, HUE = COLOURS = range(4)  # torchvision's numbers


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
    angle = torch.copysign(angle, green - blue).add_(_column(turn * 6, low))
    angle.sub_((angle / 6).round_().mul_(6))  # back to [-3, 3]
    base, out = low.sub_(chroma), torch.empty_like(x)
    for primary, channel in zip((0, 2, -2), out.unbind(1), strict=True):
        torch.sub(angle, primary, out=channel)
        channel.abs_().sub_(3).abs_().clamp_(1, 2).mul_(chroma).add_(base)
    return out


class _Colour(Op):
    """The four colour ops, in an order drawn for each image."""

    p: float
    ranges: dict[int, tuple[float, float]]  # of each op in use

    def _read(self, amounts: Mapping[str, Pair]) -> None:
        _chance(self.p)
        self.ranges = {}
        for colour, (name, amount) in zip(COLOURS, amounts.items(), strict=False):
            bounds = (-0.5, 0.5, 0) if name == "hue" else (0, math.inf, 1)
            low_high = _range(name, amount, *bounds)
            if low_high != (bounds[2], bounds[2]):
                self.ranges[colour] = low_high

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw `on` (N,), `order` and `factor` (N, ops).

        `order` names the op in each place, by torchvision's numbers (brightness 0,
        contrast 1, saturation 2, hue 3); `factor` is that op's.
        """
        k = len(self.ranges)
        u = seeding.uniform(keys, (1 + 2 * k,))
        coin, place, factor = u[:, 0], u[:, 1 : 1 + k], u[:, 1 + k :]
        low = tuple(low for low, _ in self.ranges.values())
        span = tuple(high - low for low, high in self.ranges.values())
        factor = factor * _constant(span, u.device) + _constant(low, u.device)
        order = _constant(tuple(self.ranges), u.device).long().expand_as(factor)
        if k > 1:
            place = place.argsort(stable=True)
            order, factor = order.gather(1, place), factor.gather(1, place)
        return {"on": coin < self.p, "order": order, "factor": factor}

    def apply(self, x: Tensor, on: Tensor, order: Tensor, factor: Tensor) -> Tensor:
        _check(x.shape[1] in (1, 3), f"{x.shape[1]} channels", "colour has 1 or 3")
        return _where(on, self._jitter, x, order, factor) if self.ranges else x

    def _jitter(self, x: Tensor, order: Tensor, factor: Tensor) -> Tensor:
        """Blend in the places before hue, turn the hue, blend in those after it.

        With images sorted by hue's place, those that blend in a place are a slice. To
        know which would make a GPU wait: there all do, by a factor of 1 out of turn.
        """
        n, places = order.shape
        gpu, colours = _on_gpu(x), x.shape[1] == 3
        if not colours:
            factor = torch.where(order < SATURATION, factor, 1)
        if not colours or HUE not in self.ranges:
            x = x.clone()
            for i in range(places):
                self._blend(x, order[:, i], factor[:, i])
            return x
        hue = order == HUE
        place, turn = hue.byte().argmax(1), (factor * hue).sum(1)
        rank = torch.arange(n, device=x.device) if gpu else place.argsort(stable=True)
        ends = None if gpu else place.bincount(minlength=places).cumsum(0).tolist()
        x, order, factor, turn, place = (
            v.index_select(0, rank) for v in (x, order, factor, turn, place)
        )
        for i in range(places - 1):
            s = slice(0 if gpu else ends[i], n)
            f = torch.where(place > i, factor[:, i], 1)
            self._blend(x[s], order[s, i], f[s])
        x = _turn_hue(x, turn)
        for i in range(1, places):
            s = slice(n if gpu else ends[i - 1])
            f = torch.where(place < i, factor[:, i], 1)
            self._blend(x[s], order[s, i], f[s])
        return x if gpu else torch.empty_like(x).index_copy_(0, rank, x)

    def _blend(self, x: Tensor, colour: Tensor, factor: Tensor) -> None:
        """Blend x, in place, with black, its mean grey or its grey; colour (N,)."""
        if not len(x):
            return
        scale = _column(factor, x[:, 0])
        if not {CONTRAST, SATURATION} & set(self.ranges):
            x.mul_(scale[:, None]).clamp_(0, 1)
            return
        grey, rest = _grey(x), 1 - factor
        mean = _total(_total(grey)) / grey[0].numel()
        grey.mul_(_column(rest * (colour == SATURATION), grey))
        grey.add_(_column(rest * (colour == CONTRAST) * mean, grey))
        for channel in x.unbind(1):
            channel.mul_(scale).add_(grey).clamp_(0, 1)


@dataclass(eq=False)
class ColorJitter(_Colour):
    """Jitter brightness, contrast, saturation and hue, in a random order.

    Args:
        brightness, contrast, saturation: range of the factor; a number a stands for
            [max(0, 1 - a), 1 + a], and 0 for leaving it alone.
        hue: range of the turn as a fraction of the circle, within [-.5, .5]; a number
            a stands for [-a, a].
        p: probability of jittering an image at all.
    """

    brightness: Pair = 0.0
    contrast: Pair = 0.0
    saturation: Pair = 0.0
    hue: Pair = 0.0
    p: float = 1.0

    def __post_init__(self):
        names = ("brightness", "contrast", "saturation", "hue")
        self._read({name: getattr(self, name) for name in names})


@dataclass(eq=False)
class _Single(_Colour):
    amount: Pair
    p: float = 1.0

    def __post_init__(self):
        names = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
        self._read({**names, type(self).__name__.lower(): self.amount})


class Brightness(_Single):
    """Scale the image by a factor; `amount` and `p` as in ColorJitter."""


class Contrast(_Single):
    """Blend with the mean grey; `amount` and `p` as in ColorJitter."""


class Saturation(_Single):
    """Blend with the greyscale image; `amount` and `p` as in ColorJitter."""


class Hue(_Single):
    """Turn the hue; `amount` and `p` as in ColorJitter."""


@dataclass(eq=False)
class Grayscale(Op):
    """Replace the channels by their luma with probability p."""

    p: float = 0.1

    def __post_init__(self):
        _chance(self.p)

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw `on` (N,): whether to drop the colours."""
        return {"on": _coin(keys, self.p)}

    def apply(self, x: Tensor, on: Tensor) -> Tensor:
        return _where(on, lambda x: _grey(x)[:, None].repeat(1, x.shape[1], 1, 1), x)


@dataclass(eq=False)
class Solarize(Op):
    """Invert the pixels at or above a threshold with probability p.

    Args:
        threshold: within [0, 1].
        p: probability.
    """

    threshold: float = 0.5
    p: float = 0.5

    def __post_init__(self):
        _range("threshold", self.threshold, 0, 1)
        _chance(self.p)

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw `on` (N,): whether to solarize."""
        return {"on": _coin(keys, self.p)}

    def apply(self, x: Tensor, on: Tensor) -> Tensor:
        return _where(on, self._solarize, x)

    def _solarize(self, x: Tensor) -> Tensor:
        above = x.clone().ge_(self.threshold)  # 0 or 1, as a float
        return (1 - 2 * above).mul_(x).add_(above)


@dataclass(eq=False)
class Normalize(Op):
    """Subtract the mean and divide by the standard deviation, one a channel."""

    mean: Pair
    std: Pair

    def __post_init__(self):
        self.mean, self.std = _numbers(self.mean), _numbers(self.std)
        _check(
            len(self.mean) == len(self.std) and min(self.std, default=0) > 0,
            f"mean={self.mean}, std={self.std}",
            "expected one mean and one positive std a channel",
        )

    def apply(self, x: Tensor) -> Tensor:
        _check(
            len(self.mean) in (1, x.shape[1]),
            f"normalize has {len(self.mean)} means, the images {x.shape[1]} channels",
            "give one a channel",
        )
        mean, std = _constant(self.mean, x.device), _constant(self.std, x.device)
        return (x - mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))


# --- noise ----------------------------------------------------------------------------


@dataclass(eq=False)
class Noise(Op):
    """Add Gaussian noise.

    Args:
        std: of the noise, where images are within [0, 1].
        clamp: whether to clamp the result to [0, 1].
    """

    std: float
    clamp: bool = True

    def __post_init__(self):
        _range("std", self.std, 0)

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Return the keys: the noise itself is drawn when it is added."""
        return {"keys": keys}

    def apply(self, x: Tensor, keys: Tensor) -> Tensor:
        x = seeding.normal(keys, tuple(x.shape[1:])).mul_(self.std).add_(x)
        return x.clamp_(0, 1) if self.clamp else x


@dataclass(eq=False)
class Erasing(Op):
    """Erase a random box (Zhong et al. 2017, https://arxiv.org/abs/1708.04896).

    Args:
        p: probability.
        scale: range of the box's area over the image's.
        ratio: range of the box's height over its width.
        value: a number, one a channel, or `random` for standard normal noise.
    """

    p: float = 0.5
    scale: Pair = (0.02, 0.33)
    ratio: Pair = (0.3, 3.3)
    value: Pair | str = 0.0

    def __post_init__(self):
        _chance(self.p)
        self.scale = _range("scale", self.scale, 0, 1)
        self.ratio = _range("ratio", self.ratio, 1e-3)
        if isinstance(self.value, str):
            ok = self.value == "random"
            _check(ok, f"value={self.value}", "use a number, one a channel, or random")
        else:
            self.value = _numbers(self.value)

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw `on`, top, left, box_height, box_width and the filling's keys, all (N,).

        An image for which no attempt fits is left alone, as in torchvision.
        """
        ratio = (1 / self.ratio[1], 1 / self.ratio[0])  # of width over height
        drawn = seeding.fold_in(keys, 1)
        fits, box = _draw_boxes(drawn, height, width, self.scale, ratio, margin=1)
        on = _coin(keys, self.p) & fits
        return {"on": on, **box, "keys": seeding.fold_in(keys, 2)}

    def apply(
        self,
        x: Tensor,
        on: Tensor,
        top: Tensor,
        left: Tensor,
        box_height: Tensor,
        box_width: Tensor,
        keys: Tensor,
    ) -> Tensor:
        return _where(on, self._erase, x, top, left, box_height, box_width, keys)

    def _erase(self, x, top, left, box_height, box_width, keys):
        inside = [
            (at >= start[:, None]) & (at < (start + length)[:, None])
            for side, start, length in zip(
                x.shape[2:], (top, left), (box_height, box_width), strict=True
            )
            for at in [torch.arange(side, device=x.device)]
        ]
        mask = (inside[0][:, :, None] & inside[1][:, None]).float()[:, None]
        if self.value == "random":
            value = seeding.normal(keys, tuple(x.shape[1:]))
        else:
            value = _constant(self.value, x.device).view(-1, 1, 1)
        return x * (1 - mask) + value * mask


# --- views ----------------------------------------------------------------------------

OPS: dict[str, type[Op]] = {
    "random_resized_crop": RandomResizedCrop,
    "resize": Resize,
    "center_crop": CenterCrop,
    "horizontal_flip": HorizontalFlip,
    "rotation": Rotation,
    "shear": Shear,
    "brightness": Brightness,
    "contrast": Contrast,
    "saturation": Saturation,
    "hue": Hue,
    "color_jitter": ColorJitter,
    "grayscale": Grayscale,
    "gaussian_blur": GaussianBlur,
    "solarize": Solarize,
    "noise": Noise,
    "erasing": Erasing,
    "normalize": Normalize,
}


def build_ops(specs: Sequence[Mapping[str, Any] | None]) -> list[Op]:
    """Build ops from mappings {name, any of the op's arguments}; None is skipped.

    Raises:
        ValueError: an unknown name (with the nearest), argument, or value.
    """
    return [_build(spec) for spec in specs if spec is not None]


def _build(spec: Mapping[str, Any]) -> Op:
    _check(
        isinstance(spec, Mapping) and "name" in spec,
        f"augmentation {spec!r}",
        "expected a mapping with a name; e.g. {name: horizontal_flip, p: 0.5}",
    )
    name, arguments = spec["name"], {k: v for k, v in spec.items() if k != "name"}
    if name not in OPS:
        near = difflib.get_close_matches(str(name), OPS, 1, 0)
        near = f"did you mean {near[0]!r}? Known: {', '.join(OPS)}"
        raise ValueError(f"no augmentation {name!r}; {near}")
    known = [field.name for field in fields(OPS[name])]
    takes = f"it takes {', '.join(known)}"
    for argument in arguments:
        _check(argument in known, f"{name} takes no {argument!r}", takes)
    try:
        return OPS[name](**arguments)
    except TypeError as error:  # an argument is missing, or is no number
        raise ValueError(f"{name}: {error}; {takes}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


class View:
    """Make one view of a batch: the ops in turn, op i drawn from `fold_in(keys, i)`.

    Args:
        ops: of the view.
        first: number of the first of them, for the second part of a view in two parts.
    """

    def __init__(self, ops: Sequence[Op], first: int = 0):
        self.ops, self.first = list(ops), first

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Return the view (N, C, H', W') float32.

        Args:
            images: (N, C, H, W), uint8, or float in [0, 1]; left as they are.
            keys: (N,) int64, on the same device.
        """
        n, size, params = len(images), tuple(images.shape[-2:]), []
        for i, op in enumerate(self.ops):
            params.append(op.draw(seeding.fold_in(keys, self.first + i), *size))
            size = op.out_size(*size)
        if _on_gpu(images) or n == 0:
            return self._apply(images, params)
        step = max(1, CHUNK // images[0].numel())
        if n <= step:
            return self._apply(images, params)
        view = images.new_empty(n, images.shape[1], *size, dtype=torch.float32)
        for start in range(0, n, step):
            part = slice(start, start + step)
            some = [{name: p[part] for name, p in drawn.items()} for drawn in params]
            view[part] = self._apply(images[part], some)
        return view

    def _apply(self, x: Tensor, params: Sequence[Params]) -> Tensor:
        scaled = x.dtype == torch.uint8
        x = x.to(torch.float32, memory_format=torch.contiguous_format)
        x = x.div_(255) if scaled else x
        for op, drawn in zip(self.ops, params, strict=True):
            x = op.apply(x, **drawn)
        return x
