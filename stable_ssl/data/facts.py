"""What a dataset says of its samples beside returning them."""

from __future__ import annotations

from typing import Any


def source(dataset: Any) -> Any:
    """Return what a dataset was read into memory from, or itself."""
    return getattr(dataset, "source", None) or dataset


def class_names(dataset: Any) -> dict[int, str]:
    """Return a dataset's names of its classes, by number; none where it has none."""
    known = source(dataset)
    if numbers := getattr(known, "class_to_idx", None):
        return {number: str(name) for name, number in numbers.items()}
    return dict(enumerate(map(str, getattr(known, "classes", None) or ())))
