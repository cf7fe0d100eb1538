"""Flip, rotation and shear."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.augment import arguments as arg
from stable_ssl.augment.op import Op, Params, Sometimes
from stable_ssl.augment.registry import register_op


@register_op("horizontal_flip")
@dataclass(eq=False)
class HorizontalFlip(Sometimes):
    """Mirror left and right with probability p."""

    p: float = arg.probability(0.5)
    moves_pixels = True

    def change(self, x: Tensor) -> Tensor:
        return x.flip(-1)


def _warp(x: Tensor, matrix: tuple[tuple[Tensor | float, ...], ...]) -> Tensor:
    """Sample x (N, C, H, W) at matrix @ (column, row) about the centre.

    The matrix, from output to input, has 2 x 2 entries that are numbers or (N,).
    Sampling is bilinear, with zeros outside.
    """
    h, w = x.shape[-2:]
    row = torch.arange(h, device=x.device)[:, None] - (h - 1) / 2
    column = torch.arange(w, device=x.device) - (w - 1) / 2
    grid = x.new_empty(len(x), h, w, 2)
    for i, (side, entries) in enumerate(zip((w, h), matrix, strict=True)):
        a, b = (m[:, None, None] if isinstance(m, Tensor) else m for m in entries)
        grid[..., i] = (a * column + b * row) * (2 / side)
    return F.grid_sample(x, grid, align_corners=False)


@register_op("rotation")
@dataclass(eq=False)
class Rotation(Op):
    """Rotate about the centre, bilinear, with zeros outside."""

    # range of the angle, counter-clockwise; a number d stands for [-d, d]
    degrees: arg.Pair = arg.interval(low=-math.inf, centre=0)

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw `angle` (N,), in degrees."""
        return {"angle": seeding.uniform(keys, (), *self.degrees)}

    def apply(self, x: Tensor, angle: Tensor) -> Tensor:
        radians = angle * (math.pi / 180)
        cos, sin = radians.cos(), radians.sin()
        return _warp(x, ((cos, -sin), (sin, cos)))


@register_op("shear")
class Shear(Rotation):
    """Shear along the rows by an angle, bilinear, with zeros outside."""

    def apply(self, x: Tensor, angle: Tensor) -> Tensor:
        return _warp(x, ((1, (angle * (math.pi / 180)).tan()), (0, 1)))
