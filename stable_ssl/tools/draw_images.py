"""Pictures of a run: what it sees, what it finds alike, where its features lie.

`views` shows images as the network gets them, `neighbours` the images whose features
are nearest to those of a few others, `features` a plane through all features.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stable_ssl.data.combined import named_parts
from stable_ssl.data.datasets import class_names
from stable_ssl.evaluation.collapse import float64
from stable_ssl.tools.feature_buffer import IMAGES, FeatureBuffer, thumbnails
from stable_ssl.tools.style import literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 8  # images
QUERIES = 10  # whose neighbours are drawn
NEIGHBOURS = 5
CELL, GAP, FRAME = 0.66, 0.05, 0.03  # inches: an image, between two, around one
HEAD, FOOT, LETTER = 0.42, 0.3, 0.075  # inches: above a grid, below, of a wide letter
RIGHT, WRONG = "#009E73", "#D55E00"  # Okabe and Ito: told apart with any colour vision
INK, FAINT = "#222222", "#777777"
CLASSES = (  # ten colours that stay apart, Petroff 2021, https://arxiv.org/abs/2107.02270
    "#3f90da #ffa90e #bd1f01 #832db6 #94a4a2 #a96b59 #e76300 #b9ac70 #717581 #92dadd"
).split()
LETTERS = 11  # of a name beside an image


# --- views ----------------------------------------------------------------------------


def draw_views(batch: Any, loader: Any) -> Figure | None:
    """Draw images of a batch, a column each, and their views, a row each.

    Where an image has one view, of one loader, three rows of images are drawn.

    Args:
        batch: (views, labels), or {name: such a batch} of several loaders.
        loader: that made it, a `Combined` of several.

    Returns:
        None where the batch holds no images.
    """
    named = batch if isinstance(batch, Mapping) else {"": batch}
    loaders = named_parts(loader)
    rows, names = [], []
    for name, (x, labels, *_) in named.items():
        views = x if isinstance(x, list) else [x]
        if any(not isinstance(v, Tensor) or v.ndim != 4 for v in views):
            continue
        each = 1 if len(views) > 1 or len(named) > 1 else 3
        for i, view in enumerate(views):
            shown = thumbnails(view[: each * SHOWN], loaders.get(name), i).cpu()
            words = f"view {i + 1}" if len(views) > 1 else ""
            title = "\n".join(filter(None, (name, words, f"{_size(view)} px")))
            titles = [title, *[""] * each]
            rows += zip(titles, shown.split(SHOWN), strict=False)
        if len(views) > 1 and isinstance(labels, Tensor):
            names = names_of(labels[:SHOWN], loaders.get(name))
    if not rows:
        return None
    columns = names if names and len(named) == 1 else [""] * SHOWN
    titles = [title for title, _ in rows]
    figure, axes = _canvas("what the network sees", columns, titles)
    for r, (_, images) in enumerate(rows):
        for c, image in enumerate(images):
            _image(axes, c, r, image)
    return figure


def _size(view: Tensor) -> str:
    return f"{view.shape[-1]} × {view.shape[-2]}"


# --- neighbours -----------------------------------------------------------------------


def draw_neighbours(buffer: FeatureBuffer) -> Figure:
    """Draw a few images of a split, and those of it nearest by cosine similarity."""
    images, features, labels = buffer.images(), buffer.features(), buffer.labels()
    queries = spread(labels, len(images))
    similarity = features[queries] @ features.T
    similarity[torch.arange(len(queries)), queries] = -2  # not itself
    nearest = similarity.topk(NEIGHBOURS).indices
    names = [""] * len(queries)
    if labels is not None:
        names = names_of(labels[queries], buffer.loader)
    columns = ["image", *(str(i + 1) for i in range(NEIGHBOURS))]
    figure, axes = _canvas("images and their nearest by features", columns, names, FOOT)
    for r, (query, others) in enumerate(zip(queries, nearest, strict=True)):
        _image(axes, 0, r, images[query])
        for c, other in enumerate(others, 1):
            same = labels is not None and bool(labels[other] == labels[query])
            colour = None if labels is None else RIGHT if same else WRONG
            _image(axes, c, r, images[other], colour)
    if labels is not None:
        hits = int((labels[nearest] == labels[queries][:, None]).sum())
        below = len(queries) * (CELL + GAP) + 0.08
        words = f"same class, {hits} of {nearest.numel()}", "another class"
        for i, (word, colour) in enumerate(zip(words, (RIGHT, WRONG), strict=True)):
            x = _left(1) + 1.55 * i
            _text(axes, x, below, "■", ha="left", va="top", color=colour)
            _text(axes, x + 0.16, below, word, ha="left", va="top")
    return figure


def spread(labels: Tensor | None, count: int) -> list[int]:
    """Choose QUERIES of `count` images: of different classes where labels (N,) are."""
    if labels is None:
        return torch.linspace(0, count - 1, min(QUERIES, count)).long().tolist()
    firsts = [int((labels == c).nonzero()[0]) for c in labels.unique()]
    step = max(1, len(firsts) / QUERIES)
    chosen = [firsts[int(i * step)] for i in range(min(QUERIES, len(firsts)))]
    rest = [i for i in range(count) if i not in chosen]
    return [*chosen, *rest[: min(QUERIES, count) - len(chosen)]]


# --- the map --------------------------------------------------------------------------


def draw_features(buffer: FeatureBuffer) -> Figure:
    """Draw the features on their first two principal components, coloured by class."""
    from matplotlib.figure import Figure

    points, shares = plane(buffer.features())
    labels = buffer.labels()
    figure = Figure(figsize=(4.6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(f"features of {len(points):,} images", loc="left", fontsize=9)
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    x, y = points[order].T  # no class lies on top of another
    colours = "#3f90da" if labels is None else _colours(labels)[order].tolist()
    size = 5 + 10 * (1 - len(points) / IMAGES)
    axes.scatter(x, y, s=size, c=colours, linewidths=0, alpha=0.8)
    for axis, which, share in zip(
        (axes.xaxis, axes.yaxis), ("first", "second"), shares, strict=True
    ):
        axis.set_label_text(f"{which} principal component ({share:.0%} of variance)")
        axis.set_ticks([])
    axes.set_aspect("equal", "datalim")
    axes.spines[:].set_color("#cccccc")
    if labels is not None:
        _legend(axes, labels, buffer.loader)
        if len(classes := labels.unique()) <= len(CLASSES):
            _name_classes(axes, points, labels, names_of(classes, buffer.loader))
    return figure


def _name_classes(
    axes: Axes, points: Tensor, labels: Tensor, names: Sequence[str]
) -> None:
    """Write each class's name amid its points: colours alone are not for everybody."""
    from matplotlib.patheffects import withStroke

    look = {"fontsize": 7, "ha": "center", "va": "center", "zorder": 4}
    look["path_effects"] = [withStroke(linewidth=2, foreground="white")]
    for label, name in zip(labels.unique(), names, strict=False):
        x, y = points[labels == label].median(0).values.tolist()
        axes.text(x, y, literal(_short(name)), **look)


def plane(features: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """Project features (N, D) on their first two principal components.

    Returns:
        Points (N, 2) float64, the farthest along an axis on its positive side; and the
        components' shares of the variance.
    """
    x = float64(features)
    x = x - x.mean(0)
    wide = x.shape[1] > x.shape[0]
    values, vectors = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    values, vectors = values[-2:].flip(0).clamp_min(0), vectors[:, -2:].flip(1)
    points = vectors * values.sqrt() if wide else x @ vectors
    if points.shape[1] < 2:  # features of one dimension
        points = torch.cat([points, torch.zeros_like(points)], 1)
        values = torch.cat([values, torch.zeros_like(values)])
    farthest = points.abs().argmax(0, keepdim=True)
    points = points * points.gather(0, farthest).sign()
    share = values / x.square().sum().clamp_min(1e-30)
    return points, (share[0].item(), share[1].item())


def _colours(labels: Tensor) -> Any:
    """Return a colour a label (N, 3): ten apart, or around the wheel for more."""
    import numpy
    from matplotlib.colors import to_rgb

    classes, index = labels.unique(return_inverse=True)
    if len(classes) <= len(CLASSES):
        palette = [to_rgb(c) for c in CLASSES]
    else:
        hues = [i / len(classes) for i in range(len(classes))]
        palette = [
            colorsys.hls_to_rgb(h, 0.45 + 0.15 * (i % 2), 0.7)
            for i, h in enumerate(hues)
        ]
    return torch.from_numpy(numpy.array(palette))[index]


def _legend(axes: Axes, labels: Tensor, loader: Any) -> None:
    """Name the classes, or say how many there are when they are more than ten."""
    from matplotlib.lines import Line2D

    classes = labels.unique()
    if len(classes) > len(CLASSES):
        words = f"{len(classes)} classes, a colour each"
        axes.set_title(words, loc="right", fontsize=8, color=FAINT)
        return
    handles = [
        Line2D([], [], marker="o", linestyle="none", markersize=5, color=colour)
        for colour in CLASSES[: len(classes)]
    ]
    axes.legend(
        handles,
        [*map(literal, names_of(classes, loader))],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.02),
        frameon=False,
        handletextpad=0.1,
    )


def names_of(labels: Any, loader: Any) -> list[str]:
    """Return the names of labels (N,), as the loader's dataset knows them; or numbers.

    Nothing where an image has no label, or several.
    """
    labels = torch.as_tensor(labels)
    if labels.ndim != 1 or labels.is_floating_point() or not len(labels):
        return []
    known = class_names(getattr(loader, "dataset", None))
    numbers = labels.tolist()
    if min(numbers) < 0:
        return []
    return [known.get(i, str(i)) for i in numbers]


# --- canvas ---------------------------------------------------------------------------


def _canvas(
    title: str, columns: Sequence[str], rows: Sequence[str], foot: float = 0.1
) -> tuple[Figure, Axes]:
    """Return a figure for a grid of images, and axes in inches from its first cell."""
    from matplotlib.figure import Figure

    longest = max(len(line) for row in rows for line in _short(row).split("\n"))
    margin = 0.15 + LETTER * longest
    width = margin + len(columns) * (CELL + GAP) + 0.1
    height = HEAD + len(rows) * (CELL + GAP) + foot
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-margin, width - margin)
    axes.set_ylim(height - HEAD, -HEAD)
    _text(axes, 0, 0.06 - HEAD, title, ha="left", va="top", fontsize=9)
    for c, name in enumerate(columns):
        _text(axes, _middle(c), -0.05, _short(name), va="bottom", color=FAINT)
    for r, name in enumerate(rows):
        _text(axes, -0.08, _middle(r), _short(name), ha="right", color=FAINT)
    return figure, axes


def _left(column: float) -> float:
    return column * (CELL + GAP)


def _middle(index: float) -> float:
    return _left(index) + CELL / 2


def _image(
    axes: Axes, column: float, row: int, image: Tensor, frame: str | None = None
) -> None:
    """Draw an image (3, H, W) in a cell, in a frame of a colour."""
    from matplotlib.patches import Rectangle

    h, w = image.shape[-2:]
    x, y = _left(column), _left(row)
    inner = CELL - 2 * FRAME if frame else CELL
    width, height = inner * w / max(h, w), inner * h / max(h, w)
    x, y = x + (CELL - width) / 2, y + (CELL - height) / 2
    if frame:
        place = (x - FRAME, y - FRAME)
        size = width + 2 * FRAME, height + 2 * FRAME
        axes.add_patch(Rectangle(place, *size, color=frame, linewidth=0))
    shown = axes.imshow(
        image.permute(1, 2, 0).numpy(),
        extent=(x, x + width, y + height, y),
        interpolation="nearest" if max(h, w) < 48 else "lanczos",
        aspect="auto",
        zorder=2,
    )
    shown.set_clip_on(False)


def _text(axes: Axes, x: float, y: float, text: str, **kwargs: Any) -> None:
    kwargs = {"ha": "center", "va": "center", "color": INK, **kwargs}
    axes.text(x, y, literal(text), **kwargs)


def _short(name: str) -> str:
    lines = name.split("\n")
    return "\n".join(w if len(w) <= LETTERS else f"{w[: LETTERS - 1]}…" for w in lines)
