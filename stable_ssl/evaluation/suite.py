"""All evaluators of a run, on features that are made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from stable_ssl import distributed, seeding
from stable_ssl.data.batch import first_view
from stable_ssl.distributed import gather_batches
from stable_ssl.evaluation.collapse import collapse_warning
from stable_ssl.evaluation.custom import custom_metrics
from stable_ssl.evaluation.evaluator import (
    Encode,
    Evaluator,
    Labelled,
    OnlineEvaluator,
    Split,
)
from stable_ssl.evaluation.few_labels import FewLabels
from stable_ssl.evaluation.knn import Knn
from stable_ssl.evaluation.labels import check_labels
from stable_ssl.evaluation.linear import Linear
from stable_ssl.evaluation.logistic import Logistic
from stable_ssl.evaluation.predictions import Predictions
from stable_ssl.evaluation.probe import Probe
from stable_ssl.evaluation.spectrum import Spectrum
from stable_ssl.loggers.names import Metric
from stable_ssl.schema import ConfigError

BUILT_IN: tuple[type[Evaluator], ...] = (
    Knn,
    Probe,
    FewLabels,
    Linear,
    Logistic,
    Spectrum,
)


@contextmanager
def undisturbed(*modules: nn.Module) -> Iterator[None]:
    """Look without touching: eval mode, no gradient, all restored afterwards."""
    modes = [(child, child.training) for m in modules for child in m.modules()]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad(), seeding.preserve_rng():
            yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def encode_split(encode: Encode, loader: Any, limit: int | None = None) -> Labelled:
    """Encode every batch of a loader; the first view where it yields several.

    Args:
        encode: maps a view (N, C, H, W) to features (N, D).
        loader: yields (views, labels, ...).
        limit: batches to take; None takes all.

    Returns:
        Features (N, D) float32 and labels (N,) of all ranks, in the order of the
        split, on the device of the batches. Synchronises ranks.
    """
    features, labels = [], []
    for x, y, *_ in islice(loader, limit):
        features.append(encode(first_view(x)).float())
        labels.append(y)
    return gather_batches(features), gather_batches(labels)


class Suite:
    """What `log.eval` asks for, and what each evaluator needs, made once.

    During an evaluation a view is encoded once a batch, whoever asks: `encode` keeps
    what it encoded until the next one.

    Args:
        model: put in eval mode where features are encoded for their own sake.
        encode: maps a view (N, C, H, W) to features (N, D).
        autocast: returns the precision to encode in.
        log: group `log`: eval and metrics are read.
        mode: of the run; one that neither trains nor evaluates keeps the probe alone.
        task: of what the model predicts where no probe does; None: it predicts nothing.
        loaders: by split; evaluators that compare need `bank`, the probe any.
        num_classes: of the labels; None turns off all that needs labels.
        seed: of the probe's weights and of the classifiers of a test split.
        say: is told, once, that features have collapsed.
        limit: batches of the bank to see; None sees all.

    Raises:
        ConfigError: labels are missing or out of range; features are not (N, D); an
            evaluator or a metric cannot be built.
    """

    def __init__(
        self,
        model: nn.Module,
        encode: Encode,
        autocast: Callable[[], AbstractContextManager],
        log: Any,
        mode: str,
        task: str | None,
        loaders: Mapping[str, Any],
        num_classes: int | None,
        seed: int,
        say: Callable[[str], None],
        limit: int | None = None,
    ):
        self.model, self.plain, self.autocast = model, encode, autocast
        self.num_classes, self.seed, self.say, self.limit = num_classes, seed, say, limit
        self.evaluators = dict(asked(log.eval, mode))
        if not num_classes:
            if log.eval.linear or log.eval.knn:
                say("no classes are known: no probe, no kNN; set data.num_classes")
            self.evaluators = {
                name: e for name, e in self.evaluators.items() if not e.needs_labels
            }
        check_labels(loaders, num_classes, self.evaluators)
        self.bank_loader = loaders.get("bank")
        self.bank: tuple[int, Labelled | None] = -1, None  # the step it was encoded at
        self.collapsed = self.evaluating = False
        self.encoded: list[tuple[Tensor, Tensor]] = []  # views of a batch, features
        if self.online and loaders:
            self._build_online(loaders.get("bank", next(iter(loaders.values()))))
        if self.probe is not None:
            task = "multiclass"
        self.task = task if num_classes else None
        classes = num_classes if self.task else None
        custom = custom_metrics(log.metrics, self.task, classes)
        self.predictions: Predictions | None = None
        if self.task:
            paths = {name: str(node["callable"]) for name, node in log.metrics.items()}
            self.predictions = Predictions(
                self.task, self.probe is not None, custom, paths
            )
