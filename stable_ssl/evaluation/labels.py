"""The labels that a dataset holds, looked at before they are an index out of range."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from stable_ssl import seeding
from stable_ssl.batch import known_length
from stable_ssl.data import Loader
from stable_ssl.data.datasets import Source
from stable_ssl.data.fields import UNLABELLED, as_class, as_classes
from stable_ssl.data.loading.processes import read_beside
from stable_ssl.data.sources.source import labelled_files
from stable_ssl.evaluation.evaluator import (
    Evaluator,
    OnlineEvaluator,
)
from stable_ssl.schema import ConfigError


def held_labels(loader: Any) -> torch.Tensor | None:
    """Return a loader's labels; None where images must be read for them."""
    dataset = getattr(loader, "dataset", None)
    labels = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if getattr(dataset, "target_transform", None) is not None:
        return None
    try:
        if labels is None:
            labels = [label for _, label in labelled_files(dataset)]
        labels = as_classes(torch.as_tensor(labels))
    except (TypeError, ValueError, RuntimeError):
        return None
    if not (labels.ndim and len(labels)):
        return None
    return labels if known_length(dataset) in (None, len(labels)) else None


def _has_them(loader: Any, labels: torch.Tensor) -> bool:
    """Return whether a dataset's samples have the extremes of the labels (N,) it holds.

    A user's own may change them as it reads a sample.
    """
    if isinstance(loader.dataset, IterableDataset):
        return False  # it would have to be begun
    if not _may_change(loader):
        return True
    rows = [int(labels.argmin()), int(labels.argmax())]
    return _labels_of(loader, rows) == labels[rows].tolist()


def _may_change(loader: Any) -> bool:
    """Return whether a dataset is a user's own, whose samples can be asked."""
    dataset = loader.dataset
    if isinstance(dataset, (Source, IterableDataset)):
        return False
    return hasattr(dataset, "__getitem__")


def _labels_of(loader: Any, rows: Sequence[int]) -> list[Any]:
    """Return the labels of samples that are read, as numbers if they are whole.

    None where the sample is no pair, so that only a collate_fn knows.
    """
    with seeding.preserve_rng():
        if isinstance(loader, Loader):
            return [as_class(sample.label) for sample in loader.trial(rows)[0]]
        if isinstance(loader, DataLoader):
            samples = read_beside(loader.dataset, rows, loader)
        else:
            samples = [loader.dataset[row] for row in rows]
    return [
        as_class(sample[1])
        if isinstance(sample, (tuple, list)) and sample[1:]
        else None
        for sample in samples
    ]


def with_labels(batch: Any, numbers: bool = True) -> tuple[Any, torch.Tensor]:
    """Return views and labels of a batch; refuse what only a user's loader makes.

    Args:
        batch: (views, labels, ...).
        numbers: whether somebody reads the labels as numbers of classes, (N,).

    Raises:
        ConfigError: it is no pair of images and a tensor of a whole number each, but a
            dict, or has a dict of several kinds of labels, or some in another shape.
    """
    found = f"is a {type(batch).__name__}"
    if isinstance(batch, (tuple, list)) and len(batch) > 1:
        x, labels, *_ = batch
        labels = as_classes(labels) if numbers else labels
        if isinstance(labels, torch.Tensor):
            whole = not (labels.is_floating_point() or labels.is_complex())
            if not numbers or (labels.ndim == 1 and whole):
                return x, labels
            found = f"has labels of shape {tuple(labels.shape)}, of {labels.dtype}"
        else:
            found = f"has labels of the type {type(labels).__name__}"
    raise ConfigError(
        f"a batch {found}, and the evaluators need one whole number an image; set"
        " log.eval.linear=null and log.eval.knn=null, or let the loader yield (images,"
        " numbers, what else there is)"
    )


def highest(labels: torch.Tensor) -> torch.Tensor:
    """Return the largest label of a batch, () on its device; -1 of what is no class."""
    if labels.ndim != 1 or labels.is_floating_point() or not len(labels):
        return torch.tensor(UNLABELLED, device=labels.device)
    return labels.long().amax()


def check_highest(label: int, num_classes: int, split: str) -> None:
    """Refuse a label that is no class of `num_classes`; a negative one is none.

    Raises:
        ConfigError: names the split that a loader read it in.
    """
    if label >= num_classes:
        raise ConfigError(
            f"{split} has the label {label}, and {num_classes} classes are numbered"
            f" from 0 to {num_classes - 1}, with -1 for none; subtract 1 from labels"
            f" that begin with 1, or set data.num_classes={label + 1}"
        )


def held_classes(loader: Any) -> torch.Tensor | None:
    """Return a loader's labels (N,), numbers of classes; None where there are none."""
    labels = held_labels(loader)
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        return None
    return labels


def label_range(loader: Any) -> tuple[int, int] | None:
    """Return a loader's least and largest label; None where there is none, or many."""
    labels = held_classes(loader)
    return None if labels is None else (int(labels.min()), int(labels.max()))


def check_bank(loader: Any, evaluators: Iterable[Evaluator]) -> None:
    """Let evaluators refuse a bank that is too small, as far as its dataset tells."""
    sampler, labels = getattr(loader, "sampler", None), held_labels(loader)
    size = getattr(sampler, "size", None)
    if size is None:  # of another library's loader, or a stream
        return
    if getattr(sampler, "sampler", None) is not None:
        labels = None  # it chooses among them
    if labels is not None and labels.ndim == 1 and bool((labels < 0).any()):
        labels = labels[labels >= 0] if _has_them(loader, labels) else None
    if labels is not None and labels.ndim == 1:
        size = len(labels)
    for evaluator in evaluators:
        evaluator.check_bank(size, labels)


def require_labels(loader: Any, num_classes: int | None, method: str) -> None:
    """Refuse train data without labels for a method that learns from them.

    Args:
        loader: of train; None where nothing is trained.
        num_classes: of the labels.
        method: name of the trainer's class, for the message.

    Raises:
        ConfigError: no classes, or images without labels.
    """
    labels = held_classes(loader)
    unlabelled = labels is not None and int(labels.min()) < 0
    if num_classes is None or (unlabelled and _has_them(loader, labels)):
        raise ConfigError(
            f"{method} found no labels in the train data; choose labelled data, and set"
            " data.num_classes if it does not state it"
        )
    if isinstance(loader, Loader):
        loader.learner = method  # asks of labels that are not held


def _no_numbers(loader: Any) -> str:
    """Return what a loader's labels are instead of one whole number an image, or "".

    Those that are not held are known by the first sample, unless a stream would have to
    be begun for it, or a collate_fn makes others.
    """
    if isinstance(loader, Loader) and not loader.streams and loader.collate_fn is None:
        labels = loader.example.labels
    else:
        labels = held_labels(loader)
        held = labels is not None and _may_change(loader)
        if held and type(_labels_of(loader, [0])[0]) is int:
            return ""
    if labels is None:
        return ""
    if not isinstance(labels, torch.Tensor):
        texts = isinstance(labels, list) and isinstance(labels[0], str)
        return f"of the type {'str' if texts else type(labels).__name__}"
    if labels.ndim > 1:
        return f"of shape {tuple(labels.shape[1:])} each"
    if labels.is_floating_point() or labels.dtype == torch.bool:
        return f"of the type {labels.dtype}"
    return ""


def check_labels(
    loaders: Mapping[str, Any],
    num_classes: int | None,
    evaluators: Mapping[str, Evaluator],
) -> None:
    """Refuse labels that `num_classes` leaves out, and none where they are needed.

    Args:
        loaders: by split.
        num_classes: of the dataset; None evaluates nothing on labels.
        evaluators: by name.

    Raises:
        ConfigError: in words; nothing is said of labels that only reading would show.
    """
    readers = {n: e for n, e in evaluators.items() if e.needs_labels}
    online = any(isinstance(e, OnlineEvaluator) for e in readers.values())
    bank = any(e.needs_bank for e in readers.values())
    needed = {"train": online, "bank": bank}
    nodes = dict.fromkeys(e.key or name for name, e in readers.items())
    off = f" set {' and '.join(f'log.eval.{node}=null' for node in nodes)}"
    for split, loader in loaders.items() if num_classes else ():
        if split == "predict":
            continue  # its labels are copied, not read
        reads = needed.get(split, online or bank)
        if reads and (form := _no_numbers(loader)):
            raise ConfigError(
                f"{split} has labels {form}, and {', '.join(readers)} need one whole"
                f" number an image;{off}"
            )
        if reads and isinstance(loader, Loader):
            loader.num_labels = num_classes  # of what is not held
        if (labels := held_classes(loader)) is None:
            continue
        most = int(labels.max())
        least = int(labels[labels >= 0].min()) if most >= 0 else most
        wrong = most >= num_classes or (most < 0 and reads)
        if wrong and not _has_them(loader, labels):
            continue
        if least > 0 and most == num_classes:
            raise ConfigError(
                f"{split} has labels from {least} to {most}, and classes are numbered"
                f" from 0 to {num_classes - 1}; subtract 1 from each label"
            )
        if most >= num_classes:
            raise ConfigError(
                f"data.num_classes={num_classes}, but {split} has labels up to"
                f" {most}; set it to {most + 1} or more, or to null to ask the dataset"
            )
        if most < 0 and reads:
            raise ConfigError(
                f"{split} has no labels, which {', '.join(readers)} need;"
                + off
                + (", or a labelled data.bank" if split == "bank" else "")
            )
