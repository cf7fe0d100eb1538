"""Names of metrics and of keys as a reader knows them."""

from __future__ import annotations

import re
from typing import Any

from stable_ssl.report.reader import Run

FEW = re.compile(r"few([\d.]+)(pct)?_")
ACCURACY = re.compile(r"acc\d*$")
NONE = "-"  # a cell without a value


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


def describe(metric: str, run: Run) -> str:
    """Return a metric of a split in words: "kNN (k=20)", "linear probe (online)"."""
    name = metric.partition("/")[2]
    stem, _, end = name.rpartition("acc")
    few = FEW.fullmatch(stem)
    if not is_accuracy(metric):
        return name
    if few and few[2]:
        words = f"linear, {few[1]} % of the labels"
    elif few:
        words = f"linear, {few[1]} label{'s' * (few[1] != '1')} a class"
    elif stem == "knn_":
        words = f"kNN (k={run.get('log.eval.knn.k', '?')})"
    elif stem == "linear_":
        words = "linear (offline)"
    elif stem == "logistic_":
        words = "logistic regression (offline)"
    elif stem == "":
        words = "linear probe (online)" if probed(run) else "accuracy"
    else:
        words = stem.strip("_")
    return words if end in ("", "1") else f"{words}, top {end}"


def probed(run: Run) -> bool:
    """Return whether the accuracy of a split is the online probe's."""
    return run.get("log.eval.linear") is not None


def order(metric: str) -> tuple:
    """Return the place of a metric in a table: kNN, accuracy, few labels, others."""
    name = metric.rpartition("/")[2]
    few = FEW.match(name)
    places = ("knn_acc", "acc", "few", "linear_acc", "logistic_acc")
    place = next((i for i, start in enumerate(places) if name.startswith(start)), 9)
    return place, (few[2] or "", float(few[1])) if few else (), name
