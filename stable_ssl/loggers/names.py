"""Names of metrics and of keys as a reader knows them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Metric:
    """What a reader is told of a figure: stated by its evaluator, kept in run folders.

    Figures whose names end in acc or acc<k> are shares, and shown in per cent.
    """

    label: str  # of an axis or a column: "kNN accuracy"
    title: str = ""  # of a row in a summary: "kNN (k=20)"; the label where empty
    protocol: str = ""  # how to measure it again; {bank}: what it is compared with
    order: float = 90  # its place in a table; equals are sorted by their names


def stated_metrics(folder: Path) -> dict[str, Metric]:
    """Return what a run folder states of its metrics, by name; nothing unreadable."""
    try:
        stated = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        metrics = {name: Metric(**facts) for name, facts in stated.items()}
        texts = [t for m in metrics.values() for t in (m.label, m.title, m.protocol)]
        orders = [metric.order for metric in metrics.values()]
        whole = all(isinstance(text, str) for text in texts)
        return metrics if whole and all(map(math.isfinite, orders)) else {}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


STATED: dict[str, Metric] = {}  # by name, of the run folders read so far

ACCURACY = re.compile(r"acc\d*$")
NONE = "-"  # a cell without a value
SHORT = {  # what a last name alone would not tell
    "model.name": "method",
    "data.train.dataset.name": "dataset",
    "optim.lr": "learning rate",
}
LOGGED = {  # what the library logs that no evaluator states
    "train/loss": "training loss",
    "train/lr": "learning rate",
    "train/weight_decay": "weight decay",
    "train/grad_norm": "gradient norm",
    "train/skipped": "unreadable samples a step",
    "train/probe_loss": "loss of the online probe",
    "train/supervised": "supervised loss",
    "train/consistency": "consistency loss",
    "train/pseudo_label": "pseudo-label loss",
    "train/mask_rate": "share of confident pseudo-labels",
    "train/invariance": "invariance loss",
    "train/sigreg": "SIGReg loss",
    "train/class_loss": "loss of class tokens",
    "train/patch_loss": "loss of patches",
    "train/image_loss": "loss of images",
    "train/koleo": "KoLeo, spreading of class tokens",
    "train/visreg": "VISReg loss",
    "perf/images_per_s": "images a second",
    "perf/data_wait": "wait for data, share of time",
    "perf/memory_gib": "peak memory (GiB)",
}
OF_OPTIMIZERS = ("train/lr", "train/weight_decay", "train/grad_norm")  # <this>_<name>
SPELLED = {  # names in a config as their papers write them
    "barlow_twins": "Barlow Twins",
    "byol": "BYOL",
    "data2vec": "data2vec",
    "dcl": "DCL",
    "deepcluster_v2": "DeepCluster v2",
    "dino": "DINO",
    "dinov2": "DINOv2",
    "distillation": "distillation",
    "fixmatch": "FixMatch",
    "ibot": "iBOT",
    "ijepa": "I-JEPA",
    "lejepa": "LeJEPA",
    "mae": "MAE",
    "mean_teacher": "Mean Teacher",
    "mmcr": "MMCR",
    "moco_v2": "MoCo v2+",
    "moco_v3": "MoCo v3",
    "msn": "MSN",
    "multitask": "multi-task",
    "nnclr": "NNCLR",
    "ressl": "ReSSL",
    "simclr": "SimCLR",
    "simmim": "SimMIM",
    "simsiam": "SimSiam",
    "supcon": "SupCon",
    "swav": "SwAV",
    "tico": "TiCo",
    "vicreg": "VICReg",
    "visreg": "VISReg",
    "w_mse": "W-MSE",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "stl10": "STL-10",
    "svhn": "SVHN",
    "mnist": "MNIST",
    "imagenet": "ImageNet",
}
LOW = re.compile(r"(^|_)(loss|error|nll|mse|mae|rmse|ece|perplexity)$")
HIGH = re.compile(r"(^|_)(acc\d*|auroc|ap|map|f1|precision|recall|kappa)$")


def axis_label(name: str) -> str:
    """Return a metric or a key of the config as an axis or a table calls it.

    "val/knn_acc1" is "val kNN accuracy (%)", "optim.lr" is "learning rate",
    "model.backbone.name" is "backbone".
    """
    split, slash, metric = name.partition("/")
    if known := _logged(name):
        return known
    if slash:
        split = "training" if split == "train" else split
        label = STATED[metric].label if metric in STATED else _plain(metric)
        return f"{split} {label}{' (%)' * is_accuracy(metric)}"
    parts = name.removesuffix(".name").split(".")
    return SHORT.get(name, parts[-1].replace("_", " "))


def _logged(name: str) -> str | None:
    """Return what the library calls a metric of its own, None for another."""
    for figure in OF_OPTIMIZERS:
        if name.startswith(f"{figure}_"):
            return f"{LOGGED[figure]} of {name.removeprefix(f'{figure}_')}"
    return LOGGED.get(name)


def _plain(metric: str) -> str:
    """Return words for the name of a metric that nothing is stated of."""
    stem, accuracy, top = metric.rpartition("acc")
    if not is_accuracy(metric):
        return metric.replace("_", " ")
    top = f", top {top}" if top not in ("", "1") else ""
    return f"{stem.replace('_', ' ')}accuracy{top}"


def spelled(key: str, text: str) -> str:
    """Return a value of a key for print: "I-JEPA" for ijepa of model.name."""
    return SPELLED.get(text, text) if key.endswith(".name") else text


def is_number(text: str) -> bool:
    """Return whether a text reads as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def value_label(key: str, text: str) -> str:
    """Return a value that says of what it is: "temperature 0.5", "SimCLR"."""
    if text == NONE:
        return f"no {axis_label(key)}"
    plain = is_number(text) or text in ("True", "False")
    return f"{axis_label(key)} {text}" if plain else spelled(key, text)


def better(metric: str) -> str | None:
    """Return whether `high` or `low` values are good; None where a name tells not."""
    name = metric.rpartition("/")[2]
    return "low" if LOW.search(name) else "high" if HIGH.search(name) else None


def is_accuracy(metric: str) -> bool:
    """Return whether a metric is a share in [0, 1]: val/acc1, test/few2_acc1."""
    return ACCURACY.search(metric) is not None


def as_text(metric: str, value: Any, digits: int = 2) -> str:
    """Return a value for a reader: an accuracy in per cent, four digits of another."""
    if value is None:
        return NONE
    if not isinstance(value, int | float):
        return str(value)
    return f"{100 * value:.{digits}f} %" if is_accuracy(metric) else f"{value:.4g}"


def describe(metric: str, stated: Mapping[str, Metric]) -> str:
    """Return a metric of a split in words, as its run states by name: "kNN (k=20)".

    One of the user's own that is no accuracy is called as it is.
    """
    name = metric.partition("/")[2]
    if name in stated:
        return stated[name].title or stated[name].label
    return _logged(metric) or (_plain(name) if is_accuracy(name) else name)


def in_order(metrics: Iterable[str], splits: Sequence[str]) -> list[str]:
    """Return metrics by their split, the given ones first, and there by `order`."""
    ranks = {split: i for i, split in enumerate(splits)}

    def rank(metric: str) -> tuple:
        split = metric.partition("/")[0]
        return ranks.get(split, len(ranks)), split, order(metric)

    return sorted(metrics, key=rank)


def order(metric: str) -> tuple[float, str]:
    """Return a key to sort metrics by: as their evaluators state, then by name."""
    name = metric.rpartition("/")[2]
    return STATED[name].order if name in STATED else 90, name
