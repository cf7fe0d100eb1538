"""What a dataset says of its samples beside returning them."""

from __future__ import annotations

from typing import Any


def source(dataset: Any) -> Any:
    """Return what a dataset was read into memory from, or itself."""
    return getattr(dataset, "source", None) or dataset


def class_names(dataset: Any) -> dict[int, str]:
    """Return a dataset's names of its classes, by number; none where it has none."""
    dataset = source(dataset)
    if class_to_idx := getattr(dataset, "class_to_idx", None):
        return {number: str(name) for name, number in class_to_idx.items()}
    return dict(enumerate(map(str, getattr(dataset, "classes", None) or ())))
