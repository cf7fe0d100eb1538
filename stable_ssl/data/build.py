"""From the group `data` to loaders: which dataset, which views, which batch size."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import Dataset, IterableDataset

from stable_ssl import distributed, seeding
from stable_ssl.augment import External, Op, build_ops
from stable_ssl.augment.registry import check_range
from stable_ssl.batch import first_view
from stable_ssl.data.check import (
    check_alike,
    check_examples,
    check_sizes,
    warn_of_compiling,
)
from stable_ssl.data.combined import Combined, named_parts
from stable_ssl.data.datasets import (
    Source,
    arguments_of,
    build_dataset,
    held_in_memory,
)
from stable_ssl.data.fields import build_fields
from stable_ssl.data.images.decode import Decode
from stable_ssl.data.leakage import warn_of_leakage
from stable_ssl.data.loading.loader import Loader
from stable_ssl.data.nodes import (
    READING,
    TRAINING,
    check_node,
    labelled_name,
    named_nodes,
    split_name,
)
from stable_ssl.data.objects import Objects, found_object, is_dataset
from stable_ssl.data.rank_aware import refuse_rank_aware, refuse_rank_aware_sampler
from stable_ssl.data.sources.source import known_classes
from stable_ssl.instantiate import accepted_by, build_object, find_object
from stable_ssl.schema import ConfigError, nearest

Nodes = dict[str, dict[str | None, Any]]  # loader nodes by split and name


def build_loaders(
    config: DictConfig, device: torch.device, objects: Objects | None = None
) -> dict[str, Any]:
    """Build the loaders that a config names: train (to fit), val, test and bank.

    Several train loaders become one `Combined`; several of val are the splits
    `val_<name>`, and so for test. The bank, unless named, is the train split with the
    ops of evaluation. What the config leaves to the data is written into it:
    `data.num_classes`, and the `in_channels` of the backbone and of a frozen teacher.

    Args:
        config: of all groups.
        device: of the batches.
        objects: that nodes stand for, as of `objects.put_into`; a loader among them is
            passed on as it is.

    Raises:
        ConfigError: no train data to fit, or what `build_loader` refuses.
    """
    data, nodes, labelled = config.data, _nodes(config), None
    objects = objects or {}
    if data.compile and device.type == "cpu" and distributed.is_main():
        warn_of_compiling()
    if "train" in nodes:
        labelled = labelled_name(data, list(nodes["train"]))
        if "bank" not in nodes and is_dataset(objects.get("train", [])):
            nodes["bank"] = {None: _bank(nodes, labelled)}
        if config.mode not in TRAINING:
            del nodes["train"]
    if config.mode == "predict":
        nodes = _predict_nodes(data, nodes)
    sources: dict[str, Source] = {}
    loaders: dict[str, Any] = {}
    built_of: dict[str, str] = {}  # arguments of the datasets
    for split, named in nodes.items():
        parts = {}
        for name, node in named.items():
            if not is_dataset(found := objects.get(split, [])):
                parts[name] = found
                continue
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
                most=data.bank_size if split == "bank" else None,
                sources=sources,
                objects=objects,
                at=f"data.{split}" if name is None else f"data.{split}.{name}",
            )
            given = arguments_of(node["dataset"], data.root)
            built_of[split_name(split, name)] = repr(sorted(given.items()))
        if split == "train" and None not in parts:
            loaders[split] = Combined(parts)
        else:
            loaders |= {split_name(split, name): part for name, part in parts.items()}
    own = {s: x for s, x in loaders.items() if isinstance(x, (Loader, Combined))}
    check_examples(own)
    first = named_parts(next(iter(loaders.values())), labelled)[labelled]
    others = [loader for split, loader in loaders.items() if split != "train"]
    if data.num_classes is None:
        known = (known_classes(getattr(x, "dataset", None)) for x in (first, *others))
        data.num_classes = next(filter(None, known), None)
    for key in ("backbone", "teacher"):
        network = config.model.get(key)
        network = {"name": network} if isinstance(network, str) else network
        if isinstance(network, Mapping) and "in_channels" not in network:
            if channels := _channels(first):
                config.model[key] = {**network, "in_channels": channels}
    check_alike(loaders, labelled)
    warn_of_leakage(loaders, built_of)
    return loaders


def _channels(loader: Iterable[Any]) -> int | None:
    """Return the channels of a loader's views; of another library's, of a first batch.

    An iterator, which begins only once, is not asked.
    """
    if isinstance(loader, Loader):
        return loader.channels
    if iter(loader) is loader:
        return None
    batch = next(iter(loader), None)
    x = first_view(batch[0]) if isinstance(batch, (list, tuple)) else None
    return x.shape[1] if isinstance(x, torch.Tensor) and x.ndim > 2 else None


def _nodes(config: DictConfig) -> Nodes:
    """Return the loader nodes of a config; refuse one without those of its mode."""
    nodes: Nodes = {}
    for split, name, node in named_nodes(config.data):
        nodes.setdefault(split, {})[name] = node
    if config.mode in TRAINING and "train" not in nodes:
        raise ConfigError(f"mode={config.mode} needs data.train; e.g. data=digits")
    if not nodes and not isinstance(config.data.predict, Mapping):
        raise ConfigError("the group data names no dataset; e.g. data=digits")
    return nodes


def _bank(nodes: Nodes, labelled: str | None) -> dict[str, Any]:
    """Return the node of the train split with the ops of evaluation."""
    evaluated = next(iter((nodes.get("val") or nodes.get("test") or {}).values()), {})
    transform = evaluated.get("dataset", {}).get("image_transform")
    trained = nodes["train"][labelled]
    read = {name: trained[name] for name in READING if name in trained}
    return {"dataset": {**trained["dataset"], "image_transform": transform}, **read}


def _predict_nodes(data: DictConfig, nodes: Nodes) -> Nodes:
    """Return the node that `data.predict` asks for, and the bank for its classes.

    Without `data.num_classes` the bank, which is the train split unless named, tells
    the number of classes; with it no data but the predicted has to exist.

    Raises:
        ConfigError: no such split, or no loader node.
    """
    bank = nodes.get("bank", {})
    node = data.predict
    if not isinstance(node, Mapping) or "dataset" not in node:
        splits = {"train": bank[None]} if bank else {}
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
    classes = {"bank": bank} if bank and not data.num_classes else {}
    return {**classes, "predict": {None: node}}


def build_loader(
    node: Mapping[str, Any],
    data: DictConfig,
    *,
    train: bool,
    seed: int,
    device: torch.device,
    channels_last: bool = False,
    most: int | None = None,
    sources: dict[str, Source] | None = None,
    objects: Objects | None = None,
    at: str = "data",
) -> Loader:
    """Build the loader of a node {dataset: {...}, any DataLoader key}.

    Args:
        node: its own keys win over those of the group `data`.
        data: the group `data`: root, batch sizes, num_workers, download, ...
        train: shuffle, drop the incomplete last batch, use the train batch size.
        seed: of order and views.
        device: of the batches.
        channels_last: memory format of the views.
        most: samples to read, drawn by the seed where there are more; None: all.
        sources: by dataset node, to use and to add to: train and bank often have one.
        objects: that a dataset node may stand for.
        at: the node's path, for messages.

    Raises:
        ConfigError: unknown keys, wrong values, fewer samples than a batch, missing
            data.
    """
    options = _options(node, data, train, at)
    spec = dict(options.pop("dataset"))
    views = build_views(spec.pop("image_transform", None))
    fields, *how = (options.pop(name) for name in READING)
    fields, decode = build_fields(fields), Decode(*how)
    known = {} if sources is None else sources
    dataset = _dataset(spec, data, decode, known, objects or {})
    for name in ("sampler", "collate_fn"):
        options[name] = _build_option(name, options.get(name), dataset)
    streams = isinstance(dataset, IterableDataset)
    large = most is not None and not streams and len(dataset) > most
    if large and options["sampler"] is None:
        drawn = seeding.permutation(len(dataset), seed)[:most]
        options["sampler"] = drawn.sort().values.tolist()
    if train and not options["drop_last"] and streams:
        raise ConfigError(
            "an iterable dataset goes on from pass to pass in training, where no batch"
            " is incomplete; remove drop_last: false"
        )
    loader = Loader(
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
        world_size=distributed.world_size(),
        **options,
    )
    check_sizes(loader.sampler, train=train)
    return loader


def _options(
    node: Mapping[str, Any], data: DictConfig, train: bool, at: str
) -> dict[str, Any]:
    """Return all keys of a loader node, with the defaults of the group `data`."""
    options = {"num_workers": data.num_workers, "shuffle": train, "drop_last": train}
    options |= {name: data[name] for name in READING} | dict(node)
    if "batch_size" not in options:
        per_gpu = (data.batch_size_per_gpu or 0) * distributed.world_size() or None
        eval_size = None if train else data.eval_batch_size
        options["batch_size"] = eval_size or data.batch_size or per_gpu
    if options["batch_size"] is None:
        raise ConfigError("set data.batch_size (all processes) or batch_size_per_gpu")
    check_node(options, at)
    distributed.refuse_too_many("num_workers", options["num_workers"])
    if not options.get("dataset"):
        raise ConfigError(f"{at}: a loader node needs dataset: {{name: ...}}")
    return options


def _dataset(
    spec: Mapping[str, Any],
    data: DictConfig,
    decode: Decode,
    sources: dict[str, Source],
    objects: Objects,
) -> Dataset:
    """Build a dataset, held in memory where it fits; or return it from `sources`.

    Raises:
        ConfigError: it is neither a map-style nor an iterable dataset.
    """
    if (known := repr((spec, decode))) in sources:
        return sources[known]
    if "object" in spec:
        dataset = found_object(spec, objects)
    else:
        dataset = build_dataset(spec, data.root, data.download)
    refuse_rank_aware(type(dataset))
    streams = isinstance(dataset, IterableDataset)
    needed = ("__iter__",) if streams else ("__len__", "__getitem__")
    if not all(hasattr(dataset, method) for method in needed):
        raise ConfigError(
            f"the dataset of a loader node is a {type(dataset).__name__}, which has no"
            f" {' and '.join(needed)}; name a torch dataset"
        )
    dataset = held_in_memory(dataset, data.in_memory, data.on_error == "skip", decode)
    if isinstance(dataset, Source):
        sources[known] = dataset
    return dataset


def _build_option(name: str, node: Any, dataset: Dataset) -> Any:
    """Build a sampler or collate_fn from {_target_: ...}; an object stays as it is."""
    where = f"{name} of a loader node"
    if isinstance(node, str):
        raise ConfigError(f"{name}={node} of a loader node: write {{_target_: ...}}")
    if isinstance(node, Mapping):
        target = find_object(node.get("_target_"), where)
        if name == "sampler":
            refuse_rank_aware_sampler(target)
        accepted = accepted_by(target)
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
    if name == "sampler":  # one that a function returned, or an object
        refuse_rank_aware_sampler(built)
    return built


def build_views(transform: Any) -> list[list[Op | External]]:
    """Read an image_transform: a list of ops is one view, a list of lists several.

    {_target_: ...} stands for the list of ops that it returns, or for an op.

    Raises:
        ConfigError: an unknown op, a wrong argument, an op for images in [0, 1] after
            one that leaves that range.
    """
    if OmegaConf.is_config(transform):
        transform = OmegaConf.to_container(transform, resolve=True)
    transform = _build_targets(transform or [])
    if not isinstance(transform, list):
        transform = [transform]
    several = any(isinstance(op, list) for op in transform)
    try:
        views = [build_ops(ops) for ops in (transform if several else [transform])]
        for ops in views:
            check_range(ops)
        return views
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
