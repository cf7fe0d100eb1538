"""The group `data` of a configuration, and the loader nodes in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stable_ssl.schema import (
    ConfigError,
    check_limits,
    key,
    nearest,
    refuse_no_mapping,
)
from stable_ssl.value_types import check_types

TRAINING = ("fit", "profile_data", "profile_model")  # modes that need train data
SPLITS = ("train", "val", "test", "bank")
EVALUATED = {"validate": "val", "test": "test"}  # the split of a mode
READING = ("fields", "range", "layout", "decode")  # keys of a loader, or of all


@dataclass
class Data:
    """What is trained and evaluated on."""

    root: str = key("${oc.env:DATA_ROOT,./data}", path=True)  # of relative roots
    num_classes: int | None = key(None, low=1)  # null: ask the dataset
    batch_size: int | None = key(None, low=1)  # samples a step, over all processes
    batch_size_per_gpu: int | None = key(  # or samples a process
        None, low=1, instead_of="batch_size"
    )
    eval_batch_size: int | None = key(None, low=1)  # null: as in training
    num_workers: int = key(0, low=0)  # processes that decode; 0: in the main process
    download: bool = False  # fetch a missing torchvision dataset
    on_error: str = key("raise", choices=("raise", "skip"))  # an unreadable image
    in_memory: float = key(  # GiB; hold image folders of one size up to this
        2.0, low=0, high=math.inf
    )
    fields: dict[str, Any] | None = None  # {image, label}: names of a sample's entries
    range: list[float] | None = key(  # of pixels neither uint8, uint16 nor 0..1
        None, length=2
    )
    layout: str | None = key(None, choices=("chw", "hwc"))  # where sizes do not tell
    decode: bool = True  # false: what the dataset returns is no image
    compile: bool = False  # torch.compile the batched augmentation
    labelled: str | None = None  # of several train loaders, whose labels probes use
    transforms: dict[str, Any] = field(default_factory=dict)  # free pool of op lists
    train: Any = None  # loader node {dataset: {name, ...}, DataLoader keys}, or several
    val: Any = None  # by name; null turns one off
    test: Any = None  # evaluated at the end, and before the first step
    bank: Any = None  # kNN neighbours; null: the train split, with val's ops
    bank_size: int | None = key(50_000, low=1)  # of them, drawn by the seed; null: all
    predict: Any = "test"  # of mode=predict: a split by name, or a loader node

    def __post_init__(self) -> None:
        """Refuse plain values where a mapping is needed."""
        for split in SPLITS:
            loader = getattr(self, split)
            refuse_no_mapping(f"data.{split}", loader, "{dataset: {name: digits}}")
            dataset = (loader or {}).get("dataset")
            refuse_no_mapping(f"data.{split}.dataset", dataset, "{name: digits}")


@dataclass
class TorchKeys:
    """Plain keys of a loader node that torch's DataLoader takes."""

    batch_size: int = key(1, low=1)  # over all processes
    num_workers: int = key(0, low=0)  # processes that decode
    shuffle: bool = False  # anew each epoch; of train: true
    drop_last: bool = False  # leave out a batch that is not full; of train: true
    pin_memory: bool = False  # copy batches to a GPU without waiting
    persistent_workers: bool = False  # keep them between epochs
    prefetch_factor: int | None = key(None, low=1)  # batches a worker is ahead; null: 2
    timeout: float = key(0.0, low=0)  # in seconds
    pin_memory_device: str = ""  # empty: the current one
    in_order: bool = True  # false is refused: such a run could not be repeated
    multiprocessing_context: Any = None  # fork, forkserver or spawn


@dataclass
class LoaderNode(TorchKeys):
    """What is read and how; `fields`, `range`, `layout`, `decode` as in `data`, too."""

    dataset: dict[str, Any] = key(  # {name, image_transform, what the dataset takes}
        None, required=True
    )
    sampler: Any = None  # {_target_: ...}: which samples, in which order; null: all
    collate_fn: Any = None  # {_target_: ...}: makes a batch; null: stacks what it can


PLAIN = tuple(f.name for f in fields(TorchKeys))
LOADER_KEYS = sorted({*READING, *(f.name for f in fields(LoaderNode))})


def check_node(node: Mapping[str, Any], at: str) -> None:
    """Refuse unknown keys of a loader node, and wrong values of its plain ones.

    Raises:
        ConfigError: names the key, its value and what is expected.
    """
    if unknown := [name for name in node if name not in LOADER_KEYS]:
        raise ConfigError(
            f"{at}: a loader node takes no {unknown[0]}"
            f"{nearest(unknown[0], LOADER_KEYS)}; several loaders beside the one of a"
            " recipe below need `override data: null` under its defaults"
        )
    for schema, names in ((Data, READING), (TorchKeys, PLAIN)):
        given = OmegaConf.create({name: node[name] for name in names if name in node})
        group = OmegaConf.structured(schema)
        check_types(group, given, f"{at}.")
        check_limits(OmegaConf.merge(group, given), f"{at}.")
    if node.get("in_order") is False:
        raise ConfigError(
            f"{at}.in_order=false: batches would come as they are ready, and no run"
            " could be repeated; leave it out"
        )


def named_nodes(data: DictConfig) -> Iterator[tuple[str, str | None, Any]]:
    """Yield (split, name, loader node) of all that the group `data` asks for.

    A split is one node {dataset: ...}, whose name is None, or several by name, of
    which a null one is off.

    Raises:
        ConfigError: a split that is neither.
    """
    for split in SPLITS:
        nodes = data[split]
        if not nodes:
            continue
        if not isinstance(nodes, Mapping):
            raise ConfigError(
                f"data.{split}={nodes} is no loader; write"
                f" data.{split}.dataset.name=..."
            )
        if "dataset" in nodes:
            yield split, None, nodes
            continue
        for name, node in nodes.items():
            if node is None:
                continue
            if not isinstance(node, Mapping) or "dataset" not in node:
                raise ConfigError(
                    f"data.{split}.{name}={node}: a loader node needs dataset: {{name:"
                    f" ...}}{nearest(str(name), LOADER_KEYS)}"
                )
            yield split, str(name), node


def split_name(split: str, name: str | None) -> str:
    """Return the name of a part of a split: `val`, or `val_<name>` of several."""
    return f"{split}_{name}" if name else split


def labelled_name(data: DictConfig, names: Sequence[str | None]) -> str | None:
    """Return which of the train loaders has the labels that probe and kNN use.

    Raises:
        ConfigError: `data.labelled` names none of them.
    """
    if data.labelled is None:
        return names[0]
    if data.labelled not in names:
        named = [name for name in names if name is not None]
        raise ConfigError(
            f"data.labelled={data.labelled} is not a train loader"
            f"{nearest(data.labelled, named)} (there are: {', '.join(named) or 'none'}"
            " with a name)"
        )
    return data.labelled
