"""Data that lack what a run needs, refused before anything is trained."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch.utils.data import DistributedSampler

from stable_ssl.config import ConfigError
from stable_ssl.data.facts import source
from stable_ssl.data.folder import ImageFolder


def check_views(
    loader: Any, exact: int | dict[str, int] | None, least: int, method: str
) -> None:
    """Refuse a train loader that makes more or fewer views than a method needs.

    Args:
        loader: its `views` are counted; one that does not tell passes.
        exact: views of an image, of each loader by name where there are several; None
            asks for `least` or more.
        least: see `exact`.
        method: name of the trainer's class, for the message.

    Raises:
        ConfigError: says how many there are and how many are needed.
    """
    if isinstance(exact, dict):
        parts = getattr(loader, "loaders", {})
        views = {name: len(part.views) for name, part in parts.items()}
        if loader is not None and views != exact:
            raise ConfigError(
                f"data.train makes the views {views}, and {method} needs {exact}; write"
                " it as data=digits_few does"
            )
        return
    found = len(getattr(loader, "views", ()))
    if found and (found < least or exact not in (None, found)):
        raise ConfigError(
            f"data.train.dataset.image_transform makes views: {found}, and"
            f" {method} needs {exact or f'{least} or more'}; one list of ops is one"
            " view, a list of lists several, global ones first"
        )


def check_alike(loaders: Mapping[str, Any], main: str | None = None) -> None:
    """Refuse splits whose images or classes are not those of the first.

    An image of train that is in val or test too is warned of: its figures are no
    measure of what is new.

    Args:
        loaders: by split; what another library's loaders read is not known.
        main: of several train loaders, the one with labels.

    Raises:
        ConfigError: other channels, or another number for a class of the same name.
    """
    channels: dict[str, int] = {}
    numbers: dict[str, Mapping[str, int]] = {}
    for split, loader in _parts(loaders, main):
        if not loader.streams and not loader.external:  # which may change the channels
            channels[split] = loader.channels
        known = getattr(source(loader.dataset), "class_to_idx", None)
        if known and split != "predict":
            numbers[split] = known
    for split, found in channels.items():
        first, expected = next(iter(channels.items()))
        if found != expected:
            raise ConfigError(
                f"data.{split} has images of {found} channels, data.{first} of"
                f" {expected}; is one of them a recipe's below? set data.{split}=null,"
                " or to images like the others"
            )
    for split, known in numbers.items():
        first, expected = next(iter(numbers.items()))
        for name in known.keys() & expected.keys():
            if known[name] != expected[name]:
                raise ConfigError(
                    f"the class {name} is number {known[name]} in data.{split} and"
                    f" {expected[name]} in data.{first}; give both datasets one"
                    " class_to_idx, or one root and a subset"
                )
    _warn_of_seen(loaders)


def _parts(loaders: Mapping[str, Any], main: str | None) -> Iterator[tuple[str, Any]]:
    """Yield this library's loaders by split; of several, the one with labels."""
    for split, loader in loaders.items():
        loader = getattr(loader, "loaders", {main: loader})[main]
        if hasattr(loader, "streams"):
            yield split, loader


def _warn_of_seen(loaders: Mapping[str, Any]) -> None:
    """Warn of files of train that are in val or test, too."""
    files: dict[str, set[Any]] = {}
    for split, loader in loaders.items():
        if split in ("bank", "predict"):
            continue
        for part in getattr(loader, "loaders", {split: loader}).values():
            folder, rows = source(part.dataset), getattr(part.dataset, "rows", None)
            if not isinstance(folder, ImageFolder):
                continue
            rows = range(len(folder.samples)) if rows is None else rows.tolist()
            found = files.setdefault(split, set())
            found.update(folder.samples[row][0] for row in rows)
    trained = files.pop("train", set())
    for split, found in files.items():
        if both := trained & found:
            warnings.warn(
                f"{len(both)} of the {len(found)} images of data.{split} are in"
                f" data.train, too, {min(both)} among them; give both the same shares"
                " (val_size, test_size, seed) and their own subset",
                stacklevel=3,
            )


def check_train(loader: Any, accumulate: int, ranks: int) -> None:
    """Refuse a step of micro-batches of unlike size; warn of data that ranks share.

    Args:
        loader: of train; of another library's, only its sampler is looked at.
        accumulate: micro-batches a step.
        ranks: processes of the run.

    Raises:
        ConfigError: the last micro-batch would weigh as much as a whole one.
    """
    for part in getattr(loader, "loaders", {"": loader}).values():
        sampler = getattr(part, "sampler", None)
        if not hasattr(part, "streams"):
            if ranks > 1 and not isinstance(sampler, DistributedSampler):
                warnings.warn(
                    f"the train loader, a {type(part).__name__}, has no"
                    f" DistributedSampler: {ranks} processes see the same samples",
                    stacklevel=3,
                )
            continue
        whole = part.streams or sampler.drop_last
        if accumulate > 1 and not whole and (rest := sampler.size % part.batch_size):
            raise ConfigError(
                f"optim.accumulate={accumulate} would weigh the last micro-batch, of"
                f" {rest} images, as one of {part.batch_size}; remove drop_last: false"
            )


def check_split(mode: str, splits: Iterable[str]) -> None:
    """Refuse to evaluate a split that the data does not have.

    Args:
        mode: validate or test; others need none of the two.
        splits: names of the loaders: `val`, or `val_<name>` of several.

    Raises:
        ConfigError: no such split.
    """
    split = {"validate": "val", "test": "test"}.get(mode)
    if split and not any(name.partition("_")[0] == split for name in splits):
        raise ConfigError(f"mode={mode} needs data.{split}, which is null")
