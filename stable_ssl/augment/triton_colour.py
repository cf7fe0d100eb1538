"""Colour jitter in one kernel for a GPU: an image is read twice and written once.

In torch's operations it is 370 kernels, and most of a view's time. The arithmetic is
that of colour.py, in its order and without fused multiply-adds; the mean grey is summed
in an order that depends on the image's size alone, so an image gets the same bits
whatever the batch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048  # pixels at a time


@triton.jit
def _grey(red, green, blue):
    return red * 0.2989 + green * 0.587 + blue * 0.114


@triton.jit
def _blend(x, rest, factor):
    return tl.minimum(tl.maximum(x * factor + rest, 0.0), 1.0)


@triton.jit
def _channel(angle, chroma, base, primary):
    distance = tl.abs(tl.abs(angle - primary) - 3.0)
    return tl.minimum(tl.maximum(distance, 1.0), 2.0) * chroma + base


@triton.jit
def _adjust(red, green, blue, colour, factor, mean):
    """Apply one op, by torchvision's number, to some pixels."""
    if colour == 3:
        low, high = tl.minimum(green, blue), tl.maximum(green, blue)
        angle = low + high - red
        low, high = tl.minimum(low, red), tl.maximum(high, red)
        chroma = high - low
        angle = tl.div_rn(angle - low, tl.maximum(chroma, 1e-12)) + 1.0
        angle = tl.where(green < blue, -angle, angle) + factor * 6.0
        angle = angle - tl.floor(angle / 6.0 + 0.5) * 6.0
        base = low - chroma
        red = _channel(angle, chroma, base, 0.0)
        green = _channel(angle, chroma, base, 2.0)
        blue = _channel(angle, chroma, base, -2.0)
    else:
        rest = _grey(red, green, blue)
        if colour == 0:
            rest = rest * 0.0
        if colour == 1:
            rest = rest * 0.0 + mean
        rest = rest * (1.0 - factor)
        red = _blend(red, rest, factor)
        green = _blend(green, rest, factor)
        blue = _blend(blue, rest, factor)
    return red, green, blue


@triton.jit
def _jitter(x, out, on, order, factor, pixels, OPS: tl.constexpr, BLOCK: tl.constexpr):
    """Jitter one image (3, H, W)."""
    image = tl.program_id(0).to(tl.int64)
    x += image * 3 * pixels
    out += image * 3 * pixels
    order += image * OPS
    factor += image * OPS
    lanes = tl.arange(0, BLOCK)
    jittered = tl.load(on + image) != 0
    contrast = tl.load(order) * 0 + OPS  # position of contrast; OPS if there is none
    for k in tl.static_range(OPS):
        contrast = tl.where(tl.load(order + k) == 1, k, contrast)
    total = tl.zeros((BLOCK,), tl.float32)
    if jittered and contrast < OPS:
        for start in range(0, pixels, BLOCK):
            inside = start + lanes < pixels
            red = tl.load(x + start + lanes, inside, 0.0)
            green = tl.load(x + pixels + start + lanes, inside, 0.0)
            blue = tl.load(x + 2 * pixels + start + lanes, inside, 0.0)
            for k in tl.static_range(OPS):
                if k < contrast:
                    red, green, blue = _adjust(
                        red, green, blue, tl.load(order + k), tl.load(factor + k), 0.0
                    )
            total += tl.where(inside, _grey(red, green, blue), 0.0)
    mean = tl.sum(total) / pixels
    for start in range(0, pixels, BLOCK):
        inside = start + lanes < pixels
        red = tl.load(x + start + lanes, inside, 0.0)
        green = tl.load(x + pixels + start + lanes, inside, 0.0)
        blue = tl.load(x + 2 * pixels + start + lanes, inside, 0.0)
        if jittered:
            for k in tl.static_range(OPS):
                red, green, blue = _adjust(
                    red, green, blue, tl.load(order + k), tl.load(factor + k), mean
                )
        tl.store(out + start + lanes, red, inside)
        tl.store(out + pixels + start + lanes, green, inside)
        tl.store(out + 2 * pixels + start + lanes, blue, inside)


@torch.library.custom_op("stable_ssl::jitter", mutates_args=())
def jitter(x: Tensor, on: Tensor, order: Tensor, factor: Tensor) -> Tensor:
    """Apply the colour ops to the images that are `on`.

    Args:
        x: (N, 3, H, W) float32 in [0, 1], contiguous.
        on: (N,) bool.
        order: (N, ops) int64, torchvision's numbers of the ops in their order.
        factor: (N, ops) float32, of these ops.
    """
    n, _, height, width = x.shape
    out, order, factor = torch.empty_like(x), order.contiguous(), factor.contiguous()
    options = {"OPS": order.shape[1], "BLOCK": BLOCK}
    options |= {"num_warps": 8, "enable_fp_fusion": False}
    _jitter[(n,)](x, out, on.to(torch.int8), order, factor, height * width, **options)
    return out


@jitter.register_fake
def _(x: Tensor, on: Tensor, order: Tensor, factor: Tensor) -> Tensor:
    return torch.empty_like(x)
