"""Noise, and boxes erased."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.augment import arguments as arg
from stable_ssl.augment.crop import draw_boxes
from stable_ssl.augment.op import Op, Params, Sometimes, constant
from stable_ssl.augment.registry import register_op


@register_op("noise")
@dataclass(eq=False)
class Noise(Op):
    """Add Gaussian noise."""

    std: float = arg.number()  # of the noise, where images are within [0, 1]
    clamp: bool = True  # the result to [0, 1]
    draws_late = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.needs_range, self.leaves_range = self.clamp, not self.clamp

    def apply(self, x: Tensor, keys: Tensor) -> Tensor:
        x = seeding.normal(keys, tuple(x.shape[1:])).mul_(self.std).add_(x)
        return x.clamp_(0, 1) if self.clamp else x


@register_op("erasing")
@dataclass(eq=False)
class Erasing(Sometimes):
    """Erase a random box (Zhong et al. 2017, https://arxiv.org/abs/1708.04896)."""

    p: float = arg.probability(0.5)
    # ranges of the box's area over the image's, and of its height over its width
    scale: arg.Pair = arg.interval((0.02, 0.33), low=0, high=1)
    ratio: arg.Pair = arg.interval((0.3, 3.3), low=1e-3)
    # a number, one a channel, or `random`: standard normal noise
    value: arg.Pair | str = arg.numbers(0.0, words=["random"])
    draws_late = True

    def __post_init__(self) -> None:
        super().__post_init__()
        random = self.value == "random"
        self.leaves_range = random or not all(0 <= v <= 1 for v in self.value)

    def check_images(self, channels: int, height: int, width: int) -> None:
        if self.value != "random":
            arg.check_channels("erasing.value", self.value, channels)

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw `on` (N,), `box` (N, 4) as of `draw_boxes`, and the filling's `keys`.

        An image for which no attempt fits is left alone, as in torchvision.
        """
        ratio = (1 / self.ratio[1], 1 / self.ratio[0])  # of width over height
        box_keys = seeding.fold_in(keys, 1)
        fits, box = draw_boxes(box_keys, height, width, self.scale, ratio, margin=1)
        on = super().draw(keys, height, width)["on"] & fits
        return {"on": on, "box": box, "keys": seeding.fold_in(keys, 2)}

    def change(self, x: Tensor, box: Tensor, keys: Tensor) -> Tensor:
        top, left, height, width = box[:, :, None].unbind(1)
        row = torch.arange(x.shape[2], device=x.device)
        column = torch.arange(x.shape[3], device=x.device)
        rows = (row >= top) & (row < top + height)
        columns = (column >= left) & (column < left + width)
        mask = (rows[:, :, None] & columns[:, None]).float()[:, None]
        if self.value == "random":
            value = seeding.normal(keys, tuple(x.shape[1:]))
        else:
            value = constant(self.value, x.device).view(-1, 1, 1)
        return x * (1 - mask) + value * mask
