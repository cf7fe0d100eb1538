"""tensorboard/: the rows as scalars and the pictures, by optimizer step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from stable_ssl.loggers.trackers import Row, Tracker, drawn

NO_CURVES = ("step", "epoch", "time")


class TensorBoard(Tracker):
    """Write an event file a launch.

    A resumed run tells TensorBoard to forget what came at its checkpoint's step or
    later, and repeats what the checkpoint holds of that step; all rows so far are
    written where there is no event file yet.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], rows: Sequence[Row]):
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "tensorboard"
        self.pictures: set[tuple[str, int]] = set()  # name and step
        resumes = any(path.glob("events.out.tfevents.*"))
        last = rows[-1]["step"] if rows else 0
        self.writer = SummaryWriter(path, purge_step=last if resumes else None)
        if not resumes or last == 0:
            text = json.dumps(config, indent=2)
            self.writer.add_text("config", f"```\n{text}\n```", 0)
        for row in rows:
            if not resumes or row["step"] >= last:
                self.write(row)
        for step, name, picture in drawn(folder):
            if step == last if resumes else step <= last:
                self.picture(name, picture, step)

    def write(self, row: Row) -> None:
        """Add the numbers of a row, and hand them to the system."""
        for name, value in row.items():
            if name not in NO_CURVES and not isinstance(value, str):
                self.writer.add_scalar(name, value, row["step"], row.get("time"))
        self.writer.flush()

    def picture(self, name: str, path: Path, step: int) -> None:
        """Add an image, unless there is one of its name and step."""
        from PIL import Image

        if (name, step) in self.pictures:
            return
        self.pictures.add((name, step))
        with Image.open(path, formats=["png"]) as image:
            pixels = numpy.asarray(image.convert("RGB"))
        self.writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self, status: str) -> None:
        """Close the event file."""
        self.writer.close()
