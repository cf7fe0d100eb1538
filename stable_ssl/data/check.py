"""Checks that the data have what a run needs, before anything is trained."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from itertools import combinations

import torch
from torch import Tensor

from stable_ssl.data.batch_sizes import Sizes
from stable_ssl.data.combined import named_parts
from stable_ssl.data.datasets import Source, class_names
from stable_ssl.data.loading.loader import Loader
from stable_ssl.data.loading.sampler import BatchSampler
from stable_ssl.schema import ConfigError

STARTS = 4  # samples that are read twice and compared


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
                if loader.workers is None:  # held, so that nothing is read
                    continue
                loader.workers.check_sendable()
                own = any(head.external for head in loader.heads)
                if split == "train" and (own or not isinstance(loader.dataset, Source)):
                    _warn_of_other_starts(loader)
            except ConfigError as error:
                at = f"data.{split}" if name is None else f"data.{split}.{name}"
                raise type(error)(f"{at}: {error}") from error.__cause__


def _warn_of_other_starts(loader: Loader) -> None:
    """Warn of a dataset that draws from a generator of its own, which no key seeds."""
    count = STARTS if loader.streams else min(STARTS, len(loader.dataset))
    first, second = loader.trial(range(count), starts=2)
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

    Args:
        loaders: `Loader`, `Combined`, or one that was brought, by split.
        labelled: of several train loaders, the one with labels.

    Raises:
        ConfigError: other channels, or another number for a class of the same name.
    """
    channels: dict[str, int] = {}
    known: dict[str, dict[int, str]] = {}  # names of the classes
    for split, combined in loaders.items():
        loader = named_parts(combined, labelled)[labelled]
        if isinstance(loader, Loader) and not loader.streams:  # a stream would begin
            channels[split] = loader.channels
            first, expected = next(iter(channels.items()))
            if loader.channels != expected:
                raise ConfigError(
                    f"data.{split} has images of {loader.channels} channels,"
                    f" data.{first} of {expected}; is one of them a recipe's below? set"
                    f" data.{split}=null, or to images like the others"
                )
        if split != "predict":  # its labels are copied, not read
            known[split] = class_names(getattr(loader, "dataset", None))
    for (first, names), (split, others) in combinations(known.items(), 2):
        _refuse_other_numbers(first, names, split, others)


def _refuse_other_numbers(
    first: str, names: Mapping[int, str], split: str, others: Mapping[int, str]
) -> None:
    """Refuse two splits that give a class of one name different numbers.

    Args:
        first: a split.
        names: of its classes by number; one name may have several.
        split: another split.
        others: of its classes.
    """
    numbers = {name: number for number, name in names.items()}
    for number, name in others.items():
        if name in numbers and names.get(number) != name:
            raise ConfigError(
                f"the class {name} is number {number} in data.{split} and"
                f" {numbers[name]} in data.{first}; give both datasets one list of"
                " classes (class_to_idx), or one root and a subset"
            )


def check_sizes(
    sampler: BatchSampler | Sizes,
    *,
    train: bool,
    accumulate: int = 1,
    minimum: int = 1,
    method: str = "",
) -> None:
    """Refuse too few samples, and batches whose parts would differ in size.

    The parts of processes and the micro-batches of a step weigh the same, whatever
    their sizes, for a loss is a mean.

    Args:
        sampler: of a loader, or what `sizes_of` says of one that is brought.
        train: whether it is trained on.
        accumulate: micro-batches a step.
        minimum: samples of a batch, over all processes, that the method needs.
        method: name of the trainer's class, for the message.

    Raises:
        ConfigError: says which number is wrong, and what to set.
    """
    batch_size, rest, ranks = sampler.batch_size, sampler.rest, sampler.world_size
    size = math.inf if sampler.size is None else sampler.size
    given = f"data.batch_size={batch_size}"
    last = f"drop_last=false leaves a last batch of {rest}"
    if not size:
        text = "a dataset has no samples; mend it, or set the split to null"
    elif size < ranks:
        text = f"{size} samples for {ranks} processes; use fewer of them"
    elif train and size < batch_size:
        text = f"{given}, but the train split has {size} samples; use a smaller batch"
    elif train and batch_size % ranks:
        text = f"{given} is not divisible by {ranks} processes; use a multiple of that"
    elif batch_size < minimum:
        text = f"{given}, and {method} needs {minimum} images a batch; use more"
    elif train and rest % ranks:
        text = f"{last}, not divisible by {ranks} processes; set it to true"
    elif rest and accumulate > 1:
        text = (
            f"{last}, and optim.accumulate={accumulate} needs all whole; set it to true"
        )
    elif 0 < rest < minimum:
        text = f"{last}, and {method} needs {minimum} images; set it to true"
    else:
        return
    raise ConfigError(text)


def warn_of_compiling() -> None:
    """Warn of views that are compiled for a CPU, which only loses there."""
    warnings.warn(
        "data.compile=true on a CPU, where compiled views took 1.1 times as long as"
        " others, after 58 s to compile them; leave it to a GPU",
        stacklevel=2,
    )
