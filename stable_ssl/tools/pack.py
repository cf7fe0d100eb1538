"""The command `stable-ssl pack`: a dataset as tar shards."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_ssl.config import load_config, recipes
from stable_ssl.data.datasets import build_dataset
from stable_ssl.data.fields import build_fields
from stable_ssl.data.images.decode import Decode
from stable_ssl.data.nodes import READING, named_nodes, split_name
from stable_ssl.data.pack import Packing, write_shards
from stable_ssl.data.sources.folder import SUBSETS, ImageFolder, folders_beside
from stable_ssl.data.sources.source import Source
from stable_ssl.data.sources.tar import Tar
from stable_ssl.schema import ConfigError, nearest


def add_arguments(parser: ArgumentParser) -> None:
    """Describe `stable-ssl pack`."""
    parser.description = (
        "Write the images of a folder, their bytes unchanged, or the datasets of a\n"
        "recipe, as tar shards that the dataset `tar` and webdataset read. Who is\n"
        "killed goes on when called again."
    )
    parser.epilog = (
        "examples:\n"
        "  stable-ssl pack /data/imagenet /data/shards --shards 147\n"
        "  stable-ssl pack supervised /data/shards --shards 4 data=cifar10"
    )
    option = parser.add_argument
    option("source", metavar="FOLDER_OR_RECIPE", help="images by class, or a recipe")
    option("out", metavar="OUT", type=Path, help="a folder for the shards")
    option("overrides", nargs="*", metavar="KEY=VALUE", help="of the recipe")
    option("--shards", type=int, required=True, help="how many, of each split")
    option("--splits", nargs="+", help="which of them; default: all that there are")
    option("--unlabelled", action="store_true", help="a folder has no classes")
    option("--seed", type=int, help="of a random order; default: that of the dataset")
    option("--verify", action="store_true", help="compare the shards that are there")


def run(args: Namespace) -> int:
    """Write all shards, and index them; return the exit code."""
    for name, packing in _packings(args):
        for path, written in write_shards(packing, args.out, args.verify):
            said = "written" if written else "verified" if args.verify else "there"
            print(f"{path}: {said}, {path.stat().st_size / 2**20:,.1f} MiB", flush=True)
        node, channels = {"shards": packing.pattern}, "all"  # those of arrays stay
        if packing.keeps_files:
            channels = packing.dataset.channels
        node |= {"channels": channels} if channels else {}
        _check(Tar(str(args.out), **node), packing)
        keys = "".join(f", {key}: {value!r}" for key, value in node.items())
        print(f"{name}: {len(packing.dataset):,} samples")
        print(f"  dataset: {{name: tar, root: {args.out.absolute()}{keys}}}")
    return 0


def _check(written: Tar, packing: Packing) -> None:
    """Refuse shards that are not read as what they were made of."""
    labels = getattr(packing.dataset, "labels", None)
    order = [row for shard in range(packing.shards) for row in packing.rows(shard)]
    whole = isinstance(labels, Tensor) and not labels.is_floating_point()
    same = len(written) == len(order)
    if same and isinstance(packing.dataset, Source) and whole and labels.ndim == 1:
        same = torch.equal(written.labels, labels[order].long())
    if not same:
        raise ConfigError(
            f"{packing.pattern} has not the samples and labels that were written;"
            " delete the shards, and pack again"
        )


def _packings(args: Namespace) -> Iterator[tuple[str, Packing]]:
    """Yield what is to be packed, by split."""
    datasets = _of_folder(args) if Path(args.source).is_dir() else _of_recipe(args)
    found = dict(datasets)
    for name in args.splits or found:
        if name not in found:
            raise ConfigError(
                f"--splits {name}: no such split of {args.source}"
                f"{nearest(name, list(found))} (there are: {', '.join(found)})"
            )
        dataset, fields, decode = found[name]()
        yield name, Packing(dataset, fields, decode, name, args.shards, args.seed)


def _of_folder(args: Namespace) -> Iterator[tuple[str, Any]]:
    """Yield the subset folders of a folder, or all of it, and how to open each."""
    if args.overrides:
        raise ConfigError(
            f"{args.overrides[0]} is for a recipe, and {args.source} is a folder; write"
            " a recipe whose data.train names it"
        )
    subsets = [name for name in SUBSETS if Path(args.source, name).is_dir()]
    if subsets and args.splits:  # may name other folders beside those
        folders = (n for n in args.splits if Path(args.source, n).is_dir())
        subsets = [*dict.fromkeys([*subsets, *folders])]
    elif subsets:
        if beside := folders_beside(Path(args.source), subsets):
            raise ConfigError(
                f"{args.source} has {', '.join(subsets)}, which is what subsets are"
                f" called, and beside that {beside[0]}; set --splits to those that are"
                f" subsets, such as --splits {' '.join(subsets)}, or, if they are the"
                " classes, pack a recipe whose class_to_idx numbers them"
            )

    def opened(subset: str | None) -> tuple[Any, ...]:
        folder = ImageFolder(args.source, subset, labelled=not args.unlabelled)
        return folder, build_fields(None), Decode()

    for name in subsets or ["data"]:
        subset = name if subsets else None
        yield name, lambda subset=subset: opened(subset)


def _of_recipe(args: Namespace) -> Iterator[tuple[str, Any]]:
    """Yield the splits of a recipe, and how to open each."""
    if args.source not in recipes():
        raise ConfigError(
            f"{args.source} is neither a folder nor a recipe"
            f"{nearest(args.source, list(recipes()))}"
        )
    data = load_config(args.source, args.overrides).data

    def opened(node: Any) -> tuple[Any, ...]:
        spec = {k: v for k, v in node["dataset"].items() if k != "image_transform"}
        dataset = build_dataset(spec, data.root, data.download)
        fields, *how = (node.get(name, data[name]) for name in READING)
        return dataset, build_fields(fields), Decode(*how)

    for split, name, node in named_nodes(data):
        if split != "bank":
            yield split_name(split, name), lambda node=node: opened(node)
