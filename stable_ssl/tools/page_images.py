"""The pictures of run folders, small enough to travel in one file."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stable_ssl.recorded import is_within

ALL = 6_000_000  # bytes of all pictures, a third more as text
LARGE = 300_000  # bytes up to which a picture stays as it is
SIDE = 1200  # pixels of the longer side of one that is downscaled
DATED = re.compile(r"(.+)_e(\d+)")
DRAWN = "learning_curves"  # a picture of the curves, which the page draws itself


def embedded(
    folders: Sequence[Path],
) -> tuple[list[list[dict[str, Any]]], list[str]]:
    """Return the newest picture of each name of each run, until `ALL` bytes are full.

    The folders of the most important runs come first. A picture is {name, epoch,
    source}, the source a data URL; sentences say which are not as they were.
    """
    pictures, notes, room, left_out, smaller = [], [], ALL, 0, 0
    for folder in folders:
        newest, of_run = _newest(folder), []
        if newest and room <= 0:
            newest, left_out = {}, left_out + 1
        for name, (epoch, path) in newest.items():
            try:
                kind, data = _small(path)
            except ValueError as error:
                notes.append(f"{error}.")
                continue
            smaller += kind != "png"
            room -= len(data)
            source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            of_run.append({"name": name, "epoch": epoch, "source": source})
        pictures.append(of_run)
    if left_out:
        notes.append(
            f"The pictures of {left_out} runs, not the first ones, are left out: those"
            f" of a page take at most {ALL / 1e6:g} MB. They are in figures/ of the run"
            " folders."
        )
    if smaller:
        notes.append(
            f"{smaller} pictures above {LARGE / 1e3:g} kB are downscaled to {SIDE}"
            " pixels."
        )
    return pictures, notes


def _newest(folder: Path) -> dict[str, tuple[int | None, Path]]:
    """Return (epoch, path) of the newest picture of each name in a run folder."""
    newest: dict[str, tuple[int | None, Path]] = {}
    for path in sorted((folder / "figures").glob("*.png")):
        if not is_within(path, folder):  # nobody's to show
            continue
        dated = DATED.fullmatch(path.stem)
        name, epoch = (dated[1], int(dated[2])) if dated else (path.stem, None)
        older = name in newest and (newest[name][0] or 0) > (epoch or 0)
        if name != DRAWN and not older:
            newest[name] = epoch, path
    return newest


def _small(path: Path) -> tuple[str, bytes]:
    """Return kind and bytes of a picture: png as it is, or jpeg of a large one.

    Raises:
        ValueError: it is not whole, as a run that was killed leaves one.
    """
    from PIL import Image

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["png"]) as image:
            if len(data) <= LARGE:
                image.verify()
                return "png", data
            coloured = image.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a whole picture and is left out") from error
    opaque = Image.new("RGB", coloured.size, "white")
    opaque.paste(coloured, mask=coloured)
    opaque.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    opaque.save(buffer, "jpeg", quality=85)
    return "jpeg", buffer.getvalue()
