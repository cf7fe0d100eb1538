"""Images of PIL: their modes, and the depth that PIL drops.

A mode has 8 bits a channel, or is one deep channel: `I;16`, `I` (32), `F` (float).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy

from stable_ssl.data.unreadable import Unreadable, reading
from stable_ssl.schema import ConfigError

CHANNELS = ("rgb", "grey", "all")
SPACES = {"CMYK", "YCbCr", "HSV", "LAB"}  # other ways to write a colour
ALPHA = {"LA", "La", "PA", "RGBA", "RGBa", "RGBX"}
DEEP = {"I;16", "I;16L", "I;16B", "I;16N", "I", "F"}
STACKED = ("TIFF", "WEBP", "PNG")  # formats that may hold several pictures
OF_16_BITS = ("PNG", "PPM")  # formats whose mode `I` is not deeper


def check_channels(channels: str | None) -> str | None:
    """Return the channels of a dataset; refuse what is none of `CHANNELS`."""
    if channels in (None, *CHANNELS):
        return channels
    raise ConfigError(f"channels={channels} of a dataset: use rgb, grey or all")


def is_image(entry: Any) -> bool:
    """Return whether something is an image of PIL, which need not be imported."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(entry, module.Image)


def load(image: Any, name: str) -> None:
    """Read the pixels of an image that may only have been opened.

    Raises:
        Unreadable: its file is broken, or PIL drops bits of it.
    """
    if _drops_bits(image):
        raise Unreadable(f"{name} has 16 bits a channel, of which PIL reads 8")
    with reading(name):
        image.load()


def pixels(image: Any, name: str) -> numpy.ndarray:
    """Return an image's array (H, W) or (H, W, 3), at its depth.

    Raises:
        Unreadable: it has an alpha channel that says something, or `load` refuses it.
    """
    load(image, name)
    remedy = 'return numpy.asarray(image.convert("RGB")), or numpy.asarray(image)'
    image = _without_alpha(image, name, remedy)
    return _array(image.convert("RGB") if image.mode in SPACES else image)


def with_channels(image: Any, channels: str | None, name: str) -> Any:
    """Return an image of a file with the channels that its dataset has.

    Args:
        image: just opened, so that PIL tells how deep the file is.
        channels: rgb or grey, converted to; all there are; None: RGB of 8 bits where
            that drops nothing.
        name: for messages.

    Returns:
        An image of PIL, L or RGB; or an array (H, W), or an image of torchvision,
        where there are more bits or channels.

    Raises:
        Unreadable: it cannot be converted, or would lose what nobody asked to drop.
    """
    drops = _drops_bits(image)
    if channels is None and (drops or image.mode in DEEP):
        raise Unreadable(
            f"{name} has more than 8 bits a channel; set channels of its dataset to"
            " what it has, grey, rgb or all, which keep them"
        )
    if drops:
        return _of_16_bits(image, channels, name)
    if (pages := _pages(image)) > 1:
        raise Unreadable(
            f"{name} has {pages} pages, of which PIL reads one; split it, or set"
            " channels: all of its dataset, which takes them as channels by tifffile"
        )
    if image.mode in DEEP:
        array = _array(image)
        return _of_bands([array] * 3) if channels == "rgb" else array
    if channels is None:
        remedy = "set channels of its dataset: rgb or grey drops it, all keeps it"
        return _without_alpha(image, name, remedy).convert("RGB")
    if channels == "all":
        image = _unpacked(image)
        if image.mode in ("L", "RGB"):
            return image.copy()  # the file of an image that was not loaded is closed
        return _of_bands(numpy.moveaxis(_array(image), 2, 0))
    return _flat(_unpacked(image)).convert("RGB" if channels == "rgb" else "L")


def _drops_bits(image: Any) -> bool:
    """Return whether a file has 16 bits a channel, and PIL opens it as one of 8."""
    tiles = getattr(image, "tile", None) or ()
    how = [tile[3] for tile in tiles]
    if image.format == "PPM":  # (mode, largest value)
        return image.mode == "RGB" and any(x[-1] > 255 for x in how if len(x) == 2)
    return image.mode not in DEEP and any(";16" in str(x) for x in how)


def _of_16_bits(image: Any, channels: str, name: str) -> Any:
    """Return a PNG file of several channels as an image of torchvision, of uint16."""
    from torchvision.io import decode_image
    from torchvision.tv_tensors import Image

    if image.format == "PNG" and getattr(image, "filename", ""):
        deep = decode_image(image.filename, "UNCHANGED")
        if channels == "all":
            return Image(deep)
        colours = deep[:-1] if len(deep) in (2, 4) else deep
        if channels == "rgb" or len(colours) == 1:
            return Image(colours.expand(3, -1, -1) if channels == "rgb" else colours)
    raise Unreadable(
        f"{name} has 16 bits a channel, of which PIL reads 8; convert it, or set"
        " channels: all of its dataset, which keeps those of PNG, and TIFF by tifffile"
    )


def _of_bands(bands: Sequence[numpy.ndarray]) -> Any:
    """Return an image of torchvision, (C, H, W), whose layout is beyond doubt."""
    import torch
    from torchvision.tv_tensors import Image

    array = numpy.stack(bands)
    return Image(torch.from_numpy(array.astype(array.dtype.newbyteorder("="))))


def _pages(image: Any) -> int:
    """Return how many pages of a file are of one size: others are its previews."""
    if image.format not in STACKED or image.n_frames == 1:
        return 1
    size, count = image.size, 0
    for page in range(image.n_frames):
        image.seek(page)
        count += image.size == size
    image.seek(0)
    return count


def _without_alpha(image: Any, name: str, remedy: str) -> Any:
    """Return an image without its alpha channel, which must say nothing."""
    image = _unpacked(image)
    if image.mode not in ALPHA:
        return image
    *_, last = image.getextrema()
    if image.mode == "RGBX" or last != (255, 255):
        raise Unreadable(
            f"{name} has a channel beside its colours ({image.mode}), which is not all"
            f" opaque; {remedy}"
        )
    return _flat(image)


def _unpacked(image: Any) -> Any:
    """Return bits as grey, a palette as its colours, a clear colour as a channel."""
    clear = image.mode == "PA" or "transparency" in image.info
    if image.mode in ("L", "RGB") and not clear:
        return image
    if image.mode in ("1", "L"):
        return image.convert("LA" if clear else "L")
    if image.mode in ("P", "PA", "RGB"):
        return image.convert("RGBA" if clear else "RGB")
    return image


def _flat(image: Any) -> Any:
    """Return an image without its alpha channel."""
    if image.mode in ("La", "RGBa"):  # premultiplied: PIL converts it in two steps
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode not in ALPHA:
        return image
    return image.convert("L" if image.mode == "LA" else "RGB")


def _array(image: Any) -> numpy.ndarray:
    """Return an image's pixels; 16 bits as uint16, however PIL holds them."""
    array = numpy.asarray(image)
    if image.mode == "I" and image.format in OF_16_BITS:
        array = array.astype(numpy.uint16)
    return array
