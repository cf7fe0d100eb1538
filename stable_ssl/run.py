"""What the rest of the library reads of a trainer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from stable_ssl.checkpoint import Checkpoints, State, Stateful
from stable_ssl.loggers.records import Records
from stable_ssl.optim.schedules import Schedulers
from stable_ssl.preemption import Preemption


class Run(Stateful, Protocol):
    """What the rest of the library reads of a trainer after `setup`."""

    config: DictConfig
    settings: Any  # group `log` of the config, as plain dataclasses
    data_objects: dict[str, Any]
    overrides: list[str]
    task: str
    views: int | dict[str, int] | None
    min_views: int
    min_batch: int
    needs_labels: bool
    num_classes: int | None
    epoch: int
    step: int
    total_steps: int
    steps_per_epoch: int
    images_per_step: int | None
    batch_limit: int | None
    device: torch.device
    rank: int
    world_size: int
    run_dir: Path | None
    train_loader: Iterable[Any] | None
    loaders: dict[str, Iterable[Any]]  # by split
    optimizers: dict[str, Optimizer]
    schedulers: Schedulers
    scheduler: Any  # of the first optimizer, or None
    scaler: torch.amp.GradScaler
    evaluation: Any  # a `Suite`
    early_stopping: Any  # a `Patience`, or None
    validated: int
    measured: dict[str, float]
    stopped: str | None
    metrics: dict[str, float]
    records: Records
    checkpoints: Checkpoints
    preemption: Preemption
    subclass_attributes: Any  # `Attributes`
    rng_at_epoch: State | None
    resumed_state: State | None

    def run(self) -> float | None:
        """Live through setup and `mode`; return the last monitored value."""

    def cleanup(self) -> None:
        """Release the workers, the terminal and the files."""

    def say(self, text: str) -> None:
        """Print a line, in console.log too."""

    def encode(self, x: Tensor) -> Tensor:
        """Return the features (N, D)."""

    def predict(self, x: Tensor) -> Tensor:
        """Return the logits (N, C)."""

    def autocast(self) -> AbstractContextManager:
        """Return the context of the run's precision."""

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield all modules with their names, as any module does."""
