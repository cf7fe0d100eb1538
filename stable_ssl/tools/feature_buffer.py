"""Thumbnails and features of some images of a split, kept while it is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from stable_ssl.augment.colour import Normalize

IMAGES = 2000  # of a split that are kept, evenly spread
SIDE = 64  # pixels of a thumbnail at most: 24 MB of them


class FeatureBuffer:
    """Keep images of the batches of a split, with features and labels.

    Args:
        loader: of the split; its length says how evenly to spread what is kept.
    """

    def __init__(self, loader: Any):
        self.loader, self.seen = loader, 0
        try:
            size = len(loader) * (getattr(loader, "batch_size", None) or 1)
        except TypeError:  # a stream that does not know its length
            size = IMAGES
        self.every = max(1, -(-size // IMAGES))
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def collect(self, x: Tensor, features: Tensor, labels: Tensor) -> None:
        """Keep some of a batch: views (N, C, H, W), features (N, D) and labels (N,)."""
        chosen = slice(-self.seen % self.every, None, self.every)
        self.seen += len(x)
        if x.ndim == 4 and sum(len(part[0]) for part in self.parts) < IMAGES:
            small = thumbnails(x[chosen], self.loader, 0)
            part = small, features[chosen].detach().float(), labels[chosen]
            self.parts.append(part)

    def __len__(self) -> int:
        return sum(len(part[0]) for part in self.parts)

    def images(self) -> Tensor:
        """Return thumbnails, (N, 3, H, W) float on the CPU; synchronises the host."""
        return torch.cat([part[0] for part in self.parts]).cpu()

    def features(self) -> Tensor:
        """Return features on the unit sphere, (N, D) float on the CPU."""
        return normalize(torch.cat([part[1] for part in self.parts]).cpu(), dim=1)

    def labels(self) -> Tensor | None:
        """Return labels (N,), None where an image has none, or several."""
        labels = torch.cat([torch.as_tensor(part[2]) for part in self.parts]).cpu()
        one = labels.ndim == 1 and not labels.is_floating_point()
        return labels if one and labels.min() >= 0 else None


def thumbnails(x: Tensor, loader: Any, view: int) -> Tensor:
    """Return images as they were before they were normalised, and small.

    Args:
        x: a view, (N, C, H, W); of more than three channels, the first three count.
        loader: that made it, whose op `normalize` is undone; where it is not known what
            to undo, the range of the batch becomes 0 to 1.
        view: number of the view.

    Returns:
        (N, 3, H', W') float in [0, 1], on the device of x.
    """
    x = x.detach().float()
    views: Sequence[Any] = getattr(loader, "views", ())
    ops = getattr(views[view], "ops", ()) if view < len(views) else ()
    for op in reversed(ops):
        if isinstance(op, Normalize):
            mean, std = (x.new_tensor(v).view(-1, 1, 1) for v in (op.mean, op.std))
            x = x * std + mean
            break
    x = x[:, :3] if x.shape[1] >= 3 else x[:, :1].expand(-1, 3, -1, -1)
    low, high = torch.aminmax(x) if len(x) else (x.new_zeros(()), x.new_ones(()))
    beyond = (low < -0.5) | (high > 1.5)  # noise may pass 0 and 1 a little
    x = torch.where(beyond, (x - low) / (high - low).clamp_min(1e-12), x).clamp(0, 1)
    scale = SIDE / max(x.shape[-2:])
    if scale < 1 and len(x):
        size = [max(1, round(side * scale)) for side in x.shape[-2:]]
        x = interpolate(x, size, mode="bilinear", antialias=True)
    return x
