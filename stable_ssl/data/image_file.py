"""One file of an image: its pixels as its dataset asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy

from stable_ssl.data import pil
from stable_ssl.data.decode import as_given
from stable_ssl.data.unreadable import Unreadable, reading

TIFF = {".tif", ".tiff"}
EXTENSIONS = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".webp", ".npy", *TIFF}


def read(path: Path, channels: str | None) -> Any:
    """Return an image: of PIL; or an array, or an image of torchvision, at its depth.

    Args:
        path: of a format that PIL reads; an array of numpy, whatever its channels; for
            `all` channels a TIFF file of any depth and number of bands, which needs
            tifffile.
        channels: rgb, grey, all, or None; see `pil.with_channels`.

    Raises:
        Unreadable: it is none, or would lose bits or channels.
    """
    if channels == "all" and path.suffix.lower() in TIFF and find_spec("tifffile"):
        with reading(path):
            if (bands := _bands(path)) is not None:
                return bands
    with _opened(path) as image:
        if isinstance(image, numpy.ndarray):
            return numpy.array(image)
        return pil.with_channels(image, channels, str(path))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with reading(path):
        if path.suffix.lower() == ".npy":
            yield numpy.load(path, mmap_mode="r", allow_pickle=False)
            return
        from PIL import Image, UnidentifiedImageError

        try:
            image = Image.open(path)
        except UnidentifiedImageError as error:
            if path.suffix.lower() not in TIFF:
                raise
            raise Unreadable(
                f"{path} is not a readable image: PIL does not know such a TIFF file;"
                " `channels: all` of its dataset reads it where tifffile is installed"
            ) from error
        with image:
            yield image


def _bands(path: Path) -> Any:
    """Return a TIFF file's pixels as an image of torchvision, (C, H, W).

    Its bands or pages are the channels. None where a colour is not simply a number,
    such as of a palette, which PIL knows to read.
    """
    from tifffile import PHOTOMETRIC, TiffFile
    from torchvision.tv_tensors import Image

    with TiffFile(path) as file:
        if file.pages[0].photometric not in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB):
            return None
        series = file.series[0]
        pixels, axes = series.asarray(), series.axes
    if "Y" not in axes or "X" not in axes or pixels.ndim > 3:
        raise ValueError(f"expected an image of bands, found axes {axes}")
    pixels = numpy.moveaxis(pixels, (axes.index("Y"), axes.index("X")), (-2, -1))
    return Image(as_given(pixels).view(-1, *pixels.shape[-2:]))
