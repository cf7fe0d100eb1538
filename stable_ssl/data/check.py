"""Checks that the data have what a run needs, before anything is trained."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from stable_ssl.data.class_names import source
from stable_ssl.data.combined import named_parts, split_datasets
from stable_ssl.data.folder import ImageFolder
from stable_ssl.data.loader import Loader
from stable_ssl.schema import ConfigError

STARTS = 4  # samples that are read twice and compared


def check_views(
    loader: Any, exact: int | dict[str, int] | None, minimum: int, method: str
) -> None:
    """Refuse a train loader that makes more or fewer views than a method needs.

    Args:
        loader: its `views` are counted; one without that attribute passes.
        exact: views of an image, of each loader by name where there are several; None
            asks for `minimum` or more.
        minimum: see `exact`.
        method: name of the trainer's class, for the message.

    Raises:
        ConfigError: says how many there are and how many are needed.
    """
    parts = named_parts(loader).items()
    counts = {name: _count_views(part) for name, part in parts}
    if isinstance(exact, dict):
        counts.pop("", None)  # of a single loader, which has no name
        if loader is not None and counts != exact:
            raise ConfigError(
                f"data.train makes the views {counts}, and {method} needs {exact};"
                " write it as data=digits_few does"
            )
        return
    views = counts.get("", 0)
    if views and (views < minimum or exact not in (None, views)):
        raise ConfigError(
            f"data.train.dataset.image_transform makes views: {views}, and"
            f" {method} needs {exact or f'{minimum} or more'}; one list of ops is one"
            " view, a list of lists several, global ones first"
        )


def _count_views(loader: Iterable) -> int:
    """Return how many views a loader makes: a dataset may have several images each."""
    count = len(getattr(loader, "views", ()))
    if count == 1 and not loader.streams and loader.workers is not None:
        count = len(loader.example.views)
    return count


def check_examples(loaders: Mapping[str, Iterable]) -> None:
    """Refuse data of which not even the first sample becomes a view.

    Args:
        loaders: `Loader` or `Combined` by split; that of train is begun twice, to warn
            if the second start is another.

    Raises:
        ConfigError: names the split, and says what is wrong.
    """
    for split, combined in loaders.items():
        for name, loader in named_parts(combined, None).items():
            try:
                _ = loader.streams or loader.example
                if split == "train" and loader.workers is not None:
                    _warn_of_other_starts(loader)
            except ConfigError as error:
                at = f"data.{split}" if name is None else f"data.{split}.{name}"
                raise type(error)(f"{at}: {error}") from error.__cause__


def _warn_of_other_starts(loader: Loader) -> None:
    """Warn of a dataset that draws from a generator of its own, which no key seeds."""
    first, second = (loader.first_samples(STARTS) for _ in range(2))
    same = len(first) == len(second) and all(
        torch.equal(a, b)
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one.views or (), other.views or (), strict=False)
        if isinstance(a, Tensor) and isinstance(b, Tensor)
    )
    if not same:
        warnings.warn(
            f"two starts of {type(loader.dataset).__name__} gave different samples, so"
            " that the run cannot be repeated or resumed exactly; let it draw from the"
            " global generators of python, numpy or torch, which are keyed, or seed its"
            " own by torch.initial_seed()",
            stacklevel=3,
        )


def check_alike(loaders: Mapping[str, Iterable], labelled: str | None = None) -> None:
    """Refuse splits whose images or classes are not those of the first.

    Warn of train images in val or test: accuracy on them measures no generalisation.

    Args:
        loaders: `Loader` or `Combined` by split.
        labelled: of several train loaders, the one with labels.

    Raises:
        ConfigError: other channels, or another number for a class of the same name.
    """
    channels: dict[str, int] = {}
    numbers: dict[str, Mapping[str, int]] = {}
    for split, combined in loaders.items():
        loader = named_parts(combined, labelled)[labelled]
        if not loader.streams:  # to read from one takes a sample from it
            channels[split] = loader.channels
        class_to_idx = getattr(source(loader.dataset), "class_to_idx", None)
        if class_to_idx and split != "predict":
            numbers[split] = class_to_idx
    for split, count in channels.items():
        first, expected = next(iter(channels.items()))
        if count != expected:
            raise ConfigError(
                f"data.{split} has images of {count} channels, data.{first} of"
                f" {expected}; is one of them a recipe's below? set data.{split}=null,"
                " or to images like the others"
            )
    for split, class_to_idx in numbers.items():
        first, expected = next(iter(numbers.items()))
        for name in class_to_idx.keys() & expected.keys():
            if class_to_idx[name] != expected[name]:
                raise ConfigError(
                    f"the class {name} is number {class_to_idx[name]} in data.{split}"
                    f" and {expected[name]} in data.{first}; give both datasets one"
                    " class_to_idx, or one root and a subset"
                )
    _warn_of_leakage(loaders)


def _warn_of_leakage(loaders: Mapping[str, Iterable]) -> None:
    """Warn of files of train that are in val or test, too."""
    trained: set[Path] = set()
    for split, dataset in split_datasets(loaders).items():  # train comes first
        folder, rows = source(dataset), getattr(dataset, "rows", None)
        if not isinstance(folder, ImageFolder):
            continue
        rows = range(len(folder)) if rows is None else rows.tolist()
        files = {folder.samples[row][0] for row in rows}
        if split.partition("_")[0] == "train":
            trained |= files
        elif shared := trained & files:
            warnings.warn(
                f"{len(shared)} of the {len(files)} images of data.{split} are in"
                f" data.train, too, {min(shared)} among them; give both the same shares"
                " (val_size, test_size, seed) and their own subset",
                stacklevel=3,
            )


def check_train(loader: Iterable, accumulate: int, ranks: int) -> None:
    """Refuse a step whose micro-batches differ in size; warn if ranks share samples.

    Args:
        loader: of train; of another library's loader only the sampler is checked.
        accumulate: micro-batches a step.
        ranks: processes of the run.

    Raises:
        ConfigError: the last micro-batch would weigh as much as a whole one.
    """
    for part in named_parts(loader).values():
        sampler = getattr(part, "sampler", None)
        if not isinstance(part, Loader):
            if ranks > 1 and not isinstance(sampler, DistributedSampler):
                warnings.warn(
                    f"the train loader, a {type(part).__name__}, has no"
                    f" DistributedSampler: {ranks} processes see the same samples",
                    stacklevel=3,
                )
            continue
        full = part.streams or sampler.drop_last  # every batch of an epoch is
        if accumulate > 1 and not full and (rest := sampler.size % part.batch_size):
            raise ConfigError(
                f"optim.accumulate={accumulate} would weigh the last micro-batch, of"
                f" {rest} images, as one of {part.batch_size}; remove drop_last: false"
            )


def check_batch(loader: Iterable, minimum: int, method: str) -> None:
    """Refuse batches of fewer images than a method learns from.

    Args:
        loader: of train; several, one of another library, and one whose collate_fn may
            make more images of one, pass.
        minimum: images of a batch, over all processes.
        method: name of the trainer's class, for the message.

    Raises:
        ConfigError: of every batch, or of the last one of an epoch.
    """
    if not isinstance(loader, Loader) or loader.collate_fn is not None:
        return
    if loader.batch_size < minimum:
        raise ConfigError(
            f"data.batch_size={loader.batch_size}, and {method} needs {minimum} images"
            " a batch, over all processes; use as many or more"
        )
    whole = loader.streams or loader.sampler.drop_last  # every batch is
    rest = 0 if whole else loader.sampler.size % loader.batch_size
    if 0 < rest < minimum:
        raise ConfigError(
            f"drop_last=false leaves a last batch of {rest}, and {method} needs"
            f" {minimum} images; set it to true"
        )


def check_split(mode: str, splits: Iterable[str]) -> None:
    """Refuse to evaluate a split that the data does not have.

    Args:
        mode: validate or test; other modes need neither split.
        splits: names of the loaders: `val`, or `val_<name>` of several.

    Raises:
        ConfigError: no such split.
    """
    split = {"validate": "val", "test": "test"}.get(mode)
    if split and not any(name.partition("_")[0] == split for name in splits):
        raise ConfigError(f"mode={mode} needs data.{split}, which is null")
