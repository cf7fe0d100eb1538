"""The workers' side of a loader: read a sample, begin its views, stack a batch.

Ops run here, one sample at a time, while images still differ in size: those of other
libraries, and ours up to the first that gives all images one size.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate

from stable_ssl import seeding
from stable_ssl.data import pil
from stable_ssl.data.augment import External, Op, View
from stable_ssl.data.datasets import Images
from stable_ssl.data.decode import Decode, as_given, of_numbers
from stable_ssl.data.fields import Fields, as_class, as_classes, sample_name
from stable_ssl.data.folder import ImageFolder
from stable_ssl.data.sampler import BatchSampler
from stable_ssl.data.unreadable import Unreadable, is_of_reading
from stable_ssl.schema import ConfigError, described

# what torch raises for samples that make no batch
UNLIKE = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)
TRIES = 100  # images that may take the place of one that cannot be read
READ_VIEW = -1  # number of no view: its key seeds what a dataset itself draws


class Head:
    """The part of a view that runs before batching.

    Args:
        ops: of the whole view; those that see one sample come first.
        decode: how an image becomes a tensor.
    """

    def __init__(self, ops: Sequence[Op | External], decode: Decode):
        external = [i for i, op in enumerate(ops) if isinstance(op, External)]
        fixing = [i for i, op in enumerate(ops) if getattr(op, "fixes_size", False)]
        self.external = list(ops[: len(external)])
        self.decode = decode
        self.finish = Decode() if external else decode  # of what is decoded already
        if external and external[-1] != len(external) - 1:
            raise ConfigError(
                "image_transform: ops by _target_ run one image at a time and come"
                " before those by name, which run on whole batches; move them first"
            )
        self.image_ops = any(op.of_images for op in ops)
        if self.image_ops and not decode.images:
            raise ConfigError(
                "data.decode=false passes on what is no image, and image_transform has"
                " ops for images; remove one of them"
            )
        cut = fixing[0] + 1 if fixing else len(external)
        self.view = View(ops[len(external) : cut], first=len(external))
        self.keeps_bytes = all(op.moves_pixels for op in self.view.ops)
        self.tail = View(ops[cut:], first=cut, images=decode.images)

    def __call__(self, entry: Any, key: Tensor, name: str) -> Any:
        """Return an image as (C, H, W), uint8 or float32; other data as they are.

        Args:
            entry: as the dataset returns it.
            key: of the view, ().
            name: of the sample, for messages.
        """
        if pil.is_image(entry):
            pil.load(entry, name)  # or ops would meet what is wrong with its file
        if self.external:
            entry = self._prepared(entry, name)
        for i, op in enumerate(self.external):
            entry = op(entry, seeding.fold_in(key, i))
        if not self.decode.applies(entry, self.image_ops):
            return as_given(entry)
        pixels = self.finish(entry, name, free=bool(self.external))
        if not self.view.ops:
            return pixels
        view = self.view(pixels[None], key[None])[0]
        if pixels.dtype == torch.uint8 and self.keeps_bytes:
            view = view.mul_(255).round_().to(torch.uint8)
        return view

    def _prepared(self, entry: Any, name: str) -> Any:
        """Return what the first op that sees one sample gets, and may change.

        An image of bytes, grey or RGB, is one of PIL, and any other a tensor (C, H, W),
        whether it was held in memory or not. An op of one's own gets what `Decode`
        refuses, and what is no image, as the dataset returns it.
        """
        own = self.external[0].own
        if self.decode.applies(entry, False):
            try:
                image = self.decode(entry, name, free=own)
            except ConfigError as error:
                if isinstance(error, Unreadable) or not own:
                    raise
            else:
                if image.dtype != torch.uint8 or len(image) not in (1, 3):
                    return image.clone()
                from torchvision.transforms.functional import to_pil_image

                return to_pil_image(image)
        return deepcopy(entry)


class Sample(NamedTuple):
    """One sample as a worker returns it."""

    views: list[Any] | None  # None: it could not be read
    label: Any
    extras: tuple  # further entries of the dataset
    index: int
    failures: list[str]  # what could not be read
    error: str | None = None  # that is no image's fault, and ends the run


@dataclass(eq=False)
class Samples(Dataset):
    """Read samples by (epoch, index) and begin their views."""

    dataset: Dataset  # map-style
    fields: Fields  # of its samples
    heads: Sequence[Head]  # one a view
    seed: int  # of the views
    replace: bool  # an unreadable sample by the next, so that batches keep their size

    def __getitem__(self, position: tuple[int, int]) -> Sample:
        epoch, index = position
        failures: list[str] = []
        for tries in range(min(len(self.dataset), TRIES) if self.replace else 1):
            row = (index + tries) % len(self.dataset) if tries else index
            try:
                name = sample_name(self.dataset, row)
                image, label, extras = self.fields(self._read(epoch, row), name)
                views = begin(self.heads, image, self.seed, epoch, row, name)
                return Sample(views, label, extras, row, failures)
            except Unreadable as error:
                failures.append(" ".join(str(error).split()))
            except ConfigError as error:  # in words: torch would send its traceback
                return Sample(None, None, (), index, failures, str(error))
            except Exception as error:
                if not is_of_reading(error):
                    raise
                failures.append(f"{name}: {described(error)}")
        return Sample(None, None, (), index, failures)

    def _read(self, epoch: int, index: int) -> Any:
        if isinstance(self.dataset, (Images, ImageFolder)):  # these draw nothing
            return self.dataset[index]
        key = seeding.sample_keys(self.seed, epoch, torch.tensor(index), READ_VIEW)
        with seeding.keyed(key):
            return self.dataset[index]


@dataclass(eq=False)
class Stream(IterableDataset):
    """Read an iterable dataset in order, from a batch on; sample i is its i-th.

    The dataset's draws come from global generators, seeded by (seed, epoch, pass).
    """

    dataset: IterableDataset
    fields: Fields  # of its samples
    heads: Sequence[Head]  # one a view
    sampler: BatchSampler  # gives epoch, first batch, and this process's part
    endless: bool  # whether to start again where the data ends

    def __iter__(self) -> Iterator[Sample]:
        try:
            yield from self._samples()
        except ConfigError as error:  # in words: torch would send its traceback
            yield Sample(None, None, (), 0, [], str(error))
        except Exception as error:
            if not is_of_reading(error):
                raise
            text = (
                f"{type(self.dataset).__name__}: {described(error)}; a stream cannot go"
                " on from it"
            )
            yield Sample(None, None, (), 0, [], text)

    def _samples(self) -> Iterator[Sample]:
        sampler, batch_size = self.sampler, self.sampler.batch_size
        first = sampler.start * batch_size
        share = set(sampler.share(torch.arange(batch_size)).tolist())
        for index, sample in enumerate(self._passes()):
            if index >= first and index % batch_size in share:
                name = sample_name(self.dataset, index)
                image, label, extras = self.fields(sample, name)
                seed, epoch = sampler.seed, sampler.epoch
                failures: list[str] = []
                with seeding.preserve_rng():  # ops must not shift the dataset's draws
                    try:
                        views = begin(self.heads, image, seed, epoch, index, name)
                    except Unreadable as error:
                        views = None
                        failures.append(" ".join(str(error).split()))
                yield Sample(views, label, extras, index, failures)

    def _passes(self) -> Iterator[Any]:
        seed, epoch = self.sampler.seed, self.sampler.epoch
        for number in count() if self.endless else [0]:
            key = seeding.sample_keys(seed, epoch, torch.tensor(number), READ_VIEW)
            sample = None
            with seeding.keyed(key):
                for sample in self.dataset:
                    yield sample
            if sample is None:
                raise ConfigError("the iterable dataset of a train loader is empty")


def begin(
    heads: Sequence[Head], image: Any, seed: int, epoch: int, index: int, name: str
) -> list[Any]:
    """Run each view's head on one image, or on its own one of several.

    Raises:
        ConfigError: there are several images, and other views than one each.
    """
    several = isinstance(image, (list, tuple)) and not of_numbers(image)
    images = image if several else [image] * len(heads)
    heads = heads * len(images) if len(heads) == 1 else heads
    if not images or len(images) != len(heads):
        raise ConfigError(
            f"{name} has {len(images)} images, and image_transform makes {len(heads)}"
            " views; write one list of ops for all of them, or one for each"
        )
    return [
        head(image, seeding.sample_keys(seed, epoch, torch.tensor(index), v), name)
        for v, (head, image) in enumerate(zip(heads, images, strict=True))
    ]


class Batch(NamedTuple):
    """What a worker hands over; no views where nothing could be read."""

    views: list[Any]  # one a view, of images (N, C, H, W)
    labels: Any
    extras: tuple  # further entries of the samples, collated
    index: Tensor | None
    failures: list[str]
    error: str | None = None  # ends the run, whatever data.on_error is


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples, leaving out what could not be read."""
    failures = [failure for s in samples for failure in s.failures]
    errors = [s.error for s in samples if s.error is not None]
    empty = Batch([], None, (), None, failures, *errors[:1])
    decoded = [s for s in samples if s.views is not None]
    if errors or not decoded:
        return empty
    labels = [as_class(s.label) for s in decoded]
    index = torch.tensor([s.index for s in decoded])
    try:
        columns = zip(*(s.views for s in decoded), strict=True)
        views = [_stacked(images) for images in columns]
        labels = as_classes(default_collate(labels))
    except ConfigError as error:
        return empty._replace(error=str(error))
    except UNLIKE as error:
        text = (
            f"the labels of the dataset make no batch ({described(error)}); return"
            " numbers, texts, or tensors of one shape, alike for every sample"
        )
        return empty._replace(error=text)
    extras = zip(*(s.extras for s in decoded), strict=True)
    extras = tuple(map(_together, extras))
    return Batch(views, labels, extras, index, failures)


def _stacked(images: Sequence[Any]) -> Any:
    """Return a view of every sample as one, (N, ...).

    Raises:
        ConfigError: they differ in shape or type.
    """
    try:
        if not isinstance(images[0], Tensor):
            return default_collate(images)
        if len({image.dtype for image in images}) == 1:  # stack would mix their ranges
            return torch.stack(images)
        raise TypeError("tensors of several types, such as of 8 and 16 bits")
    except UNLIKE as error:
        kinds = {_kind(image) for image in images}
        if len(kinds) < 2:
            raise ConfigError(
                "what the dataset returns for images makes no batch"
                f" ({described(error)}); return numbers or tensors of one shape"
            ) from None
    first, second, *_ = sorted(kinds, key=str)
    remedy = "return the same kind of image for every sample"
    if all(isinstance(kind, tuple) and len(kind) == 3 for kind in (first, second)):
        remedy = (
            "begin the image_transform with an op that fixes the size:"
            " random_resized_crop, or resize and center_crop"
        )
        if first[0] != second[0]:
            remedy = (
                "give all the same channels, as channels: rgb or grey of an image"
                " folder does"
            )
    raise ConfigError(f"images of shapes {first} and {second} do not stack; {remedy}")


def _kind(image: Any) -> tuple[int, ...] | str:
    """Return the shape of a tensor, or the name of another type."""
    return tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__


def _together(values: Sequence[Any]) -> Any:
    """Return one entry of every sample as torch does, or as a list where it cannot."""
    try:
        return default_collate(list(values))
    except UNLIKE:
        return list(values)


def ignore_signals(worker: int) -> None:
    """Let only the main process end a worker.

    Slurm, Ctrl-C and a closed terminal signal all processes of a job. The main process
    needs its workers to finish the step; it then saves, and ends them by a SIGTERM that
    it sends itself.
    """
    for name in ("SIGINT", "SIGUSR2", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # names the sender; not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_when_parent_asks, daemon=True).start()


def _exit_when_parent_asks() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
