"""What a dataset tells beside its samples: its source and the names of its classes."""

from __future__ import annotations

from torch.utils.data import Dataset


def source(dataset: Dataset) -> Dataset:
    """Return the dataset that one in memory was read from; any other one itself."""
    return getattr(dataset, "source", None) or dataset


def class_names(dataset: Dataset) -> dict[int, str]:
    """Return a dataset's names of its classes, by number; none where it has none."""
    dataset = source(dataset)
    if class_to_idx := getattr(dataset, "class_to_idx", None):
        return {number: str(name) for name, number in class_to_idx.items()}
    return dict(enumerate(map(str, getattr(dataset, "classes", None) or ())))
