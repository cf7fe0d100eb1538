"""The groups `log.eval` and `log.early_stopping` of a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stable_ssl.schema import ConfigError, key


@dataclass
class KnnConfig:
    """Weighted nearest neighbours, Wu et al. 2018, https://arxiv.org/abs/1805.01978."""

    k: int = key(20, low=1)  # neighbours that vote
    temperature: float = key(0.07, above=0)  # a vote is exp(cosine / this)


@dataclass
class ProbeConfig:
    """The online linear probe: trained on detached features beside the method."""

    optimizer: Any = key("adamw", required=True)  # its own, never the method's
    lr: float = key(1e-3, above=0)  # constant
    weight_decay: float = key(0.0, low=0)  # on its matrix alone


@dataclass
class OfflineConfig:
    """Classifiers of the frozen features of the bank, in evaluations of test splits.

    linear_acc1: SGD on standardised features, for all `lrs` at once, of which a part of
    the bank chooses; logistic_acc1: scikit-learn's logistic regression.
    """

    in_fit: bool = False  # when a training evaluates test too, not in mode=test alone
    lrs: list[float] = key(  # learning rates to choose from
        [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0], above=0, shortest=1
    )
    epochs: int = key(100, low=1)  # passes over the bank's features
    batch_size: int = key(256, low=1)  # features a step
    held_out: float = key(0.1, above=0, below=1)  # share of the bank that chooses
    logistic: bool | None = None  # null: of a bank of up to 100,000 images


@dataclass
class Eval:
    """What is evaluated, and when; {_target_: ...} adds an evaluator of one's own."""

    every_n_epochs: int | None = key(1, low=1)  # null: not by epochs
    every_n_steps: float | None = key(None, above=0)  # below 1: a share of an epoch
    sanity_steps: int = key(0, low=0)  # val batches seen before training, not recorded
    untrained: bool = False  # evaluate val and test before the first step too
    test_at_end: bool = True  # on the weights of the last step
    knn: KnnConfig | None = field(default_factory=KnnConfig)  # null: off
    linear: ProbeConfig | None = field(default_factory=ProbeConfig)  # null: off
    few_labels: list[str] = key(  # 10 a class, or "1%" of each; test splits
        [], pattern=r"[1-9]\d*|(?=.*[1-9])\d{1,2}(\.\d+)?%|100%", like="10 or 1%"
    )
    offline: OfflineConfig | None = field(default_factory=OfflineConfig)  # null: off
    spectrum: bool = False  # rankme, alpha_req, feature_std, uniformity of the features

    def __post_init__(self) -> None:
        """Refuse evaluations every 2.5 steps."""
        every = self.every_n_steps
        if every is not None and every > 1 and every % 1:
            raise ConfigError(
                f"log.eval.every_n_steps={every} must be a whole number of steps, or"
                " below 1, a share of an epoch"
            )


@dataclass
class EarlyStopping:
    """End a training whose validations do not get better any more."""

    patience: int | None = key(None, low=1)  # validations; null: off
    monitor: str | None = None  # a metric; null: log.monitor
    min_delta: float = key(0.0, low=0)  # by which a value must be better
    mode: str | None = key(None, choices=("max", "min"))  # null: log.monitor_mode
