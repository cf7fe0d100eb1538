"""From the group `data` to loaders: which dataset, which views, which batch size."""

from __future__ import annotations

import inspect
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader, Dataset, IterableDataset

from stable_ssl import distributed, seeding
from stable_ssl.data.augment import External, Op, build_ops
from stable_ssl.data.check import check_alike, check_examples
from stable_ssl.data.combined import Combined, named_parts, split_name
from stable_ssl.data.datasets import Images, build_dataset, held_in_memory
from stable_ssl.data.decode import Decode
from stable_ssl.data.fields import build_fields
from stable_ssl.data.loader import Loader
from stable_ssl.instantiate import accepted_by, build_object, find_object
from stable_ssl.schema import ConfigError, key, nearest, refuse_no_mapping

TRAINING = ("fit", "profile_data", "profile_model")  # modes that need train data
READING = ("fields", "range", "layout", "decode")  # keys of a loader, or of all
LOADER_KEYS = sorted(
    {"dataset", *READING, *inspect.signature(DataLoader.__init__).parameters}
    - {"self", "batch_sampler", "generator", "worker_init_fn"}
)
SPLITS = ("train", "val", "test", "bank")
Nodes = dict[str, dict[str | None, Any]]  # loader nodes by split and name


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
    range: list[float] | None = (
        None  # of pixels that are neither uint8, uint16, nor 0..1
    )
    layout: str | None = key(None, choices=("chw", "hwc"))  # where sizes do not tell
    decode: bool = True  # false: what the dataset returns is no image
    compile: bool = False  # torch.compile the batched augmentation
    labelled: str | None = None  # of several train loaders, whose labels probes use
    transforms: dict[str, Any] = field(default_factory=dict)  # free pool of op lists
    train: Any = None  # loader node {dataset: {name, ...}, DataLoader keys}, or several
    val: Any = None  # by name; null turns one off
    test: Any = None
    bank: Any = None  # kNN neighbours; null: the train split, with val's ops
    predict: Any = "test"  # of mode=predict: a split by name, or a loader node

    def __post_init__(self) -> None:
        """Refuse plain values where a mapping is needed."""
        for split in SPLITS:
            loader = getattr(self, split)
            refuse_no_mapping(f"data.{split}", loader, "{dataset: {name: digits}}")
            dataset = (loader or {}).get("dataset")
            refuse_no_mapping(f"data.{split}.dataset", dataset, "{name: digits}")


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


def build_loaders(
    config: DictConfig, device: torch.device
) -> dict[str, Loader | Combined]:
    """Build the loaders that a config names: train (to fit), val, test and bank.

    Several train loaders become one `Combined`; several of val are the splits
    `val_<name>`, and so for test. The bank, unless named, is the train split with the
    ops of evaluation. What the config leaves to the data is written into it:
    `data.num_classes` and the backbone's `in_channels`.

    Raises:
        ConfigError: no train data to fit, or what `build_loader` refuses.
    """
    data = config.data
    nodes: Nodes = {}
    for split, name, node in named_nodes(data):
        nodes.setdefault(split, {})[name] = node
    if config.mode in TRAINING and "train" not in nodes:
        raise ConfigError(f"mode={config.mode} needs data.train; e.g. data=digits")
    labelled = None
    if "train" in nodes:
        labelled = labelled_name(data, list(nodes["train"]))
        if "bank" not in nodes:
            evaluated = nodes.get("val") or nodes.get("test") or {}
            node = next(iter(evaluated.values()), None)
            transform = node.dataset.get("image_transform") if node else None
            trained = nodes["train"][labelled]
            dataset = {**trained.dataset, "image_transform": transform}
            read = {name: trained[name] for name in READING if name in trained}
            nodes["bank"] = {None: {"dataset": dataset, **read}}
        if config.mode not in TRAINING:
            del nodes["train"]
    if config.mode == "predict":
        nodes = _predict_nodes(data, nodes)

    held: dict[str, Images] = {}  # by dataset node: train and bank often have one
    loaders: dict[str, Loader | Combined] = {}
    for split, named in nodes.items():
        parts = {}
        for name, node in named.items():
            seed = config.hardware.seed
            if split == "train" and name is not None:  # views differ between them
                seed = int(seeding.fold_in(seed, zlib.crc32(name.encode())))
            parts[name] = build_loader(
                node,
                data,
                train=split == "train",
                seed=seed,
                device=device,
                channels_last=config.hardware.channels_last,
                held=held,
            )
        if split == "train" and None not in parts:
            loaders[split] = Combined(parts)
        else:
            loaders |= {split_name(split, name): part for name, part in parts.items()}
    if not loaders:
        raise ConfigError("the group data names no dataset; e.g. data=digits")
    check_examples(loaders)
    first = named_parts(next(iter(loaders.values())), labelled)[labelled]
    others = [loader for split, loader in loaders.items() if split != "train"]
    if data.num_classes is None:
        known = (loader.num_classes for loader in (first, *others))
        data.num_classes = next(filter(None, known), None)
    backbone = config.model.get("backbone")
    backbone = {"name": backbone} if isinstance(backbone, str) else backbone
    channels = first.channels
    if channels and isinstance(backbone, Mapping) and "in_channels" not in backbone:
        config.model.backbone = {**backbone, "in_channels": channels}
    check_alike(loaders, labelled)
    return loaders


def _predict_nodes(data: DictConfig, nodes: Nodes) -> Nodes:
    """Return the node that `data.predict` asks for, and the bank for its classes.

    Without `data.num_classes` the bank, which is the train split unless named, tells
    the number of classes; with it no data but the predicted has to exist.

    Raises:
        ConfigError: no such split, or no loader node.
    """
    node = data.predict
    if not isinstance(node, Mapping) or "dataset" not in node:
        splits = {"train": nodes["bank"][None]} if "bank" in nodes else {}
        for split, named in nodes.items():
            splits |= {split_name(split, name): node for name, node in named.items()}
        if data.predict not in list(splits):
            raise ConfigError(
                f"data.predict={data.predict} is not a split"
                f"{nearest(str(data.predict), list(splits))}"
                f" (there are: {', '.join(splits)}); or give a loader node, {{dataset:"
                " {name: image_folder, root: ..., labelled: false}}"
            )
        node = splits[data.predict]
    bank = {} if data.num_classes or "bank" not in nodes else {"bank": nodes["bank"]}
    return {**bank, "predict": {None: node}}


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


def build_loader(
    node: Mapping[str, Any],
    data: DictConfig,
    *,
    train: bool,
    seed: int,
    device: torch.device,
    channels_last: bool = False,
    held: dict[str, Images] | None = None,
) -> Loader:
    """Build the loader of a node {dataset: {...}, any DataLoader key}.

    Args:
        node: its own keys win over those of the group `data`.
        data: the group `data`: root, batch sizes, num_workers, download, ...
        train: shuffle, drop the incomplete last batch, use the train batch size.
        seed: of order and views.
        device: of the batches.
        channels_last: memory format of the views.
        held: images in memory by dataset node, to use and to add to.

    Raises:
        ConfigError: unknown keys, wrong values, fewer samples than a batch, missing
            data.
    """
    options = {"num_workers": data.num_workers, "shuffle": train, "drop_last": train}
    options |= {name: data[name] for name in READING}
    options |= node
    if unknown := [key for key in options if key not in LOADER_KEYS]:
        raise ConfigError(
            f"a loader node takes no {unknown[0]}{nearest(unknown[0], LOADER_KEYS)};"
            " several loaders beside the one of a recipe below need `override data:"
            " null` under its defaults"
        )
    spec = options.pop("dataset", None)
    if not spec:
        raise ConfigError("a loader node needs dataset: {name: ...}; it has none")
    ranks = distributed.world_size()
    if "batch_size" not in options:
        per_gpu = (data.batch_size_per_gpu or 0) * ranks or None
        eval_size = None if train else data.eval_batch_size
        options["batch_size"] = eval_size or data.batch_size or per_gpu
    if options["batch_size"] is None:
        raise ConfigError("set data.batch_size (all processes) or batch_size_per_gpu")
    _check_options(options)
    views = build_views(spec.get("image_transform"))
    fields, *how = (options.pop(name) for name in READING)
    fields, decode = build_fields(fields), _build_decode(*how)
    held = {} if held is None else held
    spec = {k: v for k, v in spec.items() if k != "image_transform"}
    source = repr((spec, decode))
    dataset = held.get(source)
    if dataset is None:
        dataset = build_dataset(spec, data.root, data.download)
        _check_kind(dataset)
        skip = data.on_error == "skip"
        dataset = held_in_memory(dataset, data.in_memory, skip, decode)
        if isinstance(dataset, Images):
            held[source] = dataset
    for name in ("sampler", "collate_fn"):
        options[name] = _build_option(name, options.get(name), dataset)
    if train and not options["drop_last"] and isinstance(dataset, IterableDataset):
        raise ConfigError(
            "an iterable dataset goes on from pass to pass in training, where no batch"
            " is incomplete; remove drop_last: false"
        )
    samples = dataset if options["sampler"] is None else options["sampler"]
    if hasattr(samples, "__len__"):
        _check_size(len(samples), options, train, ranks)
    return Loader(
        dataset,
        views,
        seed=seed,
        device=device,
        channels_last=channels_last,
        on_error="replace" if train and data.on_error == "skip" else data.on_error,
        compile=data.compile,
        decode=decode,
        fields=fields,
        rank=distributed.rank(),
        world_size=ranks,
        **options,
    )


def _build_decode(pair: Any, layout: Any, decode: Any) -> Decode:
    """Build `Decode` from keys of the group `data`, or of a loader node."""
    numbers = isinstance(pair, Sequence) and all(type(x) in (int, float) for x in pair)
    if pair is not None and not numbers:
        raise ConfigError(f"data.range={pair}: write [low, high] of the pixels")
    if layout not in (None, "chw", "hwc"):
        raise ConfigError(f"layout={layout} of a loader node: use chw or hwc")
    if not isinstance(decode, bool):
        raise ConfigError(f"decode={decode} of a loader node: use true or false")
    return Decode(None if pair is None else tuple(pair), layout, decode)


def _check_kind(dataset: Any) -> None:
    """Refuse what is neither a map-style nor an iterable dataset."""
    needed = ("__len__", "__getitem__")
    if isinstance(dataset, IterableDataset):
        needed = ("__iter__",)
    if not all(hasattr(dataset, method) for method in needed):
        raise ConfigError(
            f"the dataset of a loader node is a {type(dataset).__name__}, which has no"
            f" {' and '.join(needed)}; name a torch dataset"
        )


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse values that torch's DataLoader would refuse late or not at all."""
    minimums = {"batch_size": 1, "num_workers": 0, "prefetch_factor": 1, "timeout": 0}
    for name, low in minimums.items():
        value = options.get(name)
        if value is not None and not (type(value) is int and value >= low):
            raise ConfigError(
                f"{name}={value} of a loader node: use an integer from {low} on"
            )
    distributed.refuse_too_many("num_workers", options.get("num_workers"))
    switches = ("shuffle", "drop_last", "pin_memory", "persistent_workers", "in_order")
    for name in switches:
        if not isinstance(options.get(name, False), bool):
            raise ConfigError(
                f"{name}={options[name]} of a loader node: use true or false"
            )
    if options.get("in_order") is False:
        raise ConfigError(
            "in_order=false of a loader node: batches would come as they are ready, and"
            " no run could be repeated; leave it out"
        )


def _check_size(
    samples: int, options: Mapping[str, Any], train: bool, ranks: int
) -> None:
    """Refuse too few samples, and batches that the processes cannot share evenly."""
    batch_size = options["batch_size"]
    if not samples:
        raise ConfigError(
            "a loader node's dataset has no samples; mend it, or set the split to null"
        )
    if train and samples < batch_size:
        raise ConfigError(
            f"data.batch_size={batch_size}, but the train split has {samples} samples;"
            " use a smaller batch"
        )
    if samples < ranks:
        raise ConfigError(f"{samples} samples for {ranks} processes; use fewer of them")
    if train and batch_size % ranks:
        raise ConfigError(
            f"data.batch_size={batch_size} is not divisible by {ranks} processes; use a"
            f" multiple of {ranks}"
        )
    if batch_size < ranks:
        raise ConfigError(
            f"a batch of {batch_size} for {ranks} processes leaves some without a"
            f" sample; set data.eval_batch_size to {ranks} or more"
        )
    rest = samples % batch_size
    if train and rest % ranks and not options["drop_last"]:
        raise ConfigError(
            f"drop_last=false leaves a last batch of {rest}, which is not divisible by"
            f" {ranks} processes; set it to true"
        )


def _build_option(name: str, node: Any, dataset: Dataset) -> Any:
    """Build a sampler or collate_fn from {_target_: ...}; an object stays as it is."""
    where = f"{name} of a loader node"
    if isinstance(node, str):
        raise ConfigError(f"{name}={node} of a loader node: write {{_target_: ...}}")
    if isinstance(node, Mapping):
        accepted = accepted_by(find_object(node.get("_target_"), where))
        names = {"data_source", "dataset"} & accepted.keys()
        built = build_object(node, where, **dict.fromkeys(names, dataset))
    else:
        built = node
    needed = {"sampler": ("__iter__", "__len__"), "collate_fn": ("__call__",)}[name]
    if built is not None and not all(hasattr(built, method) for method in needed):
        raise ConfigError(
            f"{where}: found a {type(built).__name__}, which has no"
            f" {' and '.join(needed)}; name a class, or a function with _partial_: true"
        )
    return built


def build_views(transform: Any) -> list[list[Op | External]]:
    """Read an image_transform: a list of ops is one view, a list of lists several.

    {_target_: ...} stands for the list of ops that it returns, or for an op.

    Raises:
        ConfigError: an unknown op, a wrong argument.
    """
    if OmegaConf.is_config(transform):
        transform = OmegaConf.to_container(transform, resolve=True)
    transform = _build_targets(transform or [])
    if not isinstance(transform, list):
        transform = [transform]
    several = any(isinstance(op, list) for op in transform)
    try:
        return [build_ops(ops) for ops in (transform if several else [transform])]
    except ValueError as error:
        raise ConfigError(f"image_transform: {error}") from None


def _build_targets(transform: Any) -> Any:
    """Replace each {_target_: ...} by the op or the list of ops that it returns."""
    if isinstance(transform, Sequence) and not isinstance(transform, str):
        return [_build_targets(op) for op in transform]
    if isinstance(transform, Mapping) and "_target_" in transform:
        built = build_object(transform, "image_transform")
        return list(built) if isinstance(built, (list, tuple)) else built
    return transform
