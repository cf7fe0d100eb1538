"""Sources of samples by name: the digits, torchvision's, folders, registered ones.

A dataset is a torch dataset, map-style or iterable, of samples that `Fields` takes
apart and images that `Decode` takes; the library's own are each a `Source`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from stable_ssl.data.few_labels import check_few, choose_few
from stable_ssl.data.rank_aware import refuse_rank_aware
from stable_ssl.data.sources import torchvision
from stable_ssl.data.sources.array import Arrays
from stable_ssl.data.sources.digits import digits
from stable_ssl.data.sources.folder import ImageFolder
from stable_ssl.data.sources.held import Images, held_in_memory
from stable_ssl.data.sources.huggingface import HuggingFace
from stable_ssl.data.sources.source import (
    Source,
    class_names,
    files_below_root,
    recorded,
    sample_name,
)
from stable_ssl.data.sources.tar import Tar
from stable_ssl.instantiate import (
    accepted_by,
    build_object,
    find_object,
    register,
    taken_by,
    takes_any,
)
from stable_ssl.schema import ConfigError, nearest, refuse_url

BUILDERS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "image_folder": ImageFolder,
    "array": Arrays,
    "huggingface": HuggingFace,
    "tar": Tar,
}
__all__ = ["Images", "Source", "class_names", "files_below_root", "held_in_memory"]
__all__ += ["recorded", "sample_name"]


def register_dataset(name: str) -> Callable:
    """Register `builder(root, subset, **kwargs) -> Dataset` under a name.

    The top of this file says what a dataset is. Its attribute `classes`, a list of
    names, or `num_classes` gives the number of classes.

    Raises:
        ConfigError: another builder has that name.
    """

    def decorate(builder: Callable[..., Dataset]) -> Callable[..., Dataset]:
        register(BUILDERS, name, builder, "a dataset")
        return builder

    return decorate


def build_dataset(node: Mapping, root: str = "", download: bool = False) -> Dataset:
    """Build a dataset from a node {name | _target_, root, subset, **kwargs}.

    Args:
        node: its `root` is relative to the argument `root` unless absolute, and null is
            that argument. `labels_per_class` keeps that many images of each class, [a,
            b] those after the first a up to b: a split that has none of the first a,
            with the same `labels_seed` (0), which chooses them. A _target_ without the
            arguments name and subset is not given them: a recipe may set them for
            another dataset.
        root: parent of the datasets, `data.root`.
        download: whether torchvision may fetch a missing one.

    Raises:
        ConfigError: unknown name, subset or argument; missing files.
    """
    arguments = {k: v for k, v in node.items() if k != "image_transform"}
    per_class = arguments.pop("labels_per_class", None)
    labels_seed = arguments.pop("labels_seed", 0)
    if per_class is not None:
        dataset = build_dataset(arguments, root, download)
        return labelled_subset(dataset, per_class, labels_seed)
    for name in ("root", "split_file"):
        refuse_url(f"dataset.{name}", arguments.get(name))
    arguments = arguments_of(arguments, root)
    if "_target_" in arguments:
        target = find_object(arguments["_target_"], "dataset")
        if isinstance(target, type):
            refuse_rank_aware(target)
        return build_object(arguments, "dataset")
    check_name(arguments)
    name, subset = arguments.pop("name"), arguments.pop("subset", None)
    if name in BUILDERS:
        arguments = taken_by(BUILDERS[name], f"the dataset {name}", arguments)
        return BUILDERS[name](subset=subset, **arguments)
    return torchvision.build(name, subset, download, arguments)


def arguments_of(node: Mapping, root: str) -> dict[str, Any]:
    """Return what the builder of a dataset is given of its node.

    Args:
        node: as of `build_dataset`.
        root: parent of the datasets.
    """
    arguments = {k: v for k, v in node.items() if k != "image_transform"}
    subfolder = arguments.get("root")
    arguments["root"] = str(Path(root) / (subfolder or ""))
    if "_target_" in arguments:
        if subfolder is None:  # the target may have no such argument
            del arguments["root"]
        accepted = accepted_by(find_object(arguments["_target_"], "dataset"))
        if not takes_any(accepted):
            for key in {"name", "subset"} - accepted.keys():
                arguments.pop(key, None)
    return arguments


def check_name(node: Any) -> None:
    """Refuse a dataset node whose name is neither registered nor torchvision's.

    Raises:
        ConfigError: with the nearest name.
    """
    if not isinstance(node, Mapping):
        raise ConfigError(f"dataset={node}: write dataset.name={node}")
    if "_target_" in node or node.get("name") in BUILDERS:
        return
    if node.get("name") is None:
        raise ConfigError("a dataset needs a name or a _target_; it has neither")
    name, classes = node["name"], torchvision.names()
    if name not in classes:
        raise ConfigError(
            f"there is no dataset {name}{nearest(name, [*BUILDERS, *classes])}"
            f" (registered: {', '.join(BUILDERS)}; or the name of any torchvision"
            " dataset)"
        )


def labelled_subset(
    dataset: Dataset, per_class: int | Sequence[int], seed: int = 0
) -> Dataset:
    """Return as many images of each class, the labelled part of a larger dataset.

    Args:
        dataset: one that lists its labels.
        per_class: images of each class, or [a, b].
        seed: of the choice; with one seed, fewer are a part of more.

    Raises:
        ConfigError: a class has fewer, or the dataset does not list its labels.
    """
    pair = isinstance(per_class, Sequence) and len(per_class) == 2
    first, last = per_class if pair else (0, per_class)
    if not (type(first) is type(last) is int and 0 <= first < last):
        raise ConfigError(
            f"labels_per_class={per_class}: use an integer from 1 on, or [from, to]"
        )
    if type(seed) is not int:
        raise ConfigError(f"labels_seed={seed}: use an integer")
    if not (isinstance(dataset, Source) and isinstance(dataset.labels, Tensor)):
        raise ConfigError(
            f"labels_per_class={per_class}: {type(dataset).__name__} does not list its"
            " labels; use an image folder or a dataset held in memory"
        )
    known = (dataset.labels >= 0).nonzero().flatten()
    labels = dataset.labels[known]
    check_few(labels, str(last), "labels_per_class")
    chosen = choose_few(labels, str(last), seed)
    if first:  # with one seed, fewer are a part of more
        chosen = chosen[~torch.isin(chosen, choose_few(labels, str(first), seed))]
    return dataset.subset(known[chosen])
