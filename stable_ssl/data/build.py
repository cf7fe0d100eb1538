"""From the group `data` to loaders: which dataset, which views, which batch size."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader, Dataset, IterableDataset

from stable_ssl import distributed, seeding
from stable_ssl.config import TRAINING
from stable_ssl.data.augment import build_ops
from stable_ssl.data.check import check_alike
from stable_ssl.data.combined import Combined
from stable_ssl.data.datasets import Images, build_dataset, held_in_memory
from stable_ssl.data.loader import Loader
from stable_ssl.objects import build_object, find_object
from stable_ssl.schema import ConfigError, nearest

LOADER_KEYS = sorted(
    {"dataset", *inspect.signature(DataLoader.__init__).parameters}
    - {"self", "batch_sampler", "generator", "worker_init_fn"}
)
SPLITS = ("train", "val", "test", "bank")


def named_nodes(data: Any) -> Iterator[tuple[str, str | None, Any]]:
    """Yield (split, name, loader node) of all that the group `data` asks for.

    A split is one node {dataset: ...}, whose name is None, or several by name, of
    which a null one is off.

    Raises:
        ConfigError: a split that is neither.
    """
    for split in SPLITS:
        node = data[split]
        if not node:
            continue
        if not isinstance(node, (Mapping, DictConfig)):
            raise ConfigError(
                f"data.{split}={node} is no loader; write data.{split}.dataset.name=..."
            )
        if "dataset" in node:
            yield split, None, node
            continue
        for name, one in node.items():
            if one is None:
                continue
            if not isinstance(one, (Mapping, DictConfig)) or "dataset" not in one:
                raise ConfigError(
                    f"data.{split}.{name}={one}: a loader node needs dataset: {{name:"
                    f" ...}}{nearest(str(name), LOADER_KEYS)}"
                )
            yield split, str(name), one


def build_loaders(config: DictConfig, device: torch.device) -> dict[str, Any]:
    """Build the loaders that a config names: train (to fit), val, test and bank.

    Several train loaders become one `Combined`; several of val are the splits
    `val_<name>`, and so for test. The bank, unless named, is the train split seen as in
    evaluation. What the config leaves to the data is written into it:
    `data.num_classes` and the backbone's `in_channels`.

    Raises:
        ConfigError: no train data to fit, or what `build_loader` refuses.
    """
    data = config.data
    nodes: dict[str, dict[str | None, Any]] = {}
    for split, name, node in named_nodes(data):
        nodes.setdefault(split, {})[name] = node
    if config.mode in TRAINING and "train" not in nodes:
        raise ConfigError(f"mode={config.mode} needs data.train; e.g. data=digits")
    train = nodes.get("train", {})
    if train:
        main = labelled_name(data, list(train))
        if "bank" not in nodes:
            seen = [n for s in ("val", "test") for n in nodes.get(s, {}).values()]
            seen = seen[0].dataset.get("image_transform") if seen else None
            bank = {**train[main].dataset, "image_transform": seen}
            nodes["bank"] = {None: {"dataset": bank}}
        if config.mode not in TRAINING:
            del nodes["train"]
    if config.mode == "predict":
        nodes = _to_predict(data, nodes)

    images: dict[str, Images] = {}  # the bank's are often those of the train split

    def build(split: str, name: str | None, node: Any) -> Loader:
        seed = config.hardware.seed
        if split == "train" and name is not None:  # views differ between the loaders
            seed = int(seeding.fold_in(seed, zlib.crc32(name.encode())))
        return build_loader(
            node,
            data,
            train=split == "train",
            seed=seed,
            device=device,
            channels_last=config.hardware.channels_last,
            held=images,
        )

    loaders: dict[str, Any] = {}
    for split, some in nodes.items():
        built = {name: build(split, name, node) for name, node in some.items()}
        if split == "train":
            loaders[split] = Combined(built) if None not in built else built[None]
        else:
            for name, loader in built.items():
                loaders[split if name is None else f"{split}_{name}"] = loader
    if not loaders:
        raise ConfigError("the group data names no dataset; e.g. data=digits")
    some = next(iter(loaders.values()))
    if isinstance(some, Combined):
        some = some.loaders[labelled_name(data, list(train))]
    stated = [some, *(loaders[s] for s in loaders if s != "train")]
    stated = [loader.num_classes for loader in stated if loader.num_classes]
    data.num_classes = data.num_classes or next(iter(stated), None)
    backbone = config.model.get("backbone")
    backbone = {"name": backbone} if isinstance(backbone, str) else backbone
    if backbone and "in_channels" not in backbone:
        config.model.backbone = {**backbone, "in_channels": some.channels}
    check_alike(loaders, labelled_name(data, list(train)) if train else None)
    return loaders


def _to_predict(
    data: Any, nodes: Mapping[str, Mapping[str | None, Any]]
) -> dict[str, dict[str | None, Any]]:
    """Return the node that `data.predict` asks for, and one that states the classes.

    The bank does, which is the train split unless named, and nothing where
    `data.num_classes` is set: no other data than the predicted need then be there.

    Raises:
        ConfigError: no such split, or no loader node.
    """
    asked = data.predict
    if isinstance(asked, (Mapping, DictConfig)) and "dataset" in asked:
        node = asked
    else:
        named = {"train": nodes["bank"][None]} if "bank" in nodes else {}
        for split, some in nodes.items():
            for name, one in some.items():
                named[split if name is None else f"{split}_{name}"] = one
        if asked not in list(named):
            raise ConfigError(
                f"data.predict={asked} is not a split{nearest(str(asked), list(named))}"
                f" (there are: {', '.join(named)}); or give a loader node, {{dataset:"
                " {name: image_folder, root: ..., labelled: false}}"
            )
        node = named[asked]
    states = {} if data.num_classes or "bank" not in nodes else {"bank": nodes["bank"]}
    return {**states, "predict": {None: node}}


def labelled_name(data: Any, names: Sequence[str | None]) -> str | None:
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
    data: Any,
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
        held: images in memory, by what was read, to use and to add to.

    Raises:
        ConfigError: unknown keys, wrong values, fewer samples than a batch, missing
            data.
    """
    options = dict(node)
    if unknown := [k for k in options if k not in LOADER_KEYS]:
        raise ConfigError(
            f"a loader node takes no {unknown[0]}{nearest(unknown[0], LOADER_KEYS)};"
            " several loaders beside the one of a recipe below need `override data:"
            " null` under its defaults"
        )
    spec = options.pop("dataset", None)
    if not spec:
        raise ConfigError("a loader node needs dataset: {name: ...}; it has none")
    ranks = distributed.world_size()
    batch_size = data.batch_size or (data.batch_size_per_gpu or 0) * ranks or None
    if not train and data.eval_batch_size:
        batch_size = data.eval_batch_size
    options = {"batch_size": batch_size, "num_workers": data.num_workers, **options}
    batch_size = options.pop("batch_size")
    if batch_size is None:
        raise ConfigError("set data.batch_size (all processes) or batch_size_per_gpu")
    _check_options(batch_size, options)
    views = build_views(spec.get("image_transform"))
    held = {} if held is None else held
    source = repr({k: v for k, v in spec.items() if k != "image_transform"})
    dataset = held.get(source)
    if dataset is None:
        dataset = build_dataset(spec, data.root, data.download)
        dataset = held_in_memory(dataset, data.in_memory, data.on_error == "skip")
        if isinstance(dataset, Images):
            held[source] = dataset
    for key in ("sampler", "collate_fn"):
        if options.get(key) is not None:
            options[key] = _built(key, options[key], dataset)
    drop_last = options.get("drop_last", train)
    if train and not drop_last and isinstance(dataset, IterableDataset):
        raise ConfigError(
            "an iterable dataset goes on from pass to pass in training, where no batch"
            " is incomplete; remove drop_last: false"
        )
    chosen = dataset if options.get("sampler") is None else options["sampler"]
    if hasattr(chosen, "__len__"):
        _check_size(len(chosen), batch_size, train)
        if ranks > 1:
            _check_shares(node, len(chosen), batch_size, ranks, train)
    return Loader(
        dataset,
        views,
        batch_size=batch_size,
        seed=seed,
        device=device,
        shuffle=options.pop("shuffle", train),
        drop_last=options.pop("drop_last", train),
        channels_last=channels_last,
        on_error="replace" if train and data.on_error == "skip" else data.on_error,
        compile=data.compile,
        rank=distributed.rank(),
        world_size=ranks,
        **options,
    )


def _check_options(batch_size: Any, options: Mapping[str, Any]) -> None:
    """Refuse values that torch's DataLoader would refuse late or not at all."""
    numbers = {"batch_size": (batch_size, 1), "num_workers": (None, 0)}
    numbers |= {"prefetch_factor": (None, 1), "timeout": (None, 0)}
    for key, (value, low) in numbers.items():
        value = options.get(key) if value is None else value
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= low):
            raise ConfigError(
                f"{key}={value} of a loader node: use an integer from {low} on"
            )
    switches = ("shuffle", "drop_last", "pin_memory", "persistent_workers", "in_order")
    for key in switches:
        if not isinstance(options.get(key, False), bool):
            raise ConfigError(
                f"{key}={options[key]} of a loader node: use true or false"
            )
    if options.get("in_order") is False:
        raise ConfigError(
            "in_order=false of a loader node: batches would come as they are ready, and"
            " no run could be repeated; leave it out"
        )


def _check_size(samples: int, batch_size: int, train: bool) -> None:
    """Refuse data without a sample, or to train on without a whole batch."""
    if not samples:
        raise ConfigError(
            "a loader node's dataset has no samples; mend it, or set the split to null"
        )
    if train and samples < batch_size:
        raise ConfigError(
            f"data.batch_size={batch_size}, but the train split has {samples} samples;"
            " use a smaller batch"
        )


def _check_shares(
    node: Mapping[str, Any], samples: int, batch_size: int, ranks: int, train: bool
) -> None:
    """Refuse what several processes cannot share so that together they are as one."""
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
    if train and rest % ranks and not node.get("drop_last", True):
        raise ConfigError(
            f"drop_last=false leaves a last batch of {rest}, which is not divisible by"
            f" {ranks} processes; set it to true"
        )


def _built(key: str, spec: Any, dataset: Dataset) -> Any:
    """Build a sampler or collate_fn from {_target_: ...}; an object stays as it is."""
    at = f"{key} of a loader node"
    if isinstance(spec, str):
        raise ConfigError(f"{key}={spec} of a loader node: write {{_target_: ...}}")
    if not isinstance(spec, (Mapping, DictConfig)):
        return spec
    accepted = inspect.signature(find_object(spec.get("_target_"), at)).parameters
    takes = [name for name in ("data_source", "dataset") if name in accepted]
    return build_object(spec, at, **{name: dataset for name in takes})


def build_views(transform: Any) -> list[list[Any]]:
    """Read an image_transform: a list of ops is one view, a list of lists several.

    {_target_: ...} stands for the list of ops that it returns, or for an op.

    Raises:
        ConfigError: an unknown op, a wrong argument.
    """
    if OmegaConf.is_config(transform):
        transform = OmegaConf.to_container(transform, resolve=True)
    transform = _expanded(transform or [])
    if not isinstance(transform, list):
        transform = [transform]
    several = any(isinstance(op, list) for op in transform)
    try:
        return [build_ops(ops) for ops in (transform if several else [transform])]
    except ValueError as error:
        raise ConfigError(f"image_transform: {error}") from error


def _expanded(transform: Any) -> Any:
    """Replace {_target_: ...} by the list of ops it returns, where it does."""
    if isinstance(transform, Sequence) and not isinstance(transform, str):
        return [_expanded(op) for op in transform]
    if isinstance(transform, Mapping) and "_target_" in transform:
        made = build_object(transform, "image_transform")
        return list(made) if isinstance(made, (list, tuple)) else made
    return transform
