"""Gaussian blur."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.augment import arguments as arg
from stable_ssl.augment.op import Params, Sometimes, total
from stable_ssl.augment.registry import register_op

BLOCK = 32  # pixels of a product: larger ones multiply zeros, smaller ones cost calls


@register_op("gaussian_blur")
@dataclass(eq=False)
class GaussianBlur(Sometimes):
    """Blur with a Gaussian of random width, reflected at the borders."""

    kernel_size: arg.Size = arg.sides(odd=True)  # in pixels; (x, y) or for both
    sigma: arg.Pair = arg.interval((0.1, 2.0), low=1e-3)  # its range, in pixels
    p: float = arg.probability(1.0)

    def check_images(self, channels: int, height: int, width: int) -> None:
        for side, kernel in zip((width, height), self.kernel_size, strict=True):
            arg.check(
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
        across, down = self.kernel_size
        matrices = _filter_matrices(sigma, across, w)
        x, y = x.reshape(n, c * h, w), x.new_empty(n, c * h, w)
        for block, inputs in _blocks(w, across // 2):
            band = matrices[:, block, inputs].mT
            y[..., block].baddbmm_(x[..., inputs], band, beta=0)
        matrices = _filter_matrices(sigma, down, h)
        x, y = y.view(n * c, h, w), x.new_empty(n * c, h, w)
        for block, inputs in _blocks(h, down // 2):
            band = matrices[:, block, inputs].repeat_interleave(c, 0)
            y[:, block].baddbmm_(band, x[:, inputs], beta=0)
        return y.view(n, c, h, w)


def _filter_matrices(sigma: Tensor, taps: int, size: int) -> Tensor:
    """Return matrices (N, size, size) that blur a row of pixels by sigma (N,)."""
    distance = torch.arange(taps, device=sigma.device) - taps // 2
    exponent = (distance / sigma[:, None]).square_().mul_(-0.5)
    weight = exponent.clamp_(min=-50).exp_()  # denormal numbers cost ten times more
    weight = weight / total(weight)[:, None]
    n, radius, padded = len(sigma), taps // 2, size + taps - 1
    matrix = weight.new_zeros(n, size, padded)
    diagonals = matrix.as_strided((n, size, taps), (size * padded, padded + 1, 1))
    diagonals.copy_(weight[:, None])
    left, inner, right = matrix.split((radius, size, radius), 2)
    inner[..., 1 : radius + 1] += left.flip(2)  # beyond a border, pixels are reflected
    inner[..., size - 1 - radius : size - 1] += right.flip(2)
    return inner


def _blocks(size: int, radius: int) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of a matrix's rows, each with its columns that are not zero."""
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        yield slice(start, stop), slice(max(start - radius, 0), stop + radius)
