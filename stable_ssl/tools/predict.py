"""Predictions of a split as two CSV files, one row a sample, in the split's order.

predictions.csv: what a person reads; scores.csv: the probability of every class.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_ssl import distributed
from stable_ssl.data.batch import first_view
from stable_ssl.data.facts import class_names, source
from stable_ssl.evaluation.suite import undisturbed
from stable_ssl.files import replacing
from stable_ssl.schema import ConfigError, unwritable

SEVERAL = ";"  # between the classes of one cell

Part = tuple[Tensor, Any, Tensor]  # index, labels and logits of a batch
Sample = tuple[int, Tensor | None, Tensor]  # the same of one sample


def predict(run: Any) -> None:
    """Write predictions.csv and scores.csv of the split `data.predict`.

    predictions.csv has `index` (in the dataset), `path` (below its root) of a folder's
    images, `label` and `label_name` of labelled data, `prediction` and
    `prediction_name`; of one class an image also its probability, `score`, and `top5`.
    The number of a label is that of its name among the predicted classes, where both
    are known.

    Args:
        run: a trainer after `setup`; the dataset of its loader `bank`, if there is one,
            knows the names of the predicted classes, otherwise that of `predict`.

    Raises:
        ConfigError: nothing predicts; batches that have not one row a sample.

    Synchronises host and ranks.
    """
    if run.evaluation.predictions is None:
        raise ConfigError(
            "mode=predict needs a classifier: a method that predicts, or"
            " log.eval.linear as in training; and data.num_classes, or train data that"
            " state it"
        )
    loader = run.loaders["predict"]
    with undisturbed(*run.evaluation.modules), run.autocast():
        samples = _gathered(_predicted(run.predict, loader, run._limit))
    if run.rank == 0:
        bank = getattr(run.loaders.get("bank"), "dataset", None)
        dataset = getattr(loader, "dataset", None)
        task = run.evaluation.predictions.task
        _write_all(samples, dataset, class_names(bank), task, run.run_dir)
        run.say(f"predictions: {run.run_dir / 'predictions.csv'}")


def _write_all(
    samples: Sequence[Sample],
    dataset: Any,
    names: Mapping[int, str],
    task: str,
    folder: Path,
) -> None:
    """Write both files.

    Args:
        samples: of all ranks, by index.
        dataset: that they come from.
        names: of the predicted classes; empty: those of the dataset.
        task: multiclass, binary or multilabel, as for `Scores`.
        folder: that they are written to.
    """
    own = class_names(dataset)
    names = names or own
    indices, given, logits = zip(*samples, strict=True)
    columns: dict[str, Iterable[Any]] = {"index": indices}
    if (path := _paths(dataset)) is not None:
        columns["path"] = map(path, indices)
    numbers = {name: number for number, name in names.items()}
    renumbered = {number: numbers.get(name, number) for number, name in own.items()}
    labels = [_label(label, renumbered) for label in given]
    if any(label is not None for label in labels):
        columns["label"] = map(_cell, labels)
        if names:
            columns["label_name"] = (_cell(label, names) for label in labels)
    scores = probabilities(torch.stack(logits), task)
    if task == "multilabel":
        classes = [(row > 0.5).nonzero().flatten().tolist() for row in scores]
    else:
        best = scores.sort(dim=1, descending=True, stable=True)
        top = best.indices[:, :5].tolist()
        classes = [row[:1] for row in top]
    columns["prediction"] = map(_cell, classes)
    if names:
        columns["prediction_name"] = (_cell(row, names) for row in classes)
    if task != "multilabel":
        columns["score"] = (f"{score:.6g}" for score in best.values[:, 0].tolist())
        if scores.shape[1] > 5:
            columns["top5"] = map(_cell, top)
    rows = zip(*columns.values(), strict=True)
    _write(folder / "predictions.csv", list(columns), rows)
    head = ["index", *(names.get(number, number) for number in range(scores.shape[1]))]
    rows = (
        [index, *(f"{score:.6g}" for score in row.tolist())]
        for index, row in zip(indices, scores, strict=True)
    )
    _write(folder / "scores.csv", head, rows)


def probabilities(logits: Tensor, task: str) -> Tensor:
    """Turn logits into the probability of every class, (N, C) float64.

    Args:
        logits: (N, C), of a binary task (N,).
        task: multiclass: rows sum to 1; binary: of 0 and of 1, C = 2; multilabel: of
            each class by itself.
    """
    logits = logits.double()
    if task == "multilabel":
        return logits.sigmoid()
    if task == "binary":
        logits = torch.stack([torch.zeros_like(logits), logits], 1)
    return logits.softmax(1)


def _predicted(
    predict: Callable[[Tensor], Tensor], loader: Iterable, limit: int | None
) -> Iterator[Part]:
    """Yield this rank's part of every batch, on the CPU."""
    seen = 0
    for x, labels, *_ in islice(loader, limit):
        rows = len(first_view(x))
        index = getattr(loader, "index", None)  # a loader of one's own counts on
        index = torch.arange(seen, seen + rows) if index is None else index.cpu()
        if not rows and not len(index):
            continue
        logits = predict(first_view(x)).detach().cpu()
        if not len(index) == rows == len(logits):
            raise ConfigError(
                f"mode=predict found {rows} rows and {len(logits)} predictions for"
                f" {len(index)} images; remove the collate_fn of that loader, or give"
                " data.predict a loader node with none"
            )
        yield index, labels.cpu() if isinstance(labels, Tensor) else None, logits
        seen += rows


def _gathered(parts: Iterable[Part]) -> list[Sample]:
    """Return (index, label, logits) of all ranks' samples, by index."""
    everyone = distributed.all_gather_object(list(parts))
    samples = []
    for index, labels, logits in (part for own in everyone for part in own):
        labels = [None] * len(index) if labels is None else labels
        samples += zip(index.tolist(), labels, logits, strict=True)
    return sorted(samples, key=lambda sample: sample[0])


def _label(label: Tensor | None, renumbered: Mapping[int, int]) -> list[int] | None:
    """Return a sample's classes, numbered as the predicted ones; None without."""
    if label is None or (label.ndim == 0 and label < 0):
        return None
    classes = label.nonzero().flatten().tolist() if label.ndim else [int(label)]
    return [renumbered.get(number, number) for number in classes]


def _cell(numbers: Sequence[int] | None, names: Mapping[int, str] | None = None) -> str:
    """Return numbers of classes, or their names, as the text of one cell."""
    named = (n if names is None else names.get(n, n) for n in numbers or ())
    return SEVERAL.join(map(str, named))


def _paths(dataset: Any) -> Callable[[int], str] | None:
    """Return a function from a sample's number to its path below the root, or None."""
    folder, rows = source(dataset), getattr(dataset, "rows", None)
    samples, root = getattr(folder, "samples", None), getattr(folder, "root", None)
    if not samples or root is None:
        return None

    def path(index: int) -> str:
        place = index if rows is None else int(rows[index])
        return Path(samples[place][0]).relative_to(root).as_posix()

    return path


def _write(path: Path, head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file."""
    try:
        with (
            replacing(path) as new,
            open(new, "w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file).writerows([head])
            csv.writer(file).writerows(rows)
    except OSError as error:
        raise unwritable(path, error) from error
