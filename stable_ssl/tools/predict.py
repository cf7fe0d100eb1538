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
from stable_ssl.config import ConfigError, unwritable
from stable_ssl.data.batch import first_view
from stable_ssl.data.facts import class_names, source
from stable_ssl.files import replacing

SEVERAL = ";"  # between the classes of one cell

Part = tuple[Tensor, Any, Tensor]  # index, labels and logits of a batch


def predict(run: Any) -> None:
    """Write predictions.csv and scores.csv of the split `data.predict`.

    Args:
        run: a trainer after `setup`.

    Raises:
        ConfigError: as of `write_predictions`.
    """
    function = run.online.afresh(run.predict) if run._classifies else None
    with run.online.evaluation():
        path = write_predictions(
            function, run.loaders, run._task, run.run_dir, run._limit
        )
    run.say(f"predictions: {path}")


def write_predictions(
    predict: Callable[[Tensor], Tensor] | None,
    loaders: Mapping[str, Iterable],
    task: str,
    folder: Path,
    limit: int | None = None,
) -> Path:
    """Write predictions.csv and scores.csv of a split; synchronises host and ranks.

    predictions.csv has `index` (in the dataset), `path` (below its root) of a folder's
    images, `label` and `label_name` of labelled data, `prediction` and
    `prediction_name`; of one class an image also its probability, `score`, and `top5`.
    The number of a label is that of its name among the predicted classes, where both
    are known.

    Args:
        predict: maps a view (N, C, H, W) to logits, shaped as the task's; None: nothing
            does.
        loaders: `predict` yields (views, labels); the dataset of `bank`, if there is
            one, knows the names of the predicted classes, otherwise that of `predict`.
        task: multiclass, binary or multilabel, as for `Scores`.
        folder: that they are written to.
        limit: batches to take; None takes all.

    Returns:
        The path of predictions.csv; rank 0 has written it.

    Raises:
        ConfigError: nothing predicts; batches that have not one row a sample.
    """
    if predict is None:
        raise ConfigError(
            "mode=predict needs a classifier: a method that predicts, or"
            " log.eval.linear as in training; and data.num_classes, or train data that"
            " state it"
        )
    paths = [folder / "predictions.csv", folder / "scores.csv"]
    samples = _gathered(_predicted(predict, loaders["predict"], limit))
    if not distributed.is_main():
        return paths[0]
    dataset, bank = (
        getattr(loaders.get(split), "dataset", None) for split in ("predict", "bank")
    )
    own = class_names(dataset)
    names = class_names(bank) or own
    columns: dict[str, Callable[[int], Any]] = {"index": lambda i: samples[i][0]}
    if (path := _paths(dataset)) is not None:
        columns["path"] = lambda i: path(samples[i][0])
    labels = [_label(label, own, names) for _, label, _ in samples]
    if any(label is not None for label in labels):
        columns["label"] = lambda i: _cell(labels[i])
        if names:
            columns["label_name"] = lambda i: _cell(labels[i], names)
    scores = probabilities(torch.stack([logits for *_, logits in samples]), task)
    if task == "multilabel":
        found = [(row > 0.5).nonzero().flatten().tolist() for row in scores]
    else:
        best = scores.sort(dim=1, descending=True, stable=True)
        order = best.indices[:, :5].tolist()
        found = [row[:1] for row in order]
    columns["prediction"] = lambda i: _cell(found[i])
    if names:
        columns["prediction_name"] = lambda i: _cell(found[i], names)
    if task != "multilabel":
        columns["score"] = lambda i: f"{best.values[i, 0]:.6g}"
        if scores.shape[1] > 5:
            columns["top5"] = lambda i: _cell(order[i])
    rows = ([cell(i) for cell in columns.values()] for i in range(len(samples)))
    _write(paths[0], list(columns), rows)
    heads = [names.get(number, number) for number in range(scores.shape[1])]
    _write(
        paths[1],
        ["index", *heads],
        (
            [index, *(f"{score:.6g}" for score in row.tolist())]
            for (index, *_), row in zip(samples, scores, strict=True)
        ),
    )
    return paths[0]


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


def _gathered(parts: Iterable[Part]) -> list[tuple[int, Tensor | None, Tensor]]:
    """Return (index, label, logits) of all ranks' samples, by index."""
    everyone = distributed.all_gather_object(list(parts))
    samples = []
    for index, labels, logits in (part for own in everyone for part in own):
        labels = [None] * len(index) if labels is None else labels
        samples += zip(index.tolist(), labels, logits, strict=True)
    return sorted(samples, key=lambda sample: sample[0])


def _label(
    label: Tensor | None, own: Mapping[int, str], names: Mapping[int, str]
) -> list[int] | None:
    """Return a sample's classes, numbered as the predicted ones; None without."""
    if label is None or (label.ndim == 0 and label < 0):
        return None
    several = label.nonzero().flatten().tolist() if label.ndim else [int(label)]
    numbers = {name: number for number, name in names.items()}
    if not own or not names:
        return several
    return [numbers.get(own.get(number), number) for number in several]


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
