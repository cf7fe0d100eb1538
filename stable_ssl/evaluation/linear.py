"""Linear classification of frozen features, after training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.evaluation.evaluator import Evaluator, Labelled, Split
from stable_ssl.evaluation.predictions import topk_correct
from stable_ssl.loggers.names import Metric
from stable_ssl.schema import ConfigError, key


@dataclass
class OfflineConfig:
    """Classifiers of the frozen features of the bank, in evaluations of test splits.

    linear_acc1: SGD on standardised features, for all `lrs` at once, of which a part of
    the bank chooses; logistic_acc1: scikit-learn's logistic regression.
    """

    in_fit: bool = False  # when a training evaluates test too, not in mode=test alone
    lrs: list[float] = key(
        [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0], above=0, shortest=1
    )
    epochs: int = key(100, low=1)  # passes over the bank's features
    batch_size: int = key(256, low=1)
    held_out: float = key(0.1, above=0, below=1)  # share of the bank that chooses
    logistic: bool = True  # costly from some 100,000 images or 1,000 classes on


class Linear(Evaluator):
    """Fit a linear classifier on the bank, by SGD."""

    key = "offline"
    names = ("linear_acc1", "linear_acc5", "linear_lr")
    splits = ("test",)
    needs_bank = needs_labels = True

    def __init__(self, config: OfflineConfig):
        self.config, self.in_fit = config, config.in_fit
        title = "linear (offline)"
        protocol = f"linear, SGD, {config.epochs} epochs on {{bank}}"
        chosen = (
            f"learning rate of it, best of {len(config.lrs)} on"
            f" {100 * config.held_out:g}% of the bank"
        )
        self.metrics = {
            "linear_acc1": Metric("linear accuracy", title, protocol, 40),
            "linear_acc5": Metric(
                "linear accuracy, top 5", f"{title}, top 5", f"{protocol}, top 5", 40
            ),
            "linear_lr": Metric("linear lr", "linear_lr", chosen, 90),
        }

    def check_bank(self, size: int, labels: Tensor | None) -> None:
        """Refuse a share that leaves nothing to choose on, or nothing to fit."""
        share, held = self.config.held_out, held_out(self.config, size)
        if held != round(share * size):
            raise ConfigError(
                f"log.eval.offline.held_out={share} of the bank's {size:,} images is"
                f" {round(share * size):,}; hold out one or more, and not all of them"
            )

    def __call__(self, split: Split) -> Iterator[tuple[str, float]]:
        """Yield accuracies and the learning rate chosen, of finite features."""
        if split.finite:
            queries = split.features, split.labels
            scores = linear_accuracy(
                split.bank, queries, split.num_classes, self.config, split.seed
            )
            for name, value in scores.items():
                yield f"linear_{name}", value


def held_out(config: OfflineConfig, size: int) -> int:
    """Return how many of a bank's images are held out, one at least and not all."""
    return min(max(1, round(config.held_out * size)), size - 1)


def linear_accuracy(
    bank: Labelled,
    queries: Labelled,
    num_classes: int,
    config: OfflineConfig,
    seed: int = 0,
) -> dict[str, float]:
    """Fit a linear classifier on the bank; return its accuracies on the queries.

    Every learning rate of the grid is tried at once on a part of the bank, and the one
    that is best on the rest of it (the smaller, of equals) fits the whole bank.

    Args:
        bank: features (M, D) and labels (M,).
        queries: features (N, D) and labels (N,); nothing is chosen on them.
        num_classes: C.
        config: group `log.eval.offline`: lrs, epochs, batch_size, held_out.
        seed: of the part that is held out and of the order of the batches.

    Returns:
        acc1, with more than five classes acc5, and lr, the learning rate chosen.
    """
    order = seeding.permutation(len(bank[1]), seed, 0).to(bank[1].device)
    held = held_out(config, len(order))
    part, fit = order[held:], (config.epochs, config.batch_size, seed)
    logits = classifiers((bank[0][part], bank[1][part]), num_classes, config.lrs, *fit)
    scores = sum(
        (logits(bank[0][rows]).argmax(2) == bank[1][rows]).sum(1)
        for rows in order[:held].split(4096)
    ).tolist()
    _, lr = max(zip(scores, config.lrs, strict=True), key=lambda s: (s[0], -s[1]))
    logits = classifiers(bank, num_classes, [lr], *fit)(queries[0])[0]
    accuracies = {
        f"acc{k}": topk_correct(logits, queries[1], k).item() / len(logits)
        for k in ((1, 5) if num_classes > 5 else (1,))
    }
    return accuracies | {"lr": lr}


def classifiers(
    data: Labelled,
    num_classes: int,
    lrs: Sequence[float],
    epochs: int,
    batch_size: int,
    seed: int,
) -> Callable[[Tensor], Tensor]:
    """Fit L linear classifiers that differ in nothing but the learning rate.

    Cross-entropy on features standardised as the data's; SGD with momentum 0.9 and a
    cosine to 0, from weights of 0; one product serves all L.

    Args:
        data: features (M, D) and labels (M,).
        num_classes: C.
        lrs: L learning rates.
        epochs: passes over the data.
        batch_size: samples a step.
        seed: of the order of the batches.

    Returns:
        A function from features (N, D) to logits (L, N, C).
    """
    scaled = standardiser(data[0])
    x, y = scaled(data[0]), data[1]
    rate = x.new_tensor(list(lrs))[:, None, None]
    weight = x.new_zeros(len(lrs), x.shape[1], num_classes)
    bias = x.new_zeros(len(lrs), 1, num_classes)
    weight_velocity, bias_velocity = torch.zeros_like(weight), torch.zeros_like(bias)
    steps, step = epochs * math.ceil(len(y) / batch_size), 0
    for epoch in range(epochs):
        order = seeding.permutation(len(y), seed, 1, epoch).to(y.device)
        for rows in order.split(batch_size):
            part = x[rows]
            slope = (part @ weight + bias).softmax(2)  # the gradient of the logits
            slope[:, torch.arange(len(rows), device=y.device), y[rows]] -= 1
            slope /= len(rows)
            weight_velocity.mul_(0.9).add_(part.T @ slope)
            bias_velocity.mul_(0.9).add_(slope.sum(1, keepdim=True))
            now = rate * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            weight.sub_(now * weight_velocity)
            bias.sub_(now * bias_velocity)
            step += 1
    return lambda features: scaled(features) @ weight + bias


def standardiser(features: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the function that standardises features as these (M, D) are."""
    mean = features.mean(0)
    deviation = features.std(0, correction=0).clamp_min(1e-6)
    return lambda x: (x - mean) / deviation
