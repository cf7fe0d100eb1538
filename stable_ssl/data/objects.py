"""Datasets and loaders that a script or notebook made, beside the configuration's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch.utils.data import IterableDataset

from stable_ssl.batch import parts_of
from stable_ssl.schema import ConfigError

Objects = dict[str, Any]  # datasets and loaders by argument: `train`, `train.name`


def put_into(config: DictConfig, splits: Mapping[str, Any]) -> Objects:
    """Write loader nodes for objects into the group `data`, as far as text can say.

    What the group says of a split, ops, batch size and workers, holds for its object,
    too. A split without one is off, and not monitored: its samples would be another
    dataset's.

    Args:
        config: is changed.
        splits: a dataset or loader each, several datasets by name, or None.

    Raises:
        ConfigError: what is neither a dataset nor a loader.
    """
    objects: Objects = {}
    if all(given is None for given in splits.values()):
        return objects
    for split, given in splits.items():
        named = given if isinstance(given, Mapping) else {None: given}
        old, nodes = config.data[split] or {}, {}
        for name, value in named.items():
            argument = split if name is None else f"{split}.{name}"
            if value is not None:
                _refuse_others(argument, value)
                objects[argument] = value
                node = old if name is None else old.get(name) or {}
                nodes[name] = _node(node if "dataset" in node else {}, value, argument)
        config.data[split] = nodes.get(None, nodes or None)
    monitored = str(config.log.monitor).partition("/")[0]
    if monitored in splits and splits[monitored] is None:
        config.log.monitor = None
    return objects


def is_dataset(value: Any) -> bool:
    """Return whether an object has samples by number; a loader yields batches."""
    if isinstance(value, (list, tuple)) and value and _is_batch(value[0]):
        return False
    return hasattr(value, "__getitem__") or isinstance(value, IterableDataset)


def _is_batch(entry: Any) -> bool:
    """Return whether an entry of a list is images (N, C, H, W) with N > 1 labels.

    A sample's image has fewer axes, or its label is not as long as the first of them.
    """
    parts = parts_of(entry) or ()
    arrays = [p[0] if isinstance(p, list) and p else p for p in parts[:2]]
    shapes = [tuple(getattr(x, "shape", ())) for x in arrays]
    if len(shapes) < 2 or len(shapes[0]) < 4 or not shapes[1]:
        return False
    return shapes[0][0] == shapes[1][0] > 1


def found_object(dataset: Mapping[str, Any], objects: Objects) -> Any:
    """Return the object that a node stands for.

    Raises:
        ConfigError: there is none: the configuration is that of an earlier run.
    """
    argument = dataset["argument"]
    if argument not in objects:
        raise ConfigError(
            f"data.{argument} was an object of {dataset['object']}, given to the"
            f" trainer as {argument.partition('.')[0]}=..., and a configuration alone"
            " does not rebuild it: run the script or notebook that gave it, or name"
            f" its class by dataset: {{_target_: {dataset['object']}, ...}}"
        )
    return objects[argument]


def _refuse_others(argument: str, value: Any) -> None:
    found = f"found {argument}={value!r:.60}, of the type {type(value).__name__}"
    if isinstance(value, (str, type)) or not (
        is_dataset(value) or isinstance(value, Iterable)
    ):
        raise ConfigError(
            f"{found}; give a torch dataset, or a loader of batches (images, labels)"
        )
    spent = type(value).__module__ == "builtins" and hasattr(value, "__next__")
    if spent and not argument.startswith("train"):
        raise ConfigError(
            f"{found}, an iterator, which yields its batches once, and a split is read"
            " again at each evaluation; give a loader, or a list of the batches"
        )
    if "." in argument and not is_dataset(value):
        raise ConfigError(f"{found}; of several by name give the datasets")


def _node(node: Any, value: Any, argument: str) -> dict[str, Any]:
    """Return a loader node with an object for its dataset."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    dataset = {"object": kind, "argument": argument}
    if not is_dataset(value):
        return {"dataset": dataset}
    kept = OmegaConf.to_container(node) if OmegaConf.is_config(node) else {}
    ops = kept.get("dataset", {}).get("image_transform")
    more = {} if ops is None else {"image_transform": ops}
    return {**kept, "dataset": {**dataset, **more}}
