"""The workers' side of a loader: read a sample, begin its views, stack a batch.

Ops run here, one sample at a time, while images still differ in size: those of other
libraries, and ours up to the first that gives all images one size.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate

from stable_ssl import seeding
from stable_ssl.data.augment import External, Op, View
from stable_ssl.data.datasets import Images
from stable_ssl.data.folder import UNLABELLED, ImageFolder, Unreadable
from stable_ssl.data.sampler import BatchSampler
from stable_ssl.schema import ConfigError, described

NARROW = (torch.uint8, torch.int8, torch.int16, torch.int32)
READ_VIEW = -1  # number of no view: its key seeds what a dataset itself draws


class Head:
    """The part of a view that runs before batching.

    Args:
        ops: of the whole view; those of other libraries come first.
    """

    def __init__(self, ops: Sequence[Op | External]):
        external = [i for i, op in enumerate(ops) if isinstance(op, External)]
        fixing = [i for i, op in enumerate(ops) if getattr(op, "fixes_size", False)]
        self.external = list(ops[: len(external)])
        if external and external[-1] != len(external) - 1:
            raise ConfigError(
                "image_transform: ops by _target_ run one image at a time and come"
                " before those by name, which run on whole batches; move them first"
            )
        cut = fixing[0] + 1 if fixing else len(external)
        self.view = View(ops[len(external) : cut], first=len(external))
        self.tail = View(ops[cut:], first=cut)

    def __call__(self, image: Any, key: Tensor) -> Tensor:
        """Return (C, H, W): uint8, or float if the image already was.

        Args:
            image: as the dataset returns it.
            key: of the view, ().
        """
        if self.external and isinstance(image, Tensor):
            from torchvision.transforms.functional import to_pil_image

            image = to_pil_image(image)
        for i, op in enumerate(self.external):
            image = op(image, seeding.fold_in(key, i))
        pixels = to_tensor(image)
        if not self.view.ops:
            return pixels
        view = self.view(pixels[None], key[None])[0]
        if pixels.dtype == torch.uint8:
            view = view.mul_(255).round_().to(torch.uint8)
        return view


def entries(dataset: Dataset, sample: Any, index: int) -> tuple[Any, Any, tuple]:
    """Return a sample's image, its label, and what follows.

    Raises:
        ConfigError: it is no (image, label).
    """
    if isinstance(sample, (tuple, list)) and len(sample) >= 2:
        return sample[0], sample[1], tuple(sample[2:])
    kind = type(sample).__name__
    kind += f" of {len(sample)}" if isinstance(sample, (tuple, list)) else ""
    raise ConfigError(
        f"{type(dataset).__name__}[{index}] is a {kind}; a dataset returns (image,"
        " label), with None for a label that is not known, and may add more entries"
    )


def to_tensor(image: Any) -> Tensor:
    """Return a PIL image or an array (H, W, C) as a tensor (C, H, W).

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(image, Tensor):
        kind, pixels = "tensor", image.as_subclass(Tensor)
    else:
        kind, pixels = type(image).__name__, numpy.array(image)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.dtype == object:
        raise ConfigError(
            f"a dataset returned a {kind} of shape {tuple(pixels.shape)} for an image;"
            " expected a PIL image, an array (H, W, C) or a tensor (C, H, W)"
        )
    if isinstance(pixels, Tensor):
        return pixels
    pixels = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    return pixels if pixels.is_floating_point() else pixels.to(torch.uint8)


class Sample(NamedTuple):
    """One sample as a worker returns it."""

    views: list[Tensor] | None  # None: it could not be read
    label: Any
    extras: tuple  # further entries of the dataset
    index: int
    failures: list[str]  # what could not be read
    error: str | None = None  # that is no image's fault, and ends the run


@dataclass(eq=False)
class Samples(Dataset):
    """Read samples by (epoch, index) and begin their views."""

    dataset: Dataset  # map-style, of (image, label)
    heads: Sequence[Head]  # one a view
    seed: int  # of the views
    replace: bool  # an unreadable sample by the next, so that batches keep their size

    def __getitem__(self, position: tuple[int, int]) -> Sample:
        epoch, index = position
        failures: list[str] = []
        for tries in range(len(self.dataset) if self.replace else 1):
            row = (index + tries) % len(self.dataset) if tries else index
            try:
                image, label, extras = self._read(epoch, row)
                views = begin(self.heads, image, self.seed, epoch, row)
                return Sample(views, label, extras, row, failures)
            except (Unreadable, OSError, SyntaxError) as error:  # as PIL raises
                failures.append(_failure(error, self.dataset, row))
            except ConfigError as error:  # in words: torch would send its traceback
                return Sample(None, None, (), index, failures, str(error))
        return Sample(None, None, (), index, failures)

    def _read(self, epoch: int, index: int) -> tuple[Any, Any, tuple]:
        if isinstance(self.dataset, (Images, ImageFolder)):  # these draw nothing
            return entries(self.dataset, self.dataset[index], index)
        key = seeding.sample_keys(self.seed, epoch, torch.tensor(index), READ_VIEW)
        with seeding.keyed(key):
            return entries(self.dataset, self.dataset[index], index)


@dataclass(eq=False)
class Stream(IterableDataset):
    """Read an iterable dataset in order, from a batch on; sample i is its i-th.

    The dataset's draws come from global generators, seeded by (seed, epoch, pass).
    """

    dataset: IterableDataset  # of (image, label)
    heads: Sequence[Head]  # one a view
    sampler: BatchSampler  # gives epoch, first batch, and this process's part
    endless: bool  # whether to start again where the data ends

    def __iter__(self) -> Iterator[Sample]:
        try:
            yield from self._samples()
        except ConfigError as error:  # in words: torch would send its traceback
            yield Sample(None, None, (), 0, [], str(error))

    def _samples(self) -> Iterator[Sample]:
        sampler, batch_size = self.sampler, self.sampler.batch_size
        first = sampler.start * batch_size
        share = set(sampler.share(torch.arange(batch_size)).tolist())
        for index, sample in enumerate(self._passes()):
            if index >= first and index % batch_size in share:
                image, label, extras = entries(self.dataset, sample, index)
                with seeding.preserve_rng():  # ops must not shift the dataset's draws
                    views = begin(self.heads, image, sampler.seed, sampler.epoch, index)
                yield Sample(views, label, extras, index, [])

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
    heads: Sequence[Head], image: Any, seed: int, epoch: int, index: int
) -> list[Tensor]:
    """Run each view's head on one image."""
    return [
        head(image, seeding.sample_keys(seed, epoch, torch.tensor(index), v))
        for v, head in enumerate(heads)
    ]


class Batch(NamedTuple):
    """What a worker hands over; no views where nothing could be read."""

    views: list[Tensor]  # one a view, (N, C, H, W)
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
    views = list(zip(*(s.views for s in decoded), strict=True))
    for images in views:
        shapes = sorted({tuple(image.shape) for image in images})
        if len(shapes) > 1:
            error = (
                f"images of shapes {shapes[0]} and {shapes[1]} do not stack; begin the"
                " image_transform with an op that fixes the size: random_resized_crop,"
                " or resize and center_crop"
            )
            return empty._replace(error=error)
    labels = [UNLABELLED if s.label is None else s.label for s in decoded]
    index = torch.tensor([s.index for s in decoded])
    views = [torch.stack(images) for images in views]
    try:
        labels = default_collate(labels)
        extras = tuple(default_collate([s.extras for s in decoded]))
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        text = (
            "what the dataset returns beside its images makes no batch"
            f" ({described(error)}); return numbers, texts, or tensors of one shape,"
            " alike for every sample"
        )
        return empty._replace(error=text)
    if isinstance(labels, Tensor) and labels.ndim == 1 and labels.dtype in NARROW:
        labels = labels.long()  # numbers of classes, which are indices later
    return Batch(views, labels, extras, index, failures)


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


def _failure(error: Exception, dataset: Dataset, index: int) -> str:
    """Return which sample could not be read, by its path if it is known, and why."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Unreadable):
        return reason
    paths = getattr(dataset, "samples", None)
    return f"{paths[index][0] if paths else f'sample {index}'}: {reason}"
