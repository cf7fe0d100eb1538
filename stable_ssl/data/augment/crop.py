"""Crops and resizes, with antialias."""
# ruff: noqa: D102 - Op describes what out_size, draw and apply are

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.data.augment.op import (
    Op,
    Pair,
    Params,
    Size,
    check,
    check_range,
    check_sides,
    on_gpu,
    separable,
    total,
)

DENSE = 96  # longest side, in pixels, that is resampled by dense matrices on the CPU
ATTEMPTS = 10  # to draw a box that fits, as torchvision


def as_float(x: Tensor) -> Tensor:
    """Return uint8 as float32 in [0, 1], and floats as contiguous float32."""
    scaled = x.dtype == torch.uint8
    x = x.to(torch.float32, memory_format=torch.contiguous_format)
    return x.div_(255) if scaled else x


def _linear(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp_(min=0)


def _cubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -1/2; each piece has a double zero where it ends."""
    x = x.abs()
    outer, inner = x.clamp(max=2), x.clamp(max=1)
    return (outer - 2) ** 2 * (1 - outer) / 2 + (inner - 1) ** 2 * (2 * inner - 1)


KERNELS = {"bilinear": _linear, "bicubic": _cubic}


def resampling(
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
    return weight.div_(total(weight)[..., None])


def _interpolate(x: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    return F.interpolate(x, size, mode=interpolation, antialias=True)


def draw_boxes(
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

    Takes uint8 too: of a large photograph, only the box is made float.
    """

    size: Size  # of the output, in pixels; (height, width) or a number for both
    scale: Pair = (0.08, 1.0)  # range of the box's area over the image's
    ratio: Pair = (3 / 4, 4 / 3)  # range of the box's width over its height
    interpolation: str = "bilinear"  # or bicubic, clamped to [0, 1]
    fixes_size: ClassVar[bool] = True
    moves_pixels: ClassVar[bool] = True

    def __post_init__(self):
        self.size = check_sides("size", self.size)
        self.scale = check_range("scale", self.scale, 0, 1)
        self.ratio = check_range("ratio", self.ratio, 1e-3)
        _check_interpolation(self.interpolation)

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw boxes: top, left, box_height, box_width (N,), in pixels."""
        fits, box = draw_boxes(keys, height, width, self.scale, self.ratio, margin=0)
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
        if on_gpu(x) or max(h, w, out_h, out_w) <= DENSE:
            rows = resampling(top, box_height, h, out_h, self.interpolation)
            columns = resampling(left, box_width, w, out_w, self.interpolation)
            x = separable(as_float(x), rows, columns)
        else:
            boxes = torch.stack((top, left, top + box_height, left + box_width), 1)
            options = self.size, self.interpolation
            crops = [
                _interpolate(as_float(image[None, :, y0:y1, x0:x1]), *options)
                for image, (y0, x0, y1, x1) in zip(x, boxes.tolist(), strict=True)
            ]
            x = torch.cat(crops)
        return x.clamp_(0, 1) if self.interpolation == "bicubic" else x


def _check_interpolation(name: str) -> None:
    check(name in KERNELS, f"interpolation={name}", f"use one of {', '.join(KERNELS)}")


@dataclass(eq=False)
class Resize(Op):
    """Resize with antialias."""

    size: Size  # of the shorter side, in pixels, keeping the aspect; or (height, width)
    interpolation: str = "bilinear"  # or bicubic, clamped to [0, 1]
    moves_pixels: ClassVar[bool] = True

    def __post_init__(self):
        self.fixes_size = isinstance(self.size, Sequence)
        sides = check_sides("size", self.size)
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
    moves_pixels: ClassVar[bool] = True

    def __post_init__(self):
        self.size = check_sides("size", self.size)

    def apply(self, x: Tensor) -> Tensor:
        for axis, out in zip((-2, -1), self.size, strict=True):
            missing = max(out - x.shape[axis], 0)
            pad = (missing // 2, missing - missing // 2)
            x = F.pad(x, (*pad, 0, 0) if axis == -1 else (0, 0, *pad))
            x = x.narrow(axis, round((x.shape[axis] - out) / 2), out)
        return x.contiguous()
