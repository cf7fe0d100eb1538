"""Noise, and boxes erased."""
# ruff: noqa: D102 - Op describes what out_size, draw and apply are

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.data.augment.crop import draw_boxes
from stable_ssl.data.augment.op import (
    Op,
    Pair,
    Params,
    Sometimes,
    check,
    check_a_channel,
    check_range,
    constant,
    numbers,
)


@dataclass(eq=False)
class Noise(Op):
    """Add Gaussian noise."""

    std: float  # of the noise, where images are within [0, 1]
    clamp: bool = True  # the result to [0, 1]
    draws_late: ClassVar[bool] = True

    def __post_init__(self):
        check_range("std", self.std, 0)

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Return the keys: the noise itself is drawn when it is added."""
        return {"keys": keys}

    def apply(self, x: Tensor, keys: Tensor) -> Tensor:
        x = seeding.normal(keys, tuple(x.shape[1:])).mul_(self.std).add_(x)
        return x.clamp_(0, 1) if self.clamp else x


@dataclass(eq=False)
class Erasing(Sometimes):
    """Erase a random box (Zhong et al. 2017, https://arxiv.org/abs/1708.04896)."""

    p: float = 0.5  # probability
    scale: Pair = (0.02, 0.33)  # range of the box's area over the image's
    ratio: Pair = (0.3, 3.3)  # range of the box's height over its width
    value: Pair | str = 0.0  # a number, one a channel, `random`: standard normal noise
    draws_late: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        self.scale = check_range("scale", self.scale, 0, 1)
        self.ratio = check_range("ratio", self.ratio, 1e-3)
        if isinstance(self.value, str):
            ok = self.value == "random"
            check(ok, f"value={self.value}", "use a number, one a channel, or random")
        else:
            self.value = numbers(self.value)

    def check_images(self, channels: int, height: int, width: int) -> None:
        if not isinstance(self.value, str):
            check_a_channel("erasing.value", self.value, channels)

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw `on`, top, left, box_height, box_width and the filling's keys, all (N,).

        An image for which no attempt fits is left alone, as in torchvision.
        """
        ratio = (1 / self.ratio[1], 1 / self.ratio[0])  # of width over height
        box_keys = seeding.fold_in(keys, 1)
        fits, box = draw_boxes(box_keys, height, width, self.scale, ratio, margin=1)
        on = super().draw(keys, height, width)["on"] & fits
        return {"on": on, **box, "keys": seeding.fold_in(keys, 2)}

    def change(
        self,
        x: Tensor,
        top: Tensor,
        left: Tensor,
        box_height: Tensor,
        box_width: Tensor,
        keys: Tensor,
    ) -> Tensor:
        inside = [
            (pixel >= start[:, None]) & (pixel < (start + length)[:, None])
            for side, start, length in zip(
                x.shape[2:], (top, left), (box_height, box_width), strict=True
            )
            for pixel in [torch.arange(side, device=x.device)]
        ]
        mask = (inside[0][:, :, None] & inside[1][:, None]).float()[:, None]
        if self.value == "random":
            value = seeding.normal(keys, tuple(x.shape[1:]))
        else:
            value = constant(self.value, x.device).view(-1, 1, 1)
        return x * (1 - mask) + value * mask
