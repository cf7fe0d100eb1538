"""Images of PIL: their modes, and the depth that PIL drops.

A mode has 8 bits a channel, or is one deep channel: `I;16`, `I` (32), `F` (float).
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

import numpy

from stable_ssl.data.images.unreadable import Unreadable, reading
from stable_ssl.schema import ConfigError

CHANNELS = ("rgb", "grey", "all")
GREY = ("1", "L", "LA", "La")
RAW = ("CMYK", "YCbCr", "HSV", "LAB", "RGBX")  # kept where all channels are asked for
STACKED = ("TIFF", "WEBP", "PNG")  # formats that may hold several pictures
KEPT = ("PNG", "TIFF")  # formats of 16 bits that all channels are kept of
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
    return _array(image if _is_deep(image) else _opaque(image, name, remedy))


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
    keeps = image.format == "PNG" if drops else _is_deep(image)
    if channels is None and keeps:
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
    image.load()  # all of it: its file is closed thereafter
    if _is_deep(image):
        array = _array(image)
        return _of_bands(numpy.stack([array] * 3)) if channels == "rgb" else array
    if channels is None:
        remedy = "set channels of its dataset: rgb or grey drops it, all keeps it"
        return _converted(_opaque(image, name, remedy), "RGB")
    if channels != "all":  # in two steps: one would mind the alpha channel
        return _converted(_flat(_plain(image)), "RGB" if channels == "rgb" else "L")
    image = image if image.mode in RAW else _plain(image)
    if image.mode in ("L", "RGB"):
        return image
    return _of_bands(numpy.moveaxis(_array(image), 2, 0))


def _is_deep(image: Any) -> bool:
    return image.mode[0] in "IF"


def _drops_bits(image: Any) -> bool:
    """Return whether a file has 16 bits a channel, and PIL opens it as one of 8."""
    tiles = getattr(image, "tile", None) or ()
    how = [tile[3] for tile in tiles]
    if image.format == "PPM":  # (mode, largest value)
        return image.mode == "RGB" and any(x[-1] > 255 for x in how if len(x) == 2)
    return not _is_deep(image) and any(";16" in str(x) for x in how)


def _of_16_bits(image: Any, channels: str | None, name: str) -> Any:
    """Return a PNG file of several channels as an image of torchvision, of uint16."""
    import torch
    from torchvision.io import decode_image
    from torchvision.tv_tensors import Image

    if image.format == "PNG":
        image.fp.seek(0)  # of a file, or of bytes that are part of another
        content = torch.frombuffer(bytearray(image.fp.read()), dtype=torch.uint8)
        deep = decode_image(content, "UNCHANGED")
        if channels == "all":
            return Image(deep)
        colours = deep[:-1] if len(deep) in (2, 4) else deep
        if channels == "rgb" or len(colours) == 1:
            return Image(colours.expand(3, -1, -1) if channels == "rgb" else colours)
    remedy = "convert it, such as to PNG"
    if image.format in KEPT and channels != "all":
        remedy = "convert it, or set channels: all of its dataset, which keeps them"
    if image.format == "TIFF" and not find_spec("tifffile"):
        remedy += ", with pip install stable-ssl[tiff]"
    raise Unreadable(f"{name} has 16 bits a channel, of which PIL reads 8; {remedy}")


def _of_bands(array: numpy.ndarray) -> Any:
    """Return (C, H, W) as an image of torchvision, whose layout is beyond doubt."""
    import torch
    from torchvision.tv_tensors import Image

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


def _plain(image: Any) -> Any:
    """Return bits, a palette, a clear colour or another space as L, LA, RGB or RGBA."""
    grey, alpha = image.mode in GREY, "A" if image.has_transparency_data else ""
    if image.mode in ("La", "RGBa"):  # premultiplied: PIL converts it in two steps
        image = image.convert(image.mode.upper())
    return _converted(image, ("L" if grey else "RGB") + alpha)


def _opaque(image: Any, name: str, remedy: str) -> Any:
    """Return an image, L or RGB, without its alpha channel, which must say nothing."""
    padded, plain = image.mode == "RGBX", _plain(image)
    if padded or (plain.mode[-1] == "A" and plain.getextrema()[-1] != (255, 255)):
        raise Unreadable(
            f"{name} has a channel beside its colours ({image.mode}), which is not all"
            f" opaque; {remedy}"
        )
    return _flat(plain)


def _flat(image: Any) -> Any:
    """Return an image of `_plain` without its alpha channel."""
    return _converted(image, "L" if image.mode in GREY else "RGB")


def _converted(image: Any, mode: str) -> Any:
    """Convert an image, which copies it, if it has another mode."""
    return image if image.mode == mode else image.convert(mode)


def _array(image: Any) -> numpy.ndarray:
    """Return an image's pixels; 16 bits as uint16, however PIL holds them."""
    array = numpy.asarray(image)
    if image.mode == "I" and image.format in OF_16_BITS:
        array = array.astype(numpy.uint16)
    return array
