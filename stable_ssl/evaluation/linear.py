"""Linear classification of frozen features, after training.

On several ranks each keeps its rows of the bank and its share of the classes: a step's
rows go to all, each rank computes the logits and the gradient of its classes, and they
exchange what the softmax divides by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from stable_ssl import distributed, seeding
from stable_ssl.evaluation.bank import PART, Bank, standardiser
from stable_ssl.evaluation.config import OfflineConfig
from stable_ssl.evaluation.evaluator import Evaluator, Labelled, Split
from stable_ssl.evaluation.predictions import Accuracy
from stable_ssl.loggers.names import Metric
from stable_ssl.schema import ConfigError

MOMENTUM = 0.9
TAKEN = 2**22  # numbers of the bank that all ranks get at once: 16 MiB in float32


class Linear(Evaluator):
    """Fit a linear classifier on the bank, by SGD."""

    key = "offline"
    names = ("linear_acc1", "linear_acc5", "linear_lr")
    splits = ("test",)
    needs_bank = shares_bank = needs_labels = each_rank = True

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
    bank: Labelled | Bank,
    queries: Labelled,
    num_classes: int,
    config: OfflineConfig,
    seed: int = 0,
) -> dict[str, float]:
    """Fit a linear classifier on the bank; return its accuracies on all ranks' queries.

    Every learning rate of the grid is tried at once on a part of the bank, and the one
    that is best on the rest of it (the smaller, of equals) fits the whole bank.
    Synchronises ranks.

    Args:
        bank: features (M, D) and labels (M,) that every rank holds, or their shares.
        queries: this rank's features (N, D) and labels (N,); nothing is chosen on them.
        num_classes: C.
        config: group `log.eval.offline`: lrs, epochs, batch_size, held_out.
        seed: of the part that is held out and of the order of the batches.

    Returns:
        acc1, with more than five classes acc5, and lr, the learning rate chosen.
    """
    bank = Bank.of(bank)
    order = seeding.permutation(len(bank.labels), seed, 0).to(bank.labels.device)
    held = held_out(config, len(order))
    fit = (config.epochs, config.batch_size, seed)
    logits = classifiers(bank, num_classes, config.lrs, *fit, rows=order[held:])
    correct = torch.zeros(len(config.lrs), dtype=torch.long, device=order.device)
    for rows in order[:held].split(PART):
        x, y = bank.held(rows)
        correct += (logits(x).argmax(2) == y).sum(1)
    scores = distributed.all_sum(correct).tolist()
    _, lr = max(zip(scores, config.lrs, strict=True), key=lambda s: (s[0], -s[1]))
    logits, accuracy = classifiers(bank, num_classes, [lr], *fit), Accuracy()
    for x, y in zip(*(t.split(PART) for t in queries), strict=True):
        accuracy.update(logits(x)[0], y)
    return accuracy.compute() | {"lr": lr}


def classifiers(
    data: Labelled | Bank,
    num_classes: int,
    lrs: Sequence[float],
    epochs: int,
    batch_size: int,
    seed: int,
    rows: Tensor | None = None,
) -> Callable[[Tensor], Tensor]:
    """Fit L linear classifiers that differ in nothing but the learning rate.

    Cross-entropy on features standardised as the data's; SGD with momentum 0.9 and a
    cosine to 0, from weights of 0; one product serves all L. Synchronises ranks.

    Args:
        data: features (M, D) and labels (M,) that every rank holds, or their shares.
        num_classes: C.
        lrs: L learning rates.
        epochs: passes over the data.
        batch_size: samples a step.
        seed: of the order of the batches.
        rows: (n,) of the data to fit; None: all of them.

    Returns:
        A function from features (N, D) to logits (L, N, C).
    """
    bank = Bank.of(data)
    rows = torch.arange(len(bank.labels)) if rows is None else rows
    rows, scaled = rows.to(bank.labels.device), standardiser(bank, rows)
    model = _Classifiers(scaled(bank.take(rows[:1])), num_classes, lrs)
    steps, step = epochs * math.ceil(len(rows) / batch_size), 0
    taken = batch_size * max(1, TAKEN // (batch_size * model.weight.shape[0]))
    for epoch in range(epochs):
        order = seeding.permutation(len(rows), seed, 1, epoch).to(rows.device)
        for several in rows[order].split(taken):
            x, y = scaled(bank.take(several)), bank.labels[several]
            for batch in zip(x.split(batch_size), y.split(batch_size), strict=True):
                model.step(*batch, 0.5 + 0.5 * math.cos(math.pi * step / steps))
                step += 1
    weight, bias = model.of_all_classes()

    def logits(features: Tensor) -> Tensor:
        of_all = (scaled(features) @ weight.flatten(1)).unflatten(1, bias.shape) + bias
        return of_all.transpose(0, 1)

    return logits


class _Classifiers:
    """The share of this rank of L classifiers: W classes, as many on every rank.

    Args:
        like: features (n, D) as those of the batches.
        num_classes: C, of all ranks.
        lrs: L learning rates.
    """

    def __init__(self, like: Tensor, num_classes: int, lrs: Sequence[float]):
        width = math.ceil(num_classes / distributed.world_size())
        self.num_classes, self.first = num_classes, distributed.rank() * width
        self.rate = like.new_tensor(list(lrs))[:, None]
        self.weight = like.new_zeros(like.shape[1], len(lrs), width)
        self.bias = like.new_zeros(len(lrs), width)
        self.bias[:, max(0, num_classes - self.first) :] = -torch.inf  # no class
        self.velocities = torch.zeros_like(self.weight), torch.zeros_like(self.bias)

    def step(self, x: Tensor, y: Tensor, share: float) -> None:
        """Take a step on a batch, at this share of the learning rates.

        Args:
            x: standardised features (B, D).
            y: labels (B,).
            share: of the rates, 0 to 1.
        """
        slope = self._slope(x, y)
        weight_velocity, bias_velocity = self.velocities
        flat = weight_velocity.flatten(1)
        flat.addmm_(x.T, slope.flatten(1), beta=MOMENTUM)
        bias_velocity.mul_(MOMENTUM).add_(slope.sum(0))
        self.weight.addcmul_(weight_velocity, self.rate, value=-share)
        self.bias.addcmul_(bias_velocity, self.rate, value=-share)

    def _slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the gradient of the mean loss by the logits, (B, L, W)."""
        logits = torch.addmm(self.bias.flatten(), x, self.weight.flatten(1))
        logits = logits.unflatten(1, self.bias.shape)
        top = logits.amax(2).clamp_min(torch.finfo(x.dtype).min)  # of no class: -inf
        powers = logits.sub_(top[..., None]).exp_()
        shares = torch.stack((top, powers.sum(2)))
        tops, sums = distributed.gather(shares[None]).unbind(1)  # (ranks, B, L)
        most = tops.amax(0)
        whole = (sums * (tops - most).exp()).sum(0) * len(x)
        slope = powers.mul_(((top - most).exp() / whole)[..., None])
        own = y - self.first
        here = ((own >= 0) & (own < slope.shape[2])) / len(x)
        own = own.clamp(0, slope.shape[2] - 1)
        slope[torch.arange(len(x), device=x.device), :, own] -= here[:, None].to(x)
        return slope

    def of_all_classes(self) -> tuple[Tensor, Tensor]:
        """Return weights (D, L, C) and biases (L, C); synchronises ranks."""
        found = (distributed.gather(t[None]) for t in (self.weight, self.bias))
        weight, bias = (torch.cat(tuple(t), -1) for t in found)
        return weight[..., : self.num_classes], bias[..., : self.num_classes]
