"""Probe and nearest neighbours beside the training, on features that are made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stable_ssl import seeding
from stable_ssl.data.batch import first_view
from stable_ssl.evaluation.collapse import collapse_warning
from stable_ssl.evaluation.features import (
    encode_split,
    labelled_metrics,
    spectrum_metrics,
)
from stable_ssl.evaluation.labels import check_labels
from stable_ssl.evaluation.probe import LinearProbe
from stable_ssl.schema import ConfigError


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


class Online:
    """What is measured on the features of `encode` while a model trains.

    During an evaluation a view is encoded once a batch, whoever asks: `encode` keeps
    what it encoded until the next one.

    Args:
        model: put in eval mode where features are encoded for their own sake.
        encode: maps a view (N, C, H, W) to features (N, D).
        autocast: returns the precision to encode in.
        config: group `log.eval`.
        loaders: by split; kNN needs `bank`, the probe any.
        num_classes: of the labels; None turns off all that needs labels.
        seed: of the probe's weights and of the classifiers of a test split.
        say: is told, once, that features have collapsed.
        limit: batches of the bank to see; None sees all.

    Raises:
        ConfigError: labels are missing or out of range; features are not (N, D).
    """

    def __init__(
        self,
        model: nn.Module,
        encode: Callable[[Tensor], Tensor],
        autocast: Callable[[], AbstractContextManager],
        config: Any,
        loaders: Mapping[str, Any],
        num_classes: int | None,
        seed: int,
        say: Callable[[str], None],
        limit: int | None = None,
    ):
        self.model, self.plain, self.autocast = model, encode, autocast
        self.config, self.num_classes, self.seed = config, num_classes, seed
        self.say, self.limit, self.warned = say, limit, False
        self.spectrum: list[float] = []  # of the last split, eigenvalues descending
        check_labels(loaders, num_classes, config)
        asked = config.knn is not None or config.few_labels or config.offline
        self.bank_loader = loaders.get("bank") if asked and num_classes else None
        self.bank: tuple[int, Any] = (-1, None)  # the step it was encoded at
        self.probe: LinearProbe | None = None
        self.evaluating = False
        self.calls: list[tuple[Tensor, Tensor]] = []
        if config.linear is not None and num_classes and loaders:
            self._build_probe(loaders.get("bank", next(iter(loaders.values()))))
        self.collects = self.bank_loader is not None or config.spectrum

    def _build_probe(self, loader: Any) -> None:
        """Build the probe for the features' measured dimension."""
        with undisturbed(self.model), self.autocast():
            features, _ = encode_split(self.plain, loader, limit=1)
        if features.ndim != 2:
            raise ConfigError(
                f"encode returned features of shape {tuple(features.shape)}; the linear"
                " probe needs (N, D): pool them in encode, or set log.eval.linear=null"
            )
        self.probe = LinearProbe(
            features.shape[1], self.num_classes, self.config.linear, self.seed
        ).to(features.device)

    @property
    def modules(self) -> list[nn.Module]:
        """The model, and the probe if there is one."""
        return [self.model] if self.probe is None else [self.model, self.probe]

    # --- features, once ---------------------------------------------------------------

    def encode(self, x: Tensor) -> Tensor:
        """Encode a view (N, C, H, W); in an evaluation, once."""
        if not self.evaluating:
            return self.plain(x)
        for view, features in self.calls:
            if view is x:
                return features
        self.calls.append((x, self.plain(x)))
        return self.calls[-1][1]

    def forget(self) -> None:
        """Forget the batch before."""
        self.calls.clear()

    # --- beside a training step -------------------------------------------------------

    def fit_probe(
        self, batch: tuple[Any, Tensor], features: Tensor | Sequence[Tensor] | None
    ) -> Tensor:
        """Train the probe on a batch; return its loss, a scalar on the device.

        Args:
            batch: (views, labels, ...).
            features: of the images as the loss handed them over, (N, D), or of several
                views, (N, D) each, or all of one after all of another, (V N, D); None:
                the first view is encoded in eval mode, one forward pass more.

        Raises:
            ConfigError: features that are not a whole number for each label.
        """
        x, labels, *_ = batch
        if features is None:
            with undisturbed(self.model), self.autocast():
                features = self.plain(first_view(x))
        if not isinstance(features, Tensor):
            features = torch.cat(list(features))
        if features.ndim != 2 or len(features) % len(labels):
            raise ConfigError(
                f"compute_loss returned features of shape {tuple(features.shape)} for"
                f" {len(labels)} labels; return (N, D) of one view or a list of such"
            )
        views = len(features) // len(labels)
        return self.probe.fit_batch(features, labels.repeat(views))

    # --- during an evaluation ---------------------------------------------------------

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Collect the features of a split's batches while it is evaluated."""
        self.features: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.views: list[Tensor] = []
        self.spectrum = []
        self.evaluating = True
        try:
            with undisturbed(*self.modules), self.autocast():
                yield
        finally:
            self.evaluating = False
            self.forget()

    def collect(self, batch: tuple[Any, Tensor]) -> None:
        """Keep the features (N, D) and labels of a batch, where somebody will ask."""
        if not self.collects:
            return
        x, labels, *_ = batch
        self.features.append(self.encode(first_view(x)).detach().float())
        self.labels.append(labels)
        if self.config.spectrum and isinstance(x, list) and len(x) > 1:
            self.views.append(torch.stack([self.encode(view) for view in x], 1))

    def metrics(self, step: int, test: bool) -> dict[str, float]:
        """Measure the collected features, against the bank too, encoded once a step.

        Args:
            step: optimizer steps taken.
            test: whether the split is a test split, on which classifiers are scored.
        """
        found: dict[str, float] = {}
        if not self.features:
            return found
        if self.bank_loader is not None and self.bank[0] != step:
            self.bank = (step, encode_split(self.plain, self.bank_loader, self.limit))
        with torch.autocast(self.features[0].device.type, enabled=False):
            if self.bank_loader is not None:
                found |= labelled_metrics(
                    self.bank[1],
                    (self.features, self.labels),
                    self.num_classes,
                    self.config,
                    test,
                    self.seed,
                )
            if self.config.spectrum:
                measured, self.spectrum = spectrum_metrics(self.features, self.views)
                found |= measured
            if step and not self.warned:  # untrained features have one direction, too
                if words := collapse_warning(torch.cat(self.features)):
                    self.warned = True
                    self.say(f"step {step}: {words}")
        return found

    # --- checkpoints ------------------------------------------------------------------

    def state(self) -> dict[str, Any] | None:
        """Return the probe's state."""
        return None if self.probe is None else self.probe.state()

    def load_state(self, state: dict[str, Any] | None) -> None:
        """Restore what `state` returned.

        Raises:
            ConfigError: there is a probe now, and none was saved.
        """
        if self.probe is not None and state is None:
            raise ConfigError(
                "the checkpoint holds no linear probe; set log.eval.linear=null, or a"
                " probe that was never trained would be evaluated"
            )
        if self.probe is not None and state is not None:
            self.probe.load_state(state)
