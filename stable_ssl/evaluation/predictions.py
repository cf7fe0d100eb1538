"""What the predictions of a split are worth, by task and by the user's own metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import nan
from typing import Any

import torch
from torch import Tensor

from stable_ssl import distributed
from stable_ssl.data.fields import as_classes
from stable_ssl.distributed import gather_batches
from stable_ssl.evaluation.evaluator import Evaluator, Split, labelled_rows
from stable_ssl.loggers.names import Metric
from stable_ssl.schema import ConfigError

Score = Callable[[Tensor, Tensor], Any]  # of predictions and labels of a split


class Predictions(Evaluator):
    """Score what `predict` returns, batch by batch, against the labels.

    Args:
        task: of `Scores`.
        probed: whether predictions are the online probe's.
        custom: `custom_metrics`.
        paths: where those were found, by name.
    """

    names = ("acc1", "acc5")
    needs_labels = each_rank = True
    needs_features = False

    def __init__(
        self,
        task: str,
        probed: bool,
        custom: Mapping[str, Score],
        paths: Mapping[str, str],
    ):
        self.task, self.custom = task, custom
        title = "linear probe (online)" if probed else "accuracy"
        predictor = "online linear probe" if probed else "the model's prediction"
        precision = f"{predictor}, average precision"
        known = {
            "acc1": Metric("accuracy", title, f"{predictor}, top 1", 10),
            "acc5": Metric(
                "accuracy, top 5", f"{title}, top 5", f"{predictor}, top 5", 10
            ),
            "ap": Metric("average precision", "", precision),
            "auroc": Metric("AUROC", "", f"{predictor}, area under the ROC curve"),
            "map": Metric(
                "mean average precision", "", f"{precision}, mean over classes"
            ),
        }
        own = {name: Metric(name, "", path) for name, path in paths.items()}
        measured = TASKS[task] or ("acc1", "acc5")
        self.metrics = {name: known[name] for name in measured} | own
        self.reset()

    def reset(self) -> None:
        """Begin a split."""
        self.scores = Scores(self.task, self.custom)

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Add a batch, shaped as the task has it."""
        self.scores.update(predictions, labels)

    def __call__(self, split: Split) -> Iterator[tuple[str, float]]:
        """Yield the values over all ranks' samples."""
        yield from self.scores.compute().items()


def topk_correct(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Count the samples whose label is among the k largest logits.

    Args:
        logits: (N, C).
        labels: (N,) int64.
        k: at most C.

    Returns:
        Scalar int64 on the device; no synchronisation.
    """
    return (logits.topk(k, dim=1).indices == labels[:, None]).sum()


class Accuracy:
    """Top-1 and, with more than five classes, top-5 accuracy of a split.

    They are nan where a logit is: a network that diverged predicts nothing.
    """

    def __init__(self) -> None:
        self.count, self.unknown, self.correct = 0, 0, {}

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (N, C), labels (N,), of which negative ones are none."""
        self.count = self.count + (labels >= 0).sum()
        self.unknown = self.unknown + logits.isnan().sum()
        for k in (1, 5) if logits.shape[1] > 5 else (1,):
            hits = topk_correct(logits, labels, k)
            self.correct[f"acc{k}"] = self.correct.get(f"acc{k}", 0) + hits

    def compute(self) -> dict[str, float]:
        """Return the shares {"acc1", "acc5"} of all ranks' samples.

        Synchronises the host and the ranks.
        """
        count = nan if self.unknown else int(self.count)
        share = count, {name: int(hits) for name, hits in self.correct.items()}
        everyone = distributed.all_gather_object(share)
        count = sum(samples for samples, _ in everyone)
        names = dict.fromkeys(name for _, correct in everyone for name in correct)
        return {
            name: sum(correct.get(name, 0) for _, correct in everyone) / (count or nan)
            for name in names
        }


class WholeSplit:
    """Metrics that need all predictions of a split at once, such as a ranking's.

    Args:
        metrics: by name.
        zero_one: whether labels are 0 or 1, and not numbers of classes.
    """

    def __init__(self, metrics: Mapping[str, Score], zero_one: bool = False):
        self.metrics, self.zero_one = metrics, zero_one
        self.predictions: list[Tensor] = []
        self.labels: list[Tensor] = []

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Add a batch: predictions (N, ...) and labels (N, ...), as the task has it."""
        self.predictions.append(predictions.detach().float())
        self.labels.append(labels)

    def compute(self) -> dict[str, float]:
        """Return the values over all ranks' samples, in the order of the split.

        They are nan where a prediction is. Synchronises the host and the ranks.

        Raises:
            ConfigError: labels that are no whole numbers, or neither 0 nor 1 where only
                these have a meaning.
        """
        if not self.labels:
            return {}
        predictions, given = map(gather_batches, (self.predictions, self.labels))
        labels = given.long()
        wrong = given != labels
        if (known := labelled_rows(labels)) is not None:
            predictions, labels, wrong = predictions[known], labels[known], wrong[known]
        if self.zero_one:
            wrong |= (labels < 0) | (labels > 1)
        if wrong.any():
            wanted = "0 or 1" if self.zero_one else "whole numbers"
            raise ConfigError(
                f"the labels are from {given.min():g} to {given.max():g}, and"
                f" {', '.join(self.metrics)} need {wanted}; let the loader yield these,"
                " or write an eval_step"
            )
        if predictions.isnan().any():
            return dict.fromkeys(self.metrics, nan)
        return {
            name: float(metric(predictions, labels))
            for name, metric in self.metrics.items()
        }


class Scores:
    """The metrics of a task and the user's own, over the batches of one split.

    Args:
        task: multiclass: predictions (N, C) logits, labels (N,);
            binary: predictions (N,) logits, labels (N,), 0 or 1;
            multilabel: predictions (N, C) logits, labels (N, C), 0 or 1.
            (N, 1) is as good as (N,); more dimensions may follow in both, as of pixels,
            each of which counts as a sample.
        custom: `custom_metrics`.
    """

    def __init__(self, task: str = "multiclass", custom: Mapping[str, Score] = {}):
        self.task, self.parts = task, []
        if task == "multiclass":
            self.parts.append(Accuracy())
        if whole := {**TASKS[task], **custom}:
            self.parts.append(WholeSplit(whole, task != "multiclass"))

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Raises:
            ConfigError: shapes that are not the task's, or labels that are no tensor.
        """
        predictions, labels = _shaped(self.task, predictions, labels)
        for part in self.parts:
            part.update(predictions, labels)

    def compute(self) -> dict[str, float]:
        """Return the values by name; synchronises the host and the ranks."""
        return {k: v for part in self.parts for k, v in part.compute().items()}


SHAPES = {  # of predictions and labels
    "multiclass": ("(N, C)", "(N,)"),
    "binary": ("(N,)", "(N,)"),
    "multilabel": ("(N, C)", "(N, C)"),
}


def _shaped(task: str, predictions: Tensor, labels: Any) -> tuple[Tensor, Tensor]:
    """Return a batch's predictions and labels in the shapes of `SHAPES`."""
    labels = as_classes(labels)
    found = getattr(labels, "shape", None)
    if task == "binary":
        predictions, labels = (
            x[:, 0] if isinstance(x, Tensor) and x.shape[1:] == (1,) else x
            for x in (predictions, labels)
        )
    elif task == "multilabel" and (*(found or ()), 1) == predictions.shape:
        labels = labels[:, None]  # of one label
    expected = predictions.shape
    if task == "multiclass":
        expected = (*expected[:1], *expected[2:]) if len(expected) > 1 else None
    if not isinstance(labels, Tensor) or labels.shape != expected:
        told = type(labels).__name__ if found is None else f"labels of {tuple(found)}"
        wanted = " and labels ".join(SHAPES[task])
        raise ConfigError(
            f"predict returned {tuple(predictions.shape)} for {told}; the task is"
            f" {task}: predictions {wanted}; let the loader and predict return these,"
            " or state another `task`"
        )
    if task == "binary":
        return predictions.flatten(), labels.flatten()
    if task == "multilabel" and labels.ndim > 2:
        return tuple(x.movedim(1, -1).flatten(0, -2) for x in (predictions, labels))
    return predictions, labels


# --- of a ranking ---------------------------------------------------------------------


def binary_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the accuracy at probability 0.5: logits (N,), labels (N,), 0 or 1."""
    return ((logits > 0) == labels.bool()).float().mean().item()


def average_precision(scores: Tensor, labels: Tensor) -> float:
    """Return how well scores (N,) rank labels (N,); nan without a positive label."""
    from sklearn.metrics import average_precision_score

    if not labels.any():
        return float("nan")
    return float(average_precision_score(labels.cpu().numpy(), scores.cpu().numpy()))


def auroc(scores: Tensor, labels: Tensor) -> float:
    """Return the area under the ROC curve of scores (N,); nan of one class alone."""
    from sklearn.metrics import roc_auc_score

    if labels.bool().all() or not labels.any():
        return float("nan")
    return float(roc_auc_score(labels.cpu().numpy(), scores.cpu().numpy()))


def mean_average_precision(scores: Tensor, labels: Tensor) -> float:
    """Return the average precision, mean over the classes that have a positive.

    Args:
        scores: (N, C).
        labels: (N, C), 0 or 1.
    """
    pairs = zip(scores.T, labels.T, strict=True)
    return torch.tensor([average_precision(*pair) for pair in pairs]).nanmean().item()


TASKS: dict[str, dict[str, Score]] = {  # what needs the whole split
    "multiclass": {},
    "binary": {"acc1": binary_accuracy, "ap": average_precision, "auroc": auroc},
    "multilabel": {"map": mean_average_precision},
}
