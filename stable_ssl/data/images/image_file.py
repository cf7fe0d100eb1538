"""One file of an image: its pixels as its dataset asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy

from stable_ssl.data.images import pil
from stable_ssl.data.images.decode import as_given
from stable_ssl.data.images.unreadable import Unreadable, reading

TIFF = {".tif", ".tiff"}
STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # of TIFF files, large ones last
EXTENSIONS = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".webp", ".npy", *TIFF}


def read(path: str | Path, channels: str | None, data: bytes | None = None) -> Any:
    """Return an image: of PIL; or an array, or an image of torchvision, at its depth.

    Args:
        path: of a format that PIL reads; an array of numpy, whatever its channels; for
            `all` channels a TIFF file of any depth and number of bands, which needs
            tifffile. With `data` its suffix tells arrays, and it is for messages.
        channels: rgb, grey, all, or None; see `pil.with_channels`.
        data: the bytes of the file, where it is part of another, such as of a tar or a
            table.

    Raises:
        Unreadable: it is none, or would lose bits or channels.
    """
    path = Path(path)
    file = path if data is None else BytesIO(data)
    is_tiff = path.suffix.lower() in TIFF if data is None else data[:4] in STARTS
    if channels == "all" and is_tiff and find_spec("tifffile"):
        with reading(path):
            if (bands := _bands(file)) is not None:
                return bands
    with _opened(path, file, is_tiff) as image:
        if isinstance(image, numpy.ndarray):
            return numpy.array(image)
        return pil.with_channels(image, channels, str(path))


@contextmanager
def _opened(path: Path, file: Path | BytesIO, is_tiff: bool) -> Iterator[Any]:
    with reading(path):
        if path.suffix.lower() == ".npy":
            mode = "r" if isinstance(file, Path) else None
            yield numpy.load(file, mmap_mode=mode, allow_pickle=False)
            return
        from PIL import Image, UnidentifiedImageError

        try:
            image = Image.open(file)
        except UnidentifiedImageError as error:
            if not is_tiff:
                raise
            raise Unreadable(
                f"{path} is not a readable image: PIL does not know such a TIFF file;"
                " `channels: all` of its dataset reads it where tifffile is installed"
            ) from error
        with image:
            yield image


def _bands(file: Path | BytesIO) -> Any:
    """Return a TIFF file's pixels as an image of torchvision, (C, H, W).

    Its bands or pages are the channels. None where a colour is not simply a number,
    such as of a palette, which PIL knows to read.
    """
    from tifffile import PHOTOMETRIC, TiffFile
    from torchvision.tv_tensors import Image

    with TiffFile(file) as opened:
        if opened.pages[0].photometric not in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB):
            return None
        series = opened.series[0]
        pixels, axes = series.asarray(), series.axes
    if "Y" not in axes or "X" not in axes or pixels.ndim > 3:
        raise ValueError(f"expected an image of bands, found axes {axes}")
    pixels = numpy.moveaxis(pixels, (axes.index("Y"), axes.index("X")), (-2, -1))
    return Image(as_given(pixels).view(-1, *pixels.shape[-2:]))
