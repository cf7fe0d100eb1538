"""Names of metrics and of keys as a reader knows them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

FEW = re.compile(r"few([\d.]+)(pct)?_")
ACCURACY = re.compile(r"acc\d*$")
NONE = "-"  # a cell without a value
SHORT = {  # what a last name alone would not tell
    "model.name": "method",
    "data.train.dataset.name": "dataset",
    "optim.lr": "learning rate",
    "lr": "learning rate",
    "rankme": "RankMe",
    "alpha_req": "alpha-ReQ",
    "lidar": "LiDAR",
    "auroc": "AUROC",
    "ap": "average precision",
    "map": "mean average precision",
    "grad_norm": "gradient norm",
}
SPELLED = {  # names in a config as their papers write them
    "barlow_twins": "Barlow Twins",
    "byol": "BYOL",
    "dino": "DINO",
    "fixmatch": "FixMatch",
    "ijepa": "I-JEPA",
    "lejepa": "LeJEPA",
    "mae": "MAE",
    "mean_teacher": "Mean Teacher",
    "moco_v3": "MoCo v3",
    "multitask": "multi-task",
    "nnclr": "NNCLR",
    "simclr": "SimCLR",
    "simsiam": "SimSiam",
    "supcon": "SupCon",
    "swav": "SwAV",
    "vicreg": "VICReg",
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
    if slash and is_accuracy(metric):
        stem, _, top = metric.rpartition("acc")
        few = FEW.fullmatch(stem)
        kind = {"knn_": "kNN "}.get(stem, stem.replace("_", " "))
        text = f"accuracy, {_labels(few)}" if few else f"{kind}accuracy"
        return f"{split} {text}{f', top {top}' if top not in ('', '1') else ''} (%)"
    if slash:
        return f"{split} {SHORT.get(metric, metric.replace('_', ' '))}"
    parts = name.removesuffix(".name").split(".")
    return SHORT.get(name, parts[-1].replace("_", " "))


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


def describe(metric: str, run: Any) -> str:
    """Return a metric of a split in words: "kNN (k=20)", "linear probe (online)".

    Args:
        metric: "<split>/<name>".
        run: whose `get` returns the value of a dotted key of its config.
    """
    name = metric.partition("/")[2]
    stem, _, end = name.rpartition("acc")
    if not is_accuracy(metric):
        return name
    protocols = {
        "": "linear probe (online)" if probed(run) else "accuracy",
        "knn_": f"kNN (k={run.get('log.eval.knn.k', '?')})",
        "linear_": "linear (offline)",
        "logistic_": "logistic regression (offline)",
    }
    few = FEW.fullmatch(stem)
    text = f"linear, {_labels(few)}" if few else protocols.get(stem, stem.strip("_"))
    return text if end in ("", "1") else f"{text}, top {end}"


def _labels(few: re.Match[str]) -> str:
    """Return "10 % of the labels", "1 label a class"."""
    if few[2]:
        return f"{few[1]} % of the labels"
    return f"{few[1]} label{'s' * (few[1] != '1')} a class"


def probed(run: Any) -> bool:
    """Return whether the accuracy of a split is the online probe's."""
    return run.get("log.eval.linear") is not None


def in_order(metrics: Iterable[str], splits: Sequence[str]) -> list[str]:
    """Return metrics by their split, the given ones first, and there by `order`."""
    ranks = {split: i for i, split in enumerate(splits)}

    def rank(metric: str) -> tuple:
        split = metric.partition("/")[0]
        return ranks.get(split, len(ranks)), split, order(metric)

    return sorted(metrics, key=rank)


def order(metric: str) -> tuple:
    """Return a key to sort metrics by: kNN, accuracy, few labels, others."""
    name = metric.rpartition("/")[2]
    few = FEW.match(name)
    starts = ("knn_acc", "acc", "few", "linear_acc", "logistic_acc")
    rank = next((i for i, start in enumerate(starts) if name.startswith(start)), 9)
    return rank, (few[2] or "", float(few[1])) if few else (), name
