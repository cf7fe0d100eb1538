"""Predictions of a split as two CSV files, one row a sample, in the split's order.

predictions.csv: what a person reads; scores.csv: the probability of every class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stable_ssl import distributed
from stable_ssl.batch import first_view, seen
from stable_ssl.data.datasets import class_names, files_below_root
from stable_ssl.evaluation.suite import undisturbed
from stable_ssl.files import replacing
from stable_ssl.schema import ConfigError, unwritable

if TYPE_CHECKING:
    from pandas import DataFrame

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

    The dataset of the trainer's loader `bank` knows the names of these, otherwise that
    of `predict`. Synchronises host and ranks.

    Raises:
        ConfigError: nothing predicts; batches that have not one row a sample.
    """
    if run.evaluation.predictions is None:
        raise ConfigError(
            "mode=predict needs a classifier: a method that predicts, or"
            " log.eval.linear as in training; and data.num_classes, or train data that"
            " state it"
        )
    loader = run.loaders["predict"]
    with undisturbed(*run.evaluation.modules), run.autocast():
        samples = _gathered(_predicted(run, loader))
    if run.rank == 0:
        bank = getattr(run.loaders.get("bank"), "dataset", None)
        dataset = getattr(loader, "dataset", None)
        task = run.evaluation.predictions.task
        predictions, scores = _tables(samples, dataset, class_names(bank), task)
        _write(predictions, run.run_dir / "predictions.csv")
        _write(scores, run.run_dir / "scores.csv")
        run.say(f"predictions: {run.run_dir / 'predictions.csv'}")


def _tables(
    samples: Sequence[Sample], dataset: Any, names: Mapping[int, str], task: str
) -> tuple[DataFrame, DataFrame]:
    """Return the contents of both files.

    Without names of the predicted classes they are those of the samples' dataset; a
    task is multiclass, binary or multilabel.
    """
    from pandas import DataFrame, Series

    names_of_labels = class_names(dataset)
    names = names or names_of_labels
    indices, labels, logits = zip(*samples, strict=True)
    scores = probabilities(torch.stack(logits), task)
    table = DataFrame({"index": indices})
    if (paths := _paths(dataset, indices)) is not None:
        table["path"] = Series(paths, dtype=object)  # texts must be UTF-8
    numbers = {name: number for number, name in names.items()}
    same = {label: numbers.get(name, label) for label, name in names_of_labels.items()}

    def add(column: str, classes: Sequence[Sequence[int] | None]) -> None:
        table[column] = [_cell(row) for row in classes]
        if names:
            table[f"{column}_name"] = [_cell(row, names) for row in classes]

    classes = [_classes(label, same) for label in labels]
    if any(row is not None for row in classes):
        add("label", classes)
    if task == "multilabel":
        add("prediction", [(row > 0.5).nonzero().flatten().tolist() for row in scores])
    else:
        best = scores.sort(dim=1, descending=True, stable=True)
        add("prediction", best.indices[:, :1].tolist())
        table["score"] = best.values[:, 0].numpy()
        if scores.shape[1] > 5:
            table["top5"] = [_cell(row) for row in best.indices[:, :5].tolist()]
    columns = [names.get(number, number) for number in range(scores.shape[1])]
    of_classes = DataFrame(scores.numpy(), columns=columns)
    of_classes.insert(0, "index", indices, allow_duplicates=True)
    return table, of_classes


def probabilities(logits: Tensor, task: str) -> Tensor:
    """Turn logits, (N, C), of a binary task (N,), into probabilities, (N, C) float64.

    Rows sum to 1 (in a binary task C = 2) unless the task is multilabel.
    """
    logits = logits.double()
    if task == "multilabel":
        return logits.sigmoid()
    if task == "binary":
        logits = torch.stack([torch.zeros_like(logits), logits], 1)
    return logits.softmax(1)


def _predicted(run: Any, loader: Iterable) -> Iterator[Part]:
    """Yield this rank's part of every batch, on the CPU."""
    begin = 0
    for x, labels, *_ in seen(loader, run.device, run.batch_limit):
        rows = len(first_view(x))
        index = getattr(loader, "index", None)  # a loader of one's own counts on
        index = torch.arange(begin, begin + rows) if index is None else index.cpu()
        if not rows and not len(index):
            continue
        logits = run.predict(first_view(x)).detach().cpu()
        if not len(index) == rows == len(logits):
            raise ConfigError(
                f"mode=predict found {rows} rows and {len(logits)} predictions for"
                f" {len(index)} images; remove the collate_fn of that loader, or give"
                " data.predict a loader node with none"
            )
        yield index, labels.cpu() if isinstance(labels, Tensor) else None, logits
        begin += rows


def _gathered(parts: Iterable[Part]) -> list[Sample]:
    """Return (index, label, logits) of all ranks' samples, by index."""
    samples = []
    for parts_of_rank in distributed.all_gather_object(list(parts)):
        for index, labels, logits in parts_of_rank:
            labels = [None] * len(index) if labels is None else labels
            samples += zip(index.tolist(), labels, logits, strict=True)
    return sorted(samples, key=lambda sample: sample[0])


def _classes(label: Tensor | None, same: Mapping[int, int]) -> list[int] | None:
    """Return a sample's classes, numbered as the predicted ones; None without."""
    if label is None or (label.ndim == 0 and label < 0):
        return None
    classes = label.nonzero().flatten().tolist() if label.ndim else [int(label)]
    return [same.get(number, number) for number in classes]


def _cell(numbers: Sequence[int] | None, names: Mapping[int, str] | None = None) -> str:
    """Return numbers of classes, or their names, as the text of one cell."""
    return SEVERAL.join(str((names or {}).get(n, n)) for n in numbers or ())


def _paths(dataset: Any, indices: Sequence[int]) -> list[str] | None:
    """Return the paths of samples below the root of a folder, None without one."""
    files = files_below_root(dataset)
    return files and [files[index] for index in indices]


def _write(table: DataFrame, path: Path) -> None:
    """Write a CSV file, numbers with six digits."""
    try:
        with replacing(path) as new:
            kept = {"errors": "surrogateescape"}  # names that are not UTF-8
            table.to_csv(new, index=False, float_format="%.6g", **kept)
    except OSError as error:
        raise unwritable(path, error) from error
