"""What a dataset may return for an image, and the one tensor that becomes of it.

==================  ================================  ==================================
pixels              are taken                         and become
==================  ================================  ==================================
uint8, bool         0 to 255; false, true             uint8
uint16              0 to 65,535                       float32, divided by 65,535
floats              0 to 1                            float32
any, with a range   what lies in it                   float32, the range as 0 to 1
any other           refused, with what to do          \
==================  ================================  ==================================

Images of PIL become grey or RGB (`pil.py`), those of torchvision are (C, H, W). Arrays
are (H, W), (H, W, C) or (C, H, W), and so are tensors; `layout` says which, where the
sizes do not.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from numbers import Number
from typing import Any

import numpy
import torch
from torch import Tensor

from stable_ssl.data.images import pil
from stable_ssl.schema import ConfigError, described

SHALLOW = ("uint8", "uint16", "bool")  # types of pixels, hardly of other data
COLOURS = (3, 4)  # sizes of a last axis that are channels in a tensor, too
FEW = 4  # channels, of an array whose sizes do not tell where they are


@dataclass(frozen=True)
class Decode:
    """Make a tensor (C, H, W) of an image.

    Args:
        range: [low, high] of the pixels, for what the table above refuses.
        layout: chw or hwc.
        images: whether there are any; False passes on whatever a dataset returns.
    """

    range: Sequence[float] | None = None
    layout: str | None = None
    images: bool = True

    def __post_init__(self) -> None:
        """Refuse a range that is none."""
        pair = self.range
        if pair is not None and not (len(pair) == 2 and -inf < pair[0] < pair[1] < inf):
            raise ConfigError(f"data.range={pair}: write [low, high] of the pixels")

    def applies(self, entry: Any, image_ops: bool) -> bool:
        """Return whether an entry of a sample is an image, and not data of other kinds.

        Those are series (C, T), tokens (T,), volumes, videos, dicts: what has no three
        axes, or two of them and neither the type of pixels nor ops for images.

        Args:
            entry: as the dataset returns it.
            image_ops: whether a view of it has ops for images.
        """
        if not self.images:
            return False
        if not isinstance(entry, (Tensor, numpy.ndarray)):
            return image_ops or pil.is_image(entry)
        shallow = _name_of(entry.dtype) in SHALLOW
        return image_ops or entry.ndim == 3 or (entry.ndim == 2 and shallow)

    def __call__(
        self, image: Any, name: str = "an image", free: bool = False
    ) -> Tensor:
        """Return an image as a tensor (C, H, W), uint8 or float32.

        Args:
            image: an image of PIL, an array or a tensor.
            name: for messages.
            free: whether floats may leave [0, 1], as after an op that normalises.

        Raises:
            ConfigError: it is none, or its pixels are not those of the table above.
        """
        if isinstance(image, Tensor):
            pixels = _dense(image, name)
        else:
            pixels = _from_array(image, name)
        if pixels.ndim not in (2, 3) or not pixels.numel():
            raise _refused(name, image, pixels, "expected (H, W) and channels")
        if pixels.ndim == 2:
            pixels = pixels[None]
        elif self._channels_last(image, pixels, name):
            pixels = pixels.permute(2, 0, 1)
        if free and self.range is None and pixels.is_floating_point():
            return pixels.to(torch.float32)
        return self._scaled(image, pixels, name)

    def _channels_last(self, image: Any, pixels: Tensor, name: str) -> bool:
        """Return whether the last of three axes has the channels."""
        if layout := _layout_of(image) or self.layout:
            return layout == "hwc"
        first, middle, last = pixels.shape
        shortest = last < min(first, middle)
        if isinstance(image, Tensor):
            square = first == middle != last  # an image, and not channels of one
            if first <= FEW or not (shortest or square):
                return False
            if last in COLOURS:
                return True
        elif shortest or first < min(middle, last):
            return shortest
        elif last <= FEW:
            return True
        raise _refused(name, image, pixels, "set data.layout: chw or hwc")

    def _scaled(self, image: Any, pixels: Tensor, name: str) -> Tensor:
        """Return uint8 as it is, and the rest as float32 in [0, 1]."""
        kind = pixels.dtype
        if self.range is None:
            if kind == torch.uint8:
                return pixels
            if kind == torch.bool:
                return pixels.to(torch.uint8) * 255
            if kind == torch.uint16:
                return pixels.to(torch.float32) / 65535
            (low, high), taken = (0.0, 1.0), kind.is_floating_point
            remedy = (
                "expected floats from 0 to 1, uint8 or uint16; set data.range: [low,"
                " high] of the pixels, or data.decode: false for what is no image"
            )
        else:
            (low, high), taken = self.range, not kind.is_complex
            remedy = f"data.range=[{low}, {high}] leaves some of it out"
        if not taken:
            raise _refused(name, image, pixels, remedy)
        values = pixels if kind == torch.float32 else pixels.to(torch.float64)
        least, most = values.aminmax()
        if not (low <= least and most <= high):  # nan is neither
            raise _refused(name, image, pixels, remedy)
        if self.range is not None:
            values = (values.to(torch.float64) - low) / (high - low)
        return values.to(torch.float32)


def as_given(entry: Any) -> Any:
    """Return data that are no image, numbers as a tensor of its own memory."""
    entry = numpy.asarray(entry) if of_numbers(entry) else entry
    return torch.from_numpy(_native(entry)) if _numbers(entry) else entry


def of_numbers(entry: Any) -> bool:
    """Return whether lists hold numbers, however deep, and are an array as such."""
    lists = isinstance(entry, (list, tuple))
    while isinstance(entry, (list, tuple)) and entry:
        entry = entry[0]
    return lists and isinstance(entry, Number)


def _from_array(image: Any, name: str) -> Tensor:
    """Return the pixels of an image of PIL, or of what numpy reads as an array."""
    if numpy.ma.is_masked(image):
        raise ConfigError(f"{name} has masked pixels; return image.filled(value)")
    try:
        array = pil.pixels(image, name) if pil.is_image(image) else numpy.asarray(image)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:  # of lists of different lengths
        raise ConfigError(f"{name} is no image: {described(error)}") from error
    if not _numbers(array):
        raise ConfigError(
            f"{name} is a {type(image).__name__}; expected an image of PIL, an array or"
            " a tensor, of numbers"
        )
    return torch.from_numpy(_native(array))


def _dense(image: Tensor, name: str) -> Tensor:
    """Return a tensor of an image without its subclass and gradient."""
    if image.layout != torch.strided or image.is_quantized or image.is_meta:
        raise ConfigError(
            f"{name} is a tensor of {_name_of(image.dtype)} whose values are packed or"
            " not there; return a dense one, by to_dense() or dequantize()"
        )
    return image.as_subclass(Tensor).detach()


def _layout_of(image: Any) -> str | None:
    """Return the layout that a type of image always has, if any."""
    module = sys.modules.get("torchvision.tv_tensors")
    if module is not None and isinstance(image, module.Image):
        return "chw"
    return "hwc" if pil.is_image(image) else None


def _numbers(entry: Any) -> bool:
    """Return whether something is an array that torch has a type for."""
    return isinstance(entry, numpy.ndarray) and entry.dtype.kind in "buifc"


def _name_of(kind: Any) -> str:
    """Return the name of a type of numpy or torch, whatever its byte order."""
    return getattr(kind, "name", str(kind).removeprefix("torch."))


def _native(array: numpy.ndarray) -> numpy.ndarray:
    """Return a copy in a type of torch: this machine's byte order, no long doubles."""
    kind = array.dtype.kind
    size = min(array.itemsize, 16 if kind == "c" else 8)
    return array.astype(f"={kind}{size}", order="C", copy=True)


def _refused(name: str, image: Any, pixels: Tensor, remedy: str) -> ConfigError:
    """Say what was found of an image, and what to do."""
    found = f"{type(image).__name__} of {_name_of(pixels.dtype)}"
    if pixels.numel() and not pixels.is_complex():
        least, most = pixels.to(torch.float64).aminmax()
        found += f" from {least:g} to {most:g}"
    return ConfigError(f"{name} is a {found} of shape {tuple(pixels.shape)}: {remedy}")
