"""Gaussian blur."""
# ruff: noqa: D102 - Op describes what out_size, draw and apply are

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.data.augment.op import (
    Pair,
    Params,
    Size,
    Sometimes,
    check,
    check_range,
    check_sides,
    total,
)

BLOCK = 32  # pixels of a product: larger ones multiply zeros, smaller ones cost calls


def _filter_matrices(weight: Tensor, size: int) -> Tensor:
    """Return matrices (N, size, size) that filter by weight (N, K), reflected."""
    n, taps = weight.shape
    radius, padded = taps // 2, size + taps - 1
    matrix = weight.new_zeros(n, size, padded)
    diagonals = matrix.as_strided((n, size, taps), (size * padded, padded + 1, 1))
    diagonals.copy_(weight[:, None])
    left, inner, right = matrix.split((radius, size, radius), 2)
    inner[..., 1 : radius + 1] += left.flip(2)
    inner[..., size - 1 - radius : size - 1] += right.flip(2)
    return inner


def _blocks(size: int, radius: int) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of a matrix's rows, each with its columns that are not zero."""
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        yield slice(start, stop), slice(max(start - radius, 0), stop + radius)


@dataclass(eq=False)
class GaussianBlur(Sometimes):
    """Blur with a Gaussian of random width, reflected at the borders."""

    kernel_size: Size  # (x, y) or a number for both, in pixels; odd
    sigma: Pair = (0.1, 2.0)  # range of the standard deviation, in pixels
    p: float = 1.0  # probability

    def __post_init__(self):
        self.kernel_size = check_sides("kernel_size", self.kernel_size)
        odd = all(k % 2 for k in self.kernel_size)
        check(odd, f"kernel_size={self.kernel_size}", "use odd numbers")
        self.sigma = check_range("sigma", self.sigma, 1e-3)
        super().__post_init__()

    def check_images(self, channels: int, height: int, width: int) -> None:
        for side, kernel in zip((width, height), self.kernel_size, strict=True):
            check(
                kernel // 2 < side,
                f"image_transform: kernel_size={kernel} on images of {side} pixels",
                f"use at most {2 * side - 1}",
            )

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw `on` (N,) and `sigma` (N,), in pixels."""
        chance, sigma = seeding.uniform(keys, (2,)).unbind(1)
        low, high = self.sigma
        return {"on": chance < self.p, "sigma": sigma * (high - low) + low}

    def change(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Multiply by the matrices' bands: at 224 pixels whole ones cost twice that."""
        n, c, h, w = x.shape
        columns, rows = (
            _filter_matrices(self._weights(taps, sigma), side)
            for taps, side in zip(self.kernel_size, (w, h), strict=True)
        )
        across, down = (taps // 2 for taps in self.kernel_size)
        x, y = x.reshape(n, c * h, w), x.new_empty(n, c * h, w)
        for block, inputs in _blocks(w, across):
            band = columns[:, block, inputs].mT
            y[..., block].baddbmm_(x[..., inputs], band, beta=0)
        x, y = y.view(n * c, h, w), x.new_empty(n * c, h, w)
        for block, inputs in _blocks(h, down):
            band = rows[:, block, inputs].repeat_interleave(c, 0)
            y[:, block].baddbmm_(band, x[:, inputs], beta=0)
        return y.view(n, c, h, w)

    def _weights(self, taps: int, sigma: Tensor) -> Tensor:
        distance = torch.arange(taps, device=sigma.device) - taps // 2
        exponent = (distance / sigma[:, None]).square_().mul_(-0.5)
        weight = exponent.clamp_(min=-50).exp_()  # denormal numbers cost ten times more
        return weight / total(weight)[:, None]
