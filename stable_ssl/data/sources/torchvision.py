"""Torchvision's datasets by the names of their classes."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset

from stable_ssl.data.sources.held import Images
from stable_ssl.data.sources.source import subsets
from stable_ssl.instantiate import accepted_by, taken_by
from stable_ssl.schema import ConfigError

OF_IMAGES = ("transform", "transforms")  # arguments of torchvision's classes


def names() -> list[str]:
    """Return the names of torchvision's datasets."""
    from torchvision import datasets

    return [name for name in datasets.__all__ if name[0].isupper()]


def build(
    name: str, subset: str | None, download: bool, arguments: dict[str, Any]
) -> Dataset:
    """Build a dataset; classes differ in their arguments for a subset.

    Args:
        name: of the class.
        subset: train or test, or what the class calls its splits; None: its default.
        download: whether it may fetch what is missing.
        arguments: of the class.

    Raises:
        ConfigError: no such subset or argument, a transform, missing files.
    """
    from torchvision import datasets

    _refuse_transforms(name, arguments)
    cls = getattr(datasets, name)
    accepted = accepted_by(cls)
    root = arguments["root"] if "root" in accepted else arguments.pop("root")
    if "download" in accepted:
        arguments["download"] = download
    if subset is not None:
        if not isinstance(subset, str):
            raise ConfigError(f"{name} takes one subset, not {list(subset)}")
        choices = [key for key in ("train", "split", "image_set") if key in accepted]
        if not choices:
            raise ConfigError(f"{name} has no subsets; set subset: null")
        if choices[0] == "train":
            arguments["train"] = subsets(subset, ["train", "test"]) == ["train"]
        else:
            arguments[choices[0]] = subset
    arguments = taken_by(cls, f"the dataset {name}", arguments)
    try:
        return _held(cls(**arguments), f"{name} of {arguments}")
    except (RuntimeError, OSError, ValueError) as error:
        remedy = "" if download else "; data.download=true fetches a missing dataset"
        raise ConfigError(f"{name} in {root}: {error}{remedy}") from error


def _refuse_transforms(name: str, arguments: dict[str, Any]) -> None:
    """Refuse functions that torchvision would call: pixels are held as they are."""
    for key in (*OF_IMAGES, "target_transform"):
        if arguments.get(key) is None:
            continue
        if key in OF_IMAGES:
            remedy = "write it into the list image_transform of the same dataset"
        else:
            remedy = (
                f"write _target_: torchvision.datasets.{name} in place of the name,"
                " which calls it"
            )
        raise ConfigError(f"the dataset {name} by its name takes no {key}; {remedy}")


def _held(dataset: Dataset, origin: str) -> Dataset:
    """Return a dataset whose pixels are in memory as `Images` of that origin."""
    pixels = getattr(dataset, "data", None)
    labels = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if labels is None or not hasattr(pixels, "shape"):
        return dataset
    pixels, labels = torch.as_tensor(pixels), torch.as_tensor(labels)
    if pixels.dtype != torch.uint8 or labels.ndim != 1:
        return dataset
    if pixels.ndim == 3:  # (N, H, W)
        pixels = pixels[:, None]
    elif pixels.shape[-1] in (1, 3):  # (N, H, W, C)
        pixels = pixels.permute(0, 3, 1, 2).contiguous()
    names = getattr(dataset, "classes", None) or ()
    classes = {name: number for number, name in enumerate(names)}
    num_classes = len(names) or int(labels.max()) + 1
    of = origin, None
    return Images(pixels, labels.long(), num_classes, of, class_to_idx=classes)
