"""What is asked of a batch, whatever a loader yields: how many, which labels, where.

Of a tuple or list the first entry is the images, a view or a list of views, and the
second the labels; what follows is the user's own. Of several train loaders a batch is a
dict of such batches by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def first_view(x: Tensor | list[Tensor]) -> Tensor:
    """Return the view (N, C, H, W) of a batch's images, the first of several."""
    return x[0] if isinstance(x, list) else x


def count(batch: Any) -> int:
    """Return how many samples a batch holds: the rows of its first tensor, or 0."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return next(filter(None, map(count, batch)), 0)
    return 0


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a batch with its tensors, however nested, on a device; does not wait."""
    if device.type == "cpu":
        return batch  # where it is: moving nothing costs 5 us
    return mapped(batch, lambda x: x.to(device, non_blocking=True))


def mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a batch with each of its tensors changed; named tuples stay such."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {name: mapped(value, change) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(mapped(value, change) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(mapped(value, change) for value in batch)
    return batch
