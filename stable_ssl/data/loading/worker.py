"""What a data worker does: read samples, begin their views, make them one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate

from stable_ssl import seeding
from stable_ssl.data.datasets import Source, sample_name
from stable_ssl.data.fields import Fields, as_class, as_classes
from stable_ssl.data.images.decode import of_numbers
from stable_ssl.data.images.unreadable import Unreadable, is_of_reading
from stable_ssl.data.loading.head import Head
from stable_ssl.data.loading.sampler import BatchSampler, Part
from stable_ssl.schema import ConfigError, described

READ_VIEW = -1  # number of no view: its key seeds what a dataset itself draws
TRIES = 100  # images that are tried in the place of one, itself the first
# what torch raises for samples that make no batch
UNLIKE = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)


# --- samples --------------------------------------------------------------------------


class Sample(NamedTuple):
    """One sample, its views begun; without views if it could not be read."""

    draw: int
    views: list[Any] | None = None
    label: Any = None
    extras: tuple = ()  # further entries of the dataset
    failures: Sequence[str] = ()  # what could not be read
    error: str | None = None  # that is no image's fault, and ends the run


@dataclass(eq=False)
class Reader:
    """Make samples of what a dataset returns."""

    dataset: Dataset
    fields: Fields  # of its samples
    heads: Sequence[Head]  # one a view, or one for all
    seed: int  # of the views

    def sample(self, read: Callable[[], Any], epoch: int, draw: int) -> Sample:
        """Read a sample, take it apart and begin its views."""
        name = sample_name(self.dataset, self.row(draw))
        try:
            image, label, extras = self.fields(read(), name)
            views = self._begin(image, epoch, draw, name)
            return Sample(draw, views, label, extras)
        except Exception as error:
            return _said(error, draw, name)

    def row(self, draw: int | Tensor) -> int | Tensor:
        """Return which sample a draw is, or many are."""
        return draw

    def _begin(self, image: Any, epoch: int, draw: int, name: str) -> list[Any]:
        """Run each view's head on one image, or on its own one of several.

        Raises:
            ConfigError: there are several images, and other views than one each.
        """
        several = isinstance(image, (list, tuple)) and not of_numbers(image)
        images = image if several else [image] * len(self.heads)
        heads = self.heads * len(images) if len(self.heads) == 1 else self.heads
        if not images or len(images) != len(heads):
            raise ConfigError(
                f"{name} has {len(images)} images, and image_transform makes"
                f" {len(heads)} views; write one list of ops for all of them, or one"
                " for each"
            )
        begun, decoded = [], {}  # of one image, once for all views
        for v, (head, entry) in enumerate(zip(heads, images, strict=True)):
            key = seeding.sample_key(self.seed, epoch, draw, v)
            if several or head.external:
                begun.append(head(entry, key, name))
                continue
            if head.image_ops not in decoded:
                decoded[head.image_ops] = head.decoded(entry, name)
            begun.append(head.begin(*decoded[head.image_ops], key))
        return begun


def _said(error: Exception, draw: int, name: str) -> Sample:
    """Return a sample that says why it could not be read; raise a mistake in code.

    In words, for torch would send a worker's error with its traceback.
    """
    if isinstance(error, Unreadable):
        return Sample(draw, failures=[" ".join(str(error).split())])
    if isinstance(error, ConfigError):
        return Sample(draw, error=str(error))
    if is_of_reading(error):
        return Sample(draw, failures=[f"{name}: {described(error)}"])
    raise error


@dataclass(eq=False)
class Samples(Reader, Dataset):
    """Read the samples of a map-style dataset, a part of a batch at a time."""

    size: int  # of the dataset

    def __getitems__(self, part: Part) -> list[Sample]:
        return [self._one(part, i) for i in range(len(part.draws))]

    def row(self, draw: int | Tensor) -> int | Tensor:
        """Return which sample of the dataset a draw is, or many are."""
        return draw % self.size

    def _one(self, part: Part, i: int) -> Sample:
        """Return a sample, or if it cannot be read one of those that follow it."""
        failures: dict[int, Sequence[str]] = {}  # by row, each of which is read once
        for draw in chain([part.draws[i]], part.instead(i, self.size)):
            if (row := self.row(draw)) in failures:
                continue
            read = partial(self._read, part.epoch, draw)
            sample = self.sample(read, part.epoch, draw)
            failures[row] = sample.failures
            if not sample.failures:
                break
        return sample._replace(failures=[*chain.from_iterable(failures.values())])

    def _read(self, epoch: int, draw: int) -> Any:
        if isinstance(self.dataset, Source):  # draws nothing
            return self.dataset[self.row(draw)]
        key = seeding.sample_key(self.seed, epoch, draw, READ_VIEW)
        with seeding.keyed(key):
            return self.dataset[self.row(draw)]


@dataclass(eq=False)
class Stream(Reader, IterableDataset):
    """Read an iterable dataset in order, from a batch on; sample i is its i-th.

    The dataset's draws come from global generators, seeded by (seed, epoch, pass).
    """

    sampler: BatchSampler  # gives epoch, first batch, and this process's part
    endless: bool  # whether to start again where the data ends

    def __iter__(self) -> Iterator[Sample]:
        epoch, batch_size = self.sampler.epoch, self.sampler.batch_size
        first = self.sampler.start * batch_size
        share = set(self.sampler.share(torch.arange(batch_size)).tolist())
        waiting: list[Sample] = []  # unreadable; the next one takes their place, too
        try:
            for draw, given in enumerate(self._passes(epoch)):
                own = draw >= first and draw % batch_size in share
                if not own and not waiting:
                    continue
                with seeding.preserve_rng():  # ops must not shift its draws
                    take = partial(self.sample, lambda given=given: given, epoch)
                    sample = take(draw)
                    if sample.failures and len(waiting) < self.sampler.spares:
                        waiting += [sample] * own
                        continue
                    if not sample.failures:
                        waiting = [
                            take(other.draw)._replace(failures=other.failures)
                            for other in waiting
                        ]
                yield from [*waiting, *[sample] * own]
                waiting = []
            yield from waiting
        except Exception as error:
            said = _said(error, 0, type(self.dataset).__name__)
            unread = "; ".join([*said.failures, "a stream cannot go on from it"])
            yield Sample(0, error=said.error or unread)

    def _passes(self, epoch: int) -> Iterator[Any]:
        for number in count() if self.endless else [0]:
            given = None
            key = seeding.sample_key(self.seed, epoch, number, READ_VIEW)
            with seeding.keyed(key):
                for given in self.dataset:
                    yield given
            if given is None:
                raise ConfigError("the iterable dataset of a train loader is empty")


@dataclass(eq=False)
class Trial(Dataset):
    """Read samples of the first epoch before it begins, anew at each start.

    Args:
        source: of the samples.
        rows: which of them; of a stream, its first ones, as many.
        replaces: an unreadable one by the next of the dataset.
    """

    source: Samples | Stream
    rows: Sequence[int]
    replaces: bool

    def __getitem__(self, start: int) -> list[Sample]:
        if isinstance(self.source, Stream):
            return list(islice(self.source, len(self.rows)))
        size = self.source.size
        tries = min(size, TRIES) if self.replaces else 1
        samples = []
        for row in self.rows:
            spares = [(row + k) % size for k in range(1, tries)]
            samples += self.source.__getitems__(Part(0, [row], spares))
        return samples


# --- batches --------------------------------------------------------------------------


class Batch(NamedTuple):
    """What a worker hands over; no views where nothing could be read."""

    views: list[Any]  # one a view, of images (N, C, H, W)
    labels: Any = None
    extras: tuple = ()  # further entries of the samples, collated
    draws: Tensor | None = None
    failures: Sequence[str] = ()
    error: str | None = None  # ends the run, whatever data.on_error is


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples, leaving out what could not be read."""
    empty = Batch([], failures=[failure for s in samples for failure in s.failures])
    if errors := [s.error for s in samples if s.error is not None]:
        return empty._replace(error=errors[0])
    samples = [s for s in samples if s.views is not None]
    if not samples:
        return empty
    forms = {(len(s.views), len(s.extras)) for s in samples}
    if len(forms) > 1:
        text = (
            "samples with other numbers of (images, further entries) make no batch:"
            f" {sorted(forms)}; return as many for every sample"
        )
        return empty._replace(error=text)
    try:
        views = list(map(_stacked, zip(*(s.views for s in samples), strict=True)))
        labels = as_classes(default_collate([as_class(s.label) for s in samples]))
    except ConfigError as error:
        return empty._replace(error=str(error))
    except UNLIKE as error:
        text = (
            f"the labels of the dataset make no batch ({described(error)}); return"
            " numbers, texts, or tensors of one shape, alike for every sample"
        )
        return empty._replace(error=text)
    extras = zip(*(s.extras for s in samples), strict=True)
    draws = torch.tensor([s.draw for s in samples])
    return Batch(views, labels, tuple(map(_together, extras)), draws, empty.failures)


def _stacked(images: Sequence[Any]) -> Any:
    """Return a view of every sample as one, (N, ...).

    Raises:
        ConfigError: they differ in shape or type.
    """
    with suppress(*UNLIKE):
        if not isinstance(images[0], Tensor):
            return default_collate(images)
        if len({image.dtype for image in images}) == 1:  # stack would mix their ranges
            return torch.stack(images)
    kinds = sorted(set(map(_kind, images)))
    raise ConfigError(
        f"images of {' and '.join(kinds[:2])} do not stack; begin the image_transform"
        " with an op that fixes the size (random_resized_crop, or resize and"
        " center_crop), and give all one type and the same channels, as channels: rgb"
        " or grey of an image folder does"
    )


def _kind(image: Any) -> str:
    """Return the type and shape of a tensor, or the name of another type."""
    if not isinstance(image, Tensor):
        return type(image).__name__
    return f"{str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}"


def _together(values: Sequence[Any]) -> Any:
    """Return one entry of every sample as torch does, or as a list where it cannot."""
    try:
        return default_collate(list(values))
    except UNLIKE:
        return list(values)
