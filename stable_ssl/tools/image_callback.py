"""When pictures of a run are drawn, from what, and that they never disturb it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_ssl.batch import first_view
from stable_ssl.cadence import is_due
from stable_ssl.config import Pictures
from stable_ssl.evaluation.evaluator import Encode, Evaluator
from stable_ssl.files import replacing
from stable_ssl.tools.draw_images import (
    NEIGHBOURS,
    draw_features,
    draw_neighbours,
    draw_views,
)
from stable_ssl.tools.feature_buffer import FeatureBuffer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = {"font.size": 8, "font.family": ["DejaVu Sans"]}
DPI = 160


class ImageCallback(Evaluator):
    """Collect what is to be drawn while a split is evaluated, then draw it.

    What fails is a warning: a picture is no reason to lose a run.

    Args:
        config: group `log.pictures`.
    """

    needs_features = False
    each_rank = True  # and yields nothing

    def __init__(self, config: Pictures):
        self.config = config
        self.buffer: FeatureBuffer | None = None

    def draws(self, epoch: int, last: bool) -> bool:
        """Return whether pictures are drawn after so many epochs; at the last, too."""
        return is_due(self.config.every_n_epochs, epoch, last)

    def open(self, loader: Any) -> None:
        """Keep images of this loader when it is evaluated; None keeps nothing."""
        self.buffer = None if loader is None else FeatureBuffer(loader)

    def see(self, batch: Any, loader: Any, encode: Encode) -> None:
        """Keep some of a batch if its split is the one."""
        if self.buffer is None or self.buffer.loader is not loader:
            return
        x, labels, *_ = batch
        view = first_view(x)
        features = encode(view)
        try:
            self.buffer.collect(view, features, labels)
        except Exception as error:
            self.buffer = None
            _warn("neighbours and features", error)

    def draw(
        self, folder: Path, epoch: int, step: int, batch: Any, loader: Any
    ) -> Iterator[tuple[str, Path]]:
        """Draw what can be drawn; yield each picture's name and file.

        Args:
            folder: where <name>_e<epoch>.png go; the files say their step.
            epoch: epochs taken.
            step: optimizer steps taken.
            batch: of the training, (views, labels) or {name: such a batch}; or None.
            loader: that made it.
        """
        buffer, self.buffer = self.buffer, None
        draws: dict[str, Callable[[], Figure | None]] = {}
        if batch is not None:
            draws["views"] = lambda: draw_views(batch, loader)
        if buffer is not None and len(buffer) > NEIGHBOURS:
            draws["neighbours"] = lambda: draw_neighbours(buffer)
            draws["features"] = lambda: draw_features(buffer)
        for name, draw in draws.items():
            path = folder / f"{name}_e{epoch:03d}.png"
            try:
                drawn = _save(draw, path, step)
            except Exception as error:
                _warn(name, error)
            else:
                if drawn:
                    yield name, path


def _save(draw: Callable[[], Figure | None], path: Path, step: int) -> bool:
    """Write a picture, all or nothing; return whether there is one."""
    from matplotlib import style

    with style.context(["default", STYLE]):  # whatever the user's own settings
        figure = draw()
        if figure is None:
            return False
        metadata = {"step": str(step), "Software": None}
        with replacing(path) as new:
            figure.savefig(new, format="png", dpi=DPI, metadata=metadata)
    return True


def _warn(what: str, error: Exception) -> None:
    warnings.warn(f"no picture of {what} was drawn: {error!r}", stacklevel=3)
