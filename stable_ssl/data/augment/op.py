"""What an augmentation op is, and the arithmetic and checks that ops share."""
# ruff: noqa: D102 - Op describes what out_size, draw and apply are

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.schema import ConfigError

Params = dict[str, Tensor]
Pair = float | Sequence[float]
Size = int | Sequence[int]


class Op:
    """What the ops of this module share: an identity without parameters."""

    fixes_size: bool = False  # whether images of any size become `size`
    draws_late: bool = False  # whether `apply` draws, too, from keys in its parameters
    of_images: bool = True  # or of any data
    moves_pixels: bool = False  # and no value of [0, 1] leaves it: bytes are enough

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) of the output for an image of this size."""
        return self.size if self.fixes_size else (height, width)

    def check_images(self, channels: int, height: int, width: int) -> None:
        """Refuse images that it is not made for; most ops are for any.

        Raises:
            ConfigError: says what it is made for.
        """

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw parameters (N, ...) from keys (N,) for images of this size."""
        return {}

    def apply(self, x: Tensor, **params: Tensor) -> Tensor:
        """Transform x (N, C, H, W), float32 in [0, 1], by what `draw` returned."""
        return x

    def __call__(self, x: Tensor, keys: Tensor) -> Tensor:
        """Draw and apply: x (N, C, H, W), keys (N,) int64 on the same device."""
        self.check_images(*x.shape[1:])
        return self.apply(x, **self.draw(keys, *x.shape[-2:]))


class Sometimes(Op):
    """An op that changes each image with probability `p`, and leaves the others."""

    p: float

    def __post_init__(self):
        check(0 <= self.p <= 1, f"p={self.p}", "a probability is between 0 and 1")

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw `on` (N,): whether to change an image."""
        return {"on": seeding.uniform(keys) < self.p}

    def apply(self, x: Tensor, on: Tensor, **params: Tensor) -> Tensor:
        if on_gpu(x):  # to select images would wait for the device
            return torch.where(column(on, x), self.change(x, **params), x)
        index = on.nonzero().flatten()
        if len(index) in (0, len(on)):
            return self.change(x, **params) if len(index) else x
        selected = {k: value.index_select(0, index) for k, value in params.items()}
        changed = self.change(x.index_select(0, index), **selected)
        return x.index_copy(0, index, changed)

    def change(self, x: Tensor, **params: Tensor) -> Tensor:
        """Transform images (N, C, H, W) that are `on`, by their parameters."""
        raise NotImplementedError


# --- shared arithmetic ----------------------------------------------------------------


def on_gpu(x: Tensor) -> bool:
    """Return whether x is on a device that the host must not wait for."""
    return x.device.type != "cpu"


def column(values: Tensor, x: Tensor) -> Tensor:
    """View (N,) as (N, 1, ...), to broadcast against x."""
    return values.view(-1, *[1] * (x.dim() - 1))


def total(x: Tensor) -> Tensor:
    """Sum the last axis in an order that does not depend on the other axes.

    On the CPU torch sums each row by itself. On a GPU the order depends on the shape,
    so there halves are added instead.
    """
    if not on_gpu(x):
        return x.sum(-1)
    while (n := x.shape[-1]) > 1:
        half = x[..., : n // 2] + x[..., n // 2 : n // 2 * 2]
        if n % 2:
            half[..., 0] += x[..., -1]
        x = half
    return x[..., 0]


@lru_cache
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return a float32 tensor that stays on the device: a copy would wait for it."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def grey_of(x: Tensor) -> Tensor:
    """Return the luma (N, H, W) of x (N, 3, H, W), with torchvision's weights."""
    if x.shape[1] == 1:
        return x[:, 0].clone()
    red, green, blue = x.unbind(1)
    return (red * 0.2989).add_(green * 0.587).add_(blue * 0.114)


def separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return rows @ x @ columns^T for each image and channel."""
    n, c, h, w = x.shape
    x = torch.bmm(x.reshape(n, c * h, w), columns.mT).view(n, c, h, columns.shape[1])
    return torch.matmul(rows[:, None], x)


def check(ok: bool, value: str, expected: str) -> None:
    """Raise a ConfigError with the wrong value and what is expected, unless ok."""
    if not ok:
        raise ConfigError(f"{value}: {expected}")


def check_colours(name: str, channels: int) -> None:
    """Refuse images that are neither grey nor of three colours."""
    check(
        channels in (1, 3),
        f"image_transform: {name} found images of {channels} channels",
        "it is for grey or red, green and blue; leave it out",
    )


def check_a_channel(name: str, values: Sequence[float], channels: int) -> None:
    """Refuse values of an op that are neither one for all channels nor one a channel.

    Args:
        name: of the op and its argument, for the message.
        values: of the argument.
        channels: of the images.
    """
    check(
        len(values) in (1, channels),
        f"image_transform: {name}={list(values)} for images of {channels} channels",
        "give one value, or one a channel",
    )


def check_range(
    name: str,
    value: Pair,
    low: float,
    high: float = math.inf,
    centre: float | None = None,
) -> tuple[float, float]:
    """Read a pair, or an amount around a centre, that lies within [low, high]."""
    pair = value
    if not isinstance(value, Sequence) and centre is not None:
        check(value >= 0, f"{name}={value}", "an amount is not negative; use a pair")
        pair = (max(centre - value, low) if centre else -value, centre + value)
    elif not isinstance(value, Sequence):
        pair = (value, value)
    check(
        len(pair) == 2 and low <= pair[0] <= pair[1] <= high,
        f"{name}={value}",
        f"use [low, high] with {low:g} <= low <= high <= {high:g}",
    )
    return float(pair[0]), float(pair[1])


def numbers(value: Pair) -> tuple[float, ...]:
    """Read one number or several, e.g. one a channel."""
    values = value if isinstance(value, Sequence) else (value,)
    return tuple(float(v) for v in values)


def check_sides(name: str, size: Size) -> tuple[int, int]:
    """Read (height, width), or one number for both; positive."""
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    check(
        len(sides) == 2 and all(int(s) == s and s > 0 for s in sides),
        f"{name}={size}",
        "expected a positive integer, or two of them",
    )
    return int(sides[0]), int(sides[1])
