"""The monitored metric: refused where it is sure never to come; when it ends a run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from types import CodeType
from typing import Any

from stable_ssl.evaluation.evaluator import Evaluator
from stable_ssl.evaluation.predictions import Predictions
from stable_ssl.evaluation.suite import BUILT_IN, RESERVED
from stable_ssl.schema import ConfigError, key, nearest


@dataclass
class EarlyStopping:
    """End a training whose validations do not get better any more."""

    patience: int | None = key(None, low=1)  # validations; null: off
    monitor: str | None = None  # a metric; null: log.monitor
    min_delta: float = key(0.0, low=0)  # by which a value must be better
    mode: str | None = key(None, choices=("max", "min"))  # null: log.monitor_mode


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


def idle(log: Any, epochs: float, total_steps: int) -> Iterator[str]:
    """Say which keys of a group `log` do nothing in a training.

    Args:
        log: plain; checkpoint, early_stopping, eval and monitor are read.
        epochs: of the training.
        total_steps: optimizer steps of it.
    """
    top_k, patience = log.checkpoint.top_k, log.early_stopping.patience
    if top_k > 1 and log.monitor is None:
        yield (
            f"log.checkpoint.top_k={top_k} keeps the best by log.monitor, which is"
            " null: none is kept"
        )
    by_epoch, by_step = log.eval.every_n_epochs, log.eval.every_n_steps
    validations = 1 + (epochs // by_epoch if by_epoch else 0)
    validations += total_steps // by_step if by_step else 0
    if patience and patience >= validations:
        yield (
            f"log.early_stopping.patience={patience} is not reached in the"
            f" {validations:.0f} validations, or fewer, of the training"
        )


def logs_itself(cls: type, base: type) -> bool:
    """Return whether a class, or one between it and `base`, may log what it likes.

    It may where one of its functions reads an attribute `log`, be it another's.
    """

    def reads(code: CodeType) -> bool:
        inner = [c for c in code.co_consts if isinstance(c, CodeType)]
        return "log" in code.co_names or any(map(reads, inner))

    for owner in cls.__mro__[: cls.__mro__.index(base)]:
        for value in vars(owner).values():
            function = getattr(value, "__func__", getattr(value, "fget", value))
            code = getattr(inspect.unwrap(function), "__code__", None)
            if isinstance(code, CodeType) and reads(code):
                return True
    return False


def check_monitor(
    log: Any,
    splits: Iterable[str],
    num_classes: int | None,
    evaluators: Mapping[str, Evaluator],
    others: bool,
) -> None:
    """Refuse a monitored metric that a training cannot report.

    Args:
        log: group `log`: monitor, early_stopping, metrics and eval are read.
        splits: of the data, by name.
        num_classes: of the labels; None without labels.
        evaluators: of the run, by name. One that states no metric may yield any.
        others: whether hooks may log more; a metric that resembles none of those
            measured here is then left to the first validation.

    Raises:
        ConfigError: no such split, the split that is seen at the end only, a metric
            that is switched off or misspelt, or that nobody measures.
    """
    splits = {name.partition("/")[0] for name in splits} - {"bank"} | {"train"}
    others |= any(not e.metrics for n, e in evaluators.items() if n not in RESERVED)
    watched = log.early_stopping.monitor
    monitored = {"log.monitor": log.monitor}
    if log.early_stopping.patience:
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
        if split != "train" and metric not in {*log.metrics, "skipped"}:
            predicts = "predictions" in evaluators
            _check_turned_on(asked, split, metric, log.eval, num_classes, predicts)
            _check_stated(asked, split, metric, evaluators, others)


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


def _check_stated(
    asked: str,
    split: str,
    metric: str,
    evaluators: Mapping[str, Evaluator],
    others: bool,
) -> None:
    """Refuse a metric that no evaluator of val states, if nobody else may log it."""
    of_val = [e for e in evaluators.values() if "val" in e.splits]
    stated = [name for e in of_val for name in e.metrics]
    if split and metric in stated:
        return
    for name, evaluator in evaluators.items():
        if metric in evaluator.metrics and evaluator not in of_val:
            raise ConfigError(
                f"{asked} is never reported: log.eval.{name} is asked about"
                f" {' and '.join(evaluator.splits)} only; add val to its splits"
            )
    kinds = [kind for kind in (Predictions, *BUILT_IN) if "val" in kind.splits]
    names = {*stated, *(name for kind in kinds for name in kind.names)}
    names -= {metric} if split else set()
    if close := get_close_matches(metric, names, n=1, cutoff=0.8):
        raise ConfigError(
            f"{asked} is never reported; did you mean 'val/{close[0]}'?"
            " A metric that a hook logs needs a name less like it"
        )
    if not others:
        raise ConfigError(
            f"{asked} is never reported{nearest(metric, stated)} (reported:"
            f" {', '.join(f'val/{name}' for name in stated)})"
        )


def _check_turned_on(
    asked: str,
    split: str,
    metric: str,
    config: Any,
    num_classes: int | None,
    predicts: bool,
) -> None:
    """Refuse a metric of the library's own that the config or the data turns off."""
    for evaluator in (Predictions, *BUILT_IN):
        named = any(fnmatch(metric, name) for name in evaluator.names)
        if not named or not (split or "val" not in evaluator.splits):
            continue
        key, node = evaluator.key, getattr(config, evaluator.key, True)
        if "val" not in evaluator.splits:
            reason = (
                "its classifiers are fitted for test splits only; monitor val/knn_acc1"
            )
        elif not node:
            off = "null turns it off; remove that"
            if node is False:
                off = "false turns it off; set it to true"
            reason = f"log.eval.{key}={off}"
        elif evaluator.needs_labels and not num_classes:
            reason = "the data states no classes; set data.num_classes"
        elif metric.endswith("acc5") and num_classes <= 5:
            reason = f"top 5 of {num_classes} classes is no measure; use top 1"
        elif metric == "knn_acc5" and config.knn.k < 5:
            reason = f"top 5 of {config.knn.k} neighbours is no measure; use top 1"
        elif evaluator is Predictions and not predicts:
            reason = "nothing predicts; set log.eval.linear for a probe"
        else:
            continue
        raise ConfigError(
            f"{asked} is never reported: {reason}, or {asked.partition('=')[0]}=null"
        )
