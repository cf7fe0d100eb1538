"""What an augmentation op is, and the arithmetic that ops share."""

from dataclasses import fields
from functools import lru_cache

import torch
from torch import Tensor

from stable_ssl import seeding

Params = dict[str, Tensor]


class Op:
    """What the ops of this folder share: an identity without parameters."""

    fixes_size: bool = False  # whether images of any size become `size`
    draws_late: bool = False  # whether `apply` draws, too, from keys in its parameters
    of_images: bool = True  # or of any data
    moves_pixels: bool = False  # so that bytes may stay bytes: it takes uint8, too
    needs_range: bool = False  # of [0, 1], which it clamps to or counts on
    leaves_range: bool = False  # of [0, 1], so that its output may be below 0 or above

    def __post_init__(self) -> None:
        """Read the arguments that a dataclass declares as in `arguments.py`."""
        for f in fields(self):
            if read := f.metadata.get("read"):
                setattr(self, f.name, read(f.name, getattr(self, f.name)))

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) of the output for an image of this size."""
        return self.size if self.fixes_size else (height, width)

    def check_images(self, channels: int, height: int, width: int) -> None:
        """Raise a ConfigError for images that it is not made for; most take any."""

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw parameters (N, ...) from keys (N,) for images of this size."""
        return {"keys": keys} if self.draws_late else {}

    def apply(self, x: Tensor, **params: Tensor) -> Tensor:
        """Transform x (N, C, H, W), float32, by what `draw` returned.

        x is in [0, 1], unless an op before it leaves that range, and is left as it is;
        of an op that moves pixels, it may be uint8.
        """
        return x

    def __call__(self, x: Tensor, keys: Tensor) -> Tensor:
        """Draw and apply: x (N, C, H, W), keys (N,) int64 on the same device."""
        self.check_images(*x.shape[1:])
        params = self.draw(keys, *x.shape[-2:])
        return self.apply(x if self.moves_pixels else as_float(x), **params)


class Sometimes(Op):
    """An op that changes each image with probability `p`, and leaves the others."""

    p: float

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw `on` (N,): whether to change an image."""
        return {"on": seeding.uniform(keys) < self.p}

    def apply(self, x: Tensor, on: Tensor, **params: Tensor) -> Tensor:
        if on_gpu(x):  # to select images would wait for the device
            return torch.where(on.view(-1, 1, 1, 1), self.change(x, **params), x)
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


def as_float(x: Tensor) -> Tensor:
    """Return uint8 as float32 in [0, 1], and floats as contiguous float32."""
    scaled = x.dtype == torch.uint8
    x = x.to(torch.float32, memory_format=torch.contiguous_format)
    return x.div_(255) if scaled else x


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
