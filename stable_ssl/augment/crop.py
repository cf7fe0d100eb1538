"""Crops and resizes, with antialias."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.augment import arguments as arg
from stable_ssl.augment.op import Op, Params, as_float, on_gpu, total
from stable_ssl.augment.registry import register_op

DENSE = 96  # longest side, in pixels, that is resampled by dense matrices on the CPU
ATTEMPTS = 10  # to draw a box that fits, as torchvision
Range = tuple[float, float]


def draw_boxes(
    keys: Tensor, height: int, width: int, scale: Range, ratio: Range, margin: int
) -> tuple[Tensor, Tensor]:
    """Draw boxes that fit into images of height x width pixels, by keys (N,) int64.

    The box's area over the image's is within `scale`, and its width over its height
    within `ratio`, uniform in the logarithm. With a `margin` of 1, and not 0, boxes are
    smaller than the image and may be empty.

    Returns:
        Whether an attempt fitted (N,), and the first that did (N, 4) int64: top, left,
        height and width, in pixels.
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
    first = fits.byte().argmax(1).view(-1, 1, 1).expand(-1, 4, 1)
    boxes = torch.stack((top, left, h, w), 1).gather(2, first)
    return fits.any(1), boxes[..., 0].long()


# --- resizing -------------------------------------------------------------------------


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
    return weight.div_(total(weight)[..., None])


def _in_range(x: Tensor, interpolation: str) -> Tensor:
    return x.clamp_(0, 1) if interpolation == "bicubic" else x


def _is_small(*sides: int) -> bool:
    return max(sides) <= DENSE


def _resize(x: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Resize with antialias; bytes become bytes, and floats floats.

    For bytes whose channels are neighbours torch has a kernel that takes a sixth of the
    time; it rounds between rows and columns, as PIL, which changes a byte by 1 at most.
    """
    if x.dtype == torch.uint8:
        x = x.contiguous(memory_format=torch.channels_last)
        return F.interpolate(x, size, mode=interpolation, antialias=True)
    x = F.interpolate(x, size, mode=interpolation, antialias=True)
    return _in_range(x, interpolation)


# --- the ops --------------------------------------------------------------------------


@register_op("random_resized_crop")
@dataclass(eq=False)
class RandomResizedCrop(Op):
    """Crop a box of random area and aspect, and resize it with antialias."""

    size: arg.Size = arg.sides()  # of the output, in pixels
    # ranges of the box's area over the image's, and of its width over its height
    scale: arg.Pair = arg.interval((0.08, 1.0), low=0, high=1)
    ratio: arg.Pair = arg.interval((3 / 4, 4 / 3), low=1e-3)
    interpolation: str = arg.choice("bilinear", choices=KERNELS)
    fixes_size = True
    moves_pixels = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.needs_range = self.interpolation == "bicubic"  # which overshoots

    def draw(self, keys: Tensor, height: int, width: int) -> Params:
        """Draw `box` (N, 4): top, left, height and width, in pixels."""
        fits, box = draw_boxes(keys, height, width, self.scale, self.ratio, margin=0)
        low, high = self.ratio  # or the largest central box of an allowed aspect:
        h, w = min(height, round(width / low)), min(width, round(height * high))
        central = ((height - h) // 2, (width - w) // 2, h, w)
        # numbers, one by one: a tensor of them would be a copy, and wait for a GPU
        drawn = zip(box.unbind(1), central, strict=True)
        return {"box": torch.stack([torch.where(fits, *pair) for pair in drawn], 1)}

    def apply(self, x: Tensor, box: Tensor) -> Tensor:
        (n, c, h, w), (out_h, out_w) = x.shape, self.size
        if on_gpu(x) or _is_small(h, w, out_h, out_w):
            top, left, height, width = box.unbind(1)
            rows = _resampling(top, height, h, out_h, self.interpolation)
            columns = _resampling(left, width, w, out_w, self.interpolation)
            x = torch.bmm(as_float(x).reshape(n, c * h, w), columns.mT)
            x = torch.matmul(rows[:, None], x.view(n, c, h, out_w))
            return _in_range(x, self.interpolation)
        boxes = zip(x, box.tolist(), strict=True)
        cut = (
            image[None, :, top : top + height, left : left + width]
            for image, (top, left, height, width) in boxes
        )
        return torch.cat([_resize(i, self.size, self.interpolation) for i in cut])


@register_op("resize")
@dataclass(eq=False)
class Resize(Op):
    """Resize with antialias."""

    size: arg.Size = arg.sides()  # in pixels; a number is of the shorter side
    interpolation: str = arg.choice("bilinear", choices=KERNELS)
    moves_pixels = True

    def __post_init__(self) -> None:
        self.fixes_size = isinstance(self.size, Sequence)
        super().__post_init__()
        self.size = self.size if self.fixes_size else self.size[0]
        self.needs_range = self.interpolation == "bicubic"

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        if self.fixes_size:
            return self.size
        short, long = sorted((height, width))
        long = int(self.size * long / short)
        return (self.size, long) if height <= width else (long, self.size)

    def apply(self, x: Tensor) -> Tensor:
        size = self.out_size(*x.shape[-2:])
        x = as_float(x) if on_gpu(x) or _is_small(*x.shape[-2:], *size) else x
        return _resize(x, size, self.interpolation)


@register_op("center_crop")
@dataclass(eq=False)
class CenterCrop(Op):
    """Cut the central `size` (height, width, or a number for both); pad with zeros."""

    size: arg.Size = arg.sides()
    fixes_size = True
    moves_pixels = True

    def apply(self, x: Tensor) -> Tensor:
        for axis, out in zip((-2, -1), self.size, strict=True):
            missing = max(out - x.shape[axis], 0)
            pad = (missing // 2, missing - missing // 2)
            x = F.pad(x, (*pad, 0, 0) if axis == -1 else (0, 0, *pad))
            x = x.narrow(axis, round((x.shape[axis] - out) / 2), out)
        return x.contiguous()
