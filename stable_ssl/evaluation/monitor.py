"""The monitored metric: refused where it is sure never to come; when it ends a run."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatch
from typing import Any

from stable_ssl.evaluation.evaluator import Evaluator
from stable_ssl.evaluation.predictions import Predictions
from stable_ssl.evaluation.suite import BUILT_IN, NO_BANK, RESERVED
from stable_ssl.schema import ConfigError, nearest


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

    def __call__(self, metrics: Mapping[str, float], waits: bool) -> str | None:
        """Look at a validation; say why the training is to end, None if it is not.

        Args:
            metrics: that it measured.
            waits: whether an evaluator was not due; its metric may come later.

        Raises:
            ConfigError: the metric is not reported.
        """
        if self.monitor not in metrics and waits:
            return None
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


def check_monitor(
    log: Any,
    splits: Iterable[str],
    num_classes: int | None,
    evaluators: Mapping[str, Evaluator],
) -> None:
    """Refuse a monitored metric that a training is sure not to report.

    Hooks may log what they like: a metric that resembles none of those measured here
    is left to the first validation.

    Args:
        log: group `log`: monitor, early_stopping and eval are read.
        splits: of the data, by name.
        num_classes: of the labels; None without labels.
        evaluators: of the run, by name.

    Raises:
        ConfigError: no such split, the split that is seen at the end only, a metric
            that is switched off or misspelt.
    """
    splits = {name.partition("/")[0] for name in splits} - {"bank"} | {"train"}
    monitored = {"log.monitor": log.monitor}
    if log.early_stopping.patience:
        watched = log.early_stopping.monitor
        monitored["log.early_stopping.monitor"] = watched or log.monitor
    for at, monitor in monitored.items():
        if monitor is None:
            continue
        asked = f"{at}={monitor}"
        split, _, metric = str(monitor).rpartition("/")
        split = split.partition("/")[0]
        _check_split(asked, split, splits)
        if split == "train" and at != "log.monitor":
            raise ConfigError(
                f"{asked} is no metric of a validation, after which a training may end"
                " early; name one of val"
            )
        of_val = [e for e in evaluators.values() if "val" in e.splits]
        reported = {"skipped", *(name for e in of_val for name in e.metrics)}
        if num_classes and num_classes <= 5:
            reported -= {"acc5", "knn_acc5"}
        if split == "train" or (split and metric in reported):
            continue
        reason = _why_off(metric, log.eval, num_classes, evaluators) if split else ""
        if reason:
            raise ConfigError(f"{asked} is never reported: {reason}, or {at}=null")
        kinds = [kind for kind in (Predictions, *BUILT_IN) if "val" in kind.splits]
        names = reported | {name for kind in kinds for name in kind.names}
        names -= {metric} if split else set()  # a hook may log what we do not
        if close := get_close_matches(metric, names, n=1, cutoff=0.8):
            raise ConfigError(
                f"{asked} is never reported; did you mean 'val/{close[0]}'?"
                " A metric that a hook logs needs a name less like it"
            )


def _check_split(asked: str, split: str, splits: Collection[str]) -> None:
    """Refuse a metric of a split that is not there, or seen at the end only."""
    at = asked.partition("=")[0]
    if split and split not in splits:
        raise ConfigError(
            f"{asked}, but the data has no {split}"
            f"{nearest(split, sorted(splits))} (it has {', '.join(sorted(splits))});"
            f" set data.{split}, another monitor, or {at}=null"
        )
    if split.partition("_")[0] == "test":
        raise ConfigError(
            f"{asked} ranks no checkpoint: test is evaluated at the end"
            f" only; monitor a metric of val, or set {at}=null"
        )


def _why_off(
    metric: str,
    config: Any,
    num_classes: int | None,
    evaluators: Mapping[str, Evaluator],
) -> str:
    """Return why a metric that val does not report is off, if it is of one we know."""
    for name, evaluator in evaluators.items():
        if metric in evaluator.metrics and name not in RESERVED:
            asked = f"log.eval.{name} is asked about {' and '.join(evaluator.splits)}"
            return f"{asked} only; add val to its splits"
    for kind in (Predictions, *BUILT_IN):
        if not any(fnmatch(metric, name) for name in kind.names):
            continue
        node = getattr(config, kind.key, True)
        if "val" not in kind.splits:
            return "its classifiers are fitted for test only; monitor val/knn_acc1"
        if not node:
            value = {False: "false", None: "null"}[node]
            return f"log.eval.{kind.key}={value} turns it off; change that"
        if kind.needs_labels and not num_classes:
            return "the data states no classes; set data.num_classes"
        if kind.needs_bank and kind.__name__.lower() not in evaluators:
            return f"{NO_BANK}; give one"
        if kind is Predictions and "predictions" not in evaluators:
            return "nothing predicts; set log.eval.linear for a probe"
        few = metric.endswith("acc5") and num_classes <= 5
        if few or (metric == "knn_acc5" and config.knn.k < 5):
            return "top 5 of so few classes or neighbours is no measure; use top 1"
    return ""
