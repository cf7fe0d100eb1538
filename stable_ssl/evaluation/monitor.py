"""The monitored metric: refused where it is sure never to come; when it ends a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from stable_ssl.schema import ConfigError, nearest

SPECTRUM = ("rankme", "alpha_req", "feature_std", "uniformity")
AT_TEST = ("linear_", "logistic_", "few")  # classifiers fitted for a test split


class Patience:
    """Count validations without a better value, for `log.early_stopping`.

    Args:
        log: group `log`, plain: early_stopping, monitor and monitor_mode are read.

    Raises:
        ConfigError: nothing is monitored.
    """

    def __init__(self, log: Any):
        self.config = log.early_stopping
        self.monitor = self.config.monitor or log.monitor
        self.sign = 1 if (self.config.mode or log.monitor_mode) == "max" else -1
        self.best, self.waited = -math.inf, 0
        if self.monitor is None:
            raise ConfigError(
                "log.early_stopping watches log.monitor, which is null; set one of"
                " them, or log.early_stopping.monitor"
            )

    def __call__(self, metrics: Mapping[str, float]) -> str | None:
        """Look at a validation; say why the training is to end, None if it is not.

        Raises:
            ConfigError: the metric is not reported.
        """
        if self.monitor not in metrics:
            raise ConfigError(
                f"log.early_stopping.monitor={self.monitor} is never reported"
                f"{nearest(self.monitor, list(metrics))}"
                f" (reported: {', '.join(metrics)})"
            )
        value = self.sign * metrics[self.monitor]
        if value > self.best + self.config.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if self.waited < self.config.patience:
            return None
        return (
            f"{self.monitor} has not been better than {self.sign * self.best:g} for"
            f" {self.waited} validations"
        )

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed run needs."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore what `state_dict` returned."""
        self.best, self.waited = state["best"], state["waited"]


def check_monitor(log: Any, splits: Iterable[str], num_classes: int | None) -> None:
    """Refuse a monitored metric that a training cannot report.

    Hooks may log any metric of a split under any name, so one that resembles no metric
    measured here is left to the first validation.

    Args:
        log: group `log`: monitor, early_stopping, metrics and eval are read.
        splits: of the data, by name.
        num_classes: of the labels; None without labels.

    Raises:
        ConfigError: no such split, the split that is seen at the end only, a metric
            that is switched off or misspelt.
    """
    splits = {name.partition("/")[0] for name in splits} - {"bank"} | {"train"}
    monitored = {"log.monitor": log.monitor}
    if log.early_stopping.patience:
        monitored["log.early_stopping.monitor"] = log.early_stopping.monitor
    for at, monitor in monitored.items():
        if monitor is not None:
            _check_one(at, str(monitor), log, splits, num_classes)


def _check_one(
    at: str, monitor: str, log: Any, splits: set[str], num_classes: int | None
) -> None:
    """Refuse one metric; `at` is the key that names it."""
    split, _, metric = monitor.rpartition("/")
    split = split.partition("/")[0]
    if split and split not in splits:
        raise ConfigError(
            f"{at}={monitor}, but the data has no {split}"
            f"{nearest(split, sorted(splits))} (it has {', '.join(sorted(splits))});"
            f" set data.{split}, another monitor, or {at}=null"
        )
    if split.partition("_")[0] == "test":
        raise ConfigError(
            f"{at}={monitor} ranks no checkpoint: test is evaluated at the end"
            f" only; monitor a metric of val, or set {at}=null"
        )
    if split == "train" or metric in log.metrics:
        return
    measured = ["acc1", "acc5", "knn_acc1", "knn_acc5", *SPECTRUM]
    if metric in measured and split:
        _check_switched_on(f"{at}={monitor}", metric, log.eval, num_classes)
    elif metric.startswith(AT_TEST) and metric.endswith("acc1"):
        raise ConfigError(
            f"{at}={monitor} is never reported: its classifiers are fitted for"
            f" test splits only; monitor val/knn_acc1, or set {at}=null"
        )
    elif close := get_close_matches(metric, measured, n=1, cutoff=0.8):
        raise ConfigError(
            f"{at}={monitor} is never reported; did you mean 'val/{close[0]}'?"
            " A metric that a hook logs needs a name less like it"
        )


def _check_switched_on(
    asked: str, metric: str, config: Any, num_classes: int | None
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
        f"{asked} is never reported: {reason}, or {asked.partition('=')[0]}=null"
    )
