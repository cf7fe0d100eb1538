"""The monitored metric: refused before training where it is sure never to come."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from stable_ssl.config import ConfigError, nearest

SPECTRUM = ("rankme", "alpha_req", "feature_std", "uniformity")
AT_TEST = ("linear_", "logistic_", "few")  # classifiers fitted for a test split


def check_monitor(log: Any, splits: Iterable[str], num_classes: int | None) -> None:
    """Refuse a `log.monitor` that a training cannot report.

    Hooks may log any metric of a split under any name, so one that resembles no metric
    measured here is left to the first validation.

    Args:
        log: group `log`: monitor, metrics and eval are read.
        splits: of the data, by name.
        num_classes: of the labels; None without labels.

    Raises:
        ConfigError: no such split, the split that is seen at the end only, a metric
            that is switched off or misspelt.
    """
    monitor = log.monitor
    if monitor is None:
        return
    split, _, metric = str(monitor).rpartition("/")
    split = split.partition("/")[0]
    splits = {name.partition("/")[0] for name in splits} - {"bank"} | {"train"}
    if split and split not in splits:
        raise ConfigError(
            f"log.monitor={monitor}, but the data has no {split}"
            f"{nearest(split, sorted(splits))} (it has {', '.join(sorted(splits))});"
            f" set data.{split}, another monitor, or log.monitor=null"
        )
    if split.partition("_")[0] == "test":
        raise ConfigError(
            f"log.monitor={monitor} ranks no checkpoint: test is evaluated at the end"
            " only; monitor a metric of val, or set log.monitor=null"
        )
    if split == "train" or metric in log.metrics:
        return
    measured = ["acc1", "acc5", "knn_acc1", "knn_acc5", *SPECTRUM]
    if metric in measured and split:
        _check_switched_on(monitor, metric, log.eval, num_classes)
    elif metric.startswith(AT_TEST) and metric.endswith("acc1"):
        raise ConfigError(
            f"log.monitor={monitor} is never reported: its classifiers are fitted for"
            " test splits only; monitor val/knn_acc1, or set log.monitor=null"
        )
    elif close := get_close_matches(metric, measured, n=1, cutoff=0.8):
        raise ConfigError(
            f"log.monitor={monitor} is never reported; did you mean 'val/{close[0]}'?"
            " A metric that a hook logs needs a name less like it"
        )


def _check_switched_on(
    monitor: str, metric: str, config: Any, num_classes: int | None
) -> None:
    """Refuse a metric that the config or the data turns off."""
    if metric in SPECTRUM:
        if config.spectrum:
            return
        reason = "log.eval.spectrum=false turns it off; set it to true"
    elif not num_classes:
        reason = "the data states no classes; set data.num_classes"
    elif metric.startswith("knn") and config.knn is None:
        reason = "log.eval.knn=null turns it off; remove that"
    elif metric.endswith("5") and num_classes <= 5:
        reason = f"top 5 of {num_classes} classes is no measure; use top 1"
    else:
        return
    raise ConfigError(
        f"log.monitor={monitor} is never reported: {reason}, or log.monitor=null"
    )
