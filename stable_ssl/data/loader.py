"""Batches of (views, labels) on the device, as a function of (seed, epoch, position).

Images in memory are indexed and augmented as whole batches. Others are decoded by the
workers of a torch DataLoader, which also run a view's operations up to the first that
fixes the size (a crop, a resize), so that images of any size become one batch.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from multiprocessing.process import BaseProcess
from pickle import PicklingError
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from stable_ssl import seeding
from stable_ssl.data.augment import External, Op, Replay, View
from stable_ssl.data.batch import known_length, mapped, to_device
from stable_ssl.data.datasets import Images
from stable_ssl.data.decode import Decode
from stable_ssl.data.fields import Fields, sample_name
from stable_ssl.data.sampler import BatchSampler
from stable_ssl.data.unreadable import Unreadable
from stable_ssl.data.worker import (
    Batch,
    Head,
    Sample,
    Samples,
    Stream,
    collate,
    ignore_signals,
)
from stable_ssl.schema import ConfigError, described

PLAIN, USUAL = Decode(), Fields()
GPU_SHARE = 1 / 4  # share of the GPU's free memory that images may be held in


class Loader:
    """Iterate over the batches of an epoch, which `set_epoch` chooses.

    A batch is `(x, y)`: x a float view (N, C, H, W), or a list of them when there are
    several; y the labels (N,) int64. Views depend on (seed, epoch, index, view) alone.
    Further entries of a sample are collated and follow: those of a tuple one by one,
    those of a dict as one dict. What is no image comes as the dataset returns it.

    Args:
        dataset: map-style or iterable.
        views: one list of augmentation ops a view.
        batch_size: samples a batch, over all processes.
        seed: of order and views.
        device: where batches are made or moved to.
        shuffle: a new order every epoch.
        drop_last: leave out an incomplete last batch.
        channels_last: memory format of the views.
        on_error: `raise` on an image that cannot be read, `skip` it, so that its batch
            is smaller, or `replace` it by the next one.
        compile: whether torch.compile makes the batched part of the views.
        sampler: torch sampler that chooses and orders the samples instead of shuffle.
        collate_fn: makes the batch from a list of (view or views, label), all tensors.
        decode: how an image becomes a tensor.
        fields: which entries of a sample are its image and its label.
        rank: number of this process ...
        world_size: ... among how many; a batch here is this process's part of it.
        options: any further keyword of torch's DataLoader.

    Raises:
        ConfigError: an iterable dataset with several workers, or with a sampler.
    """

    def __init__(
        self,
        dataset: Dataset,
        views: Sequence[Sequence[Op | External]],
        *,
        batch_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        shuffle: bool = False,
        drop_last: bool = False,
        channels_last: bool = False,
        on_error: str = "raise",
        compile: bool = False,
        sampler: Sampler | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        decode: Decode = PLAIN,
        fields: Fields = USUAL,
        rank: int = 0,
        world_size: int = 1,
        **options: Any,
    ):
        self.dataset, self.seed, self.on_error = dataset, seed, on_error
        self.device = torch.device(device)
        self.collate_fn, self.fields = collate_fn, fields
        self.streams = isinstance(dataset, IterableDataset)
        size = known_length(dataset) if self.streams else len(dataset)
        self.sampler = BatchSampler(
            size, batch_size, seed, shuffle, drop_last, sampler, rank, world_size
        )
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.num_labels: int | None = None  # labels read from here on are below it
        self.learner = ""  # who needs a label of each sample, for messages
        self.skipped = 0  # samples so far that could not be read
        self.index: Tensor | None = None  # of the last batch's samples in the dataset
        self._warned: set[str] = set()
        if isinstance(dataset, Images):
            decode = PLAIN  # they are decoded
        self.heads = [Head(ops, decode) for ops in views]
        external = any(head.external for head in self.heads)
        if isinstance(dataset, Images) and not external:
            self.views = [View(ops) for ops in views]
            self.images, self.labels = dataset.images, dataset.labels
            if self.device.type == "cuda":
                free, _ = torch.cuda.mem_get_info(self.device)
                if self.images.nbytes <= GPU_SHARE * free:
                    self.images = self.images.to(self.device)
            self.workers = None
        else:
            self.views = [head.tail for head in self.heads]
            self.workers = self._workers(options)
        if compile:
            self.views = [view.compile() for view in self.views]
        if self.device.type == "cuda":
            self.views = [
                Replay(view) if all(op.of_images for op in view.ops) else view
                for view in self.views
            ]

    def _workers(self, options: dict[str, Any]) -> DataLoader:
        """Return the torch loader whose workers read samples and begin their views."""
        options = {
            "generator": torch.Generator(),  # its draws leave the global one alone
            "collate_fn": collate,
            "worker_init_fn": ignore_signals,
            "pin_memory": self.device.type == "cuda",
            **options,
        }
        if not self.streams:
            options.setdefault("persistent_workers", options.get("num_workers", 0) > 0)
            samples = self._samples(self.on_error == "replace")
            return _torch_loader(samples, batch_sampler=self.sampler, **options)
        if options.get("num_workers", 0) > 1 or self.sampler.sampler is not None:
            raise ConfigError(
                "an iterable dataset is read in order by one worker: set num_workers: 1"
                " and no sampler in its loader node"
            )
        options["num_workers"] = 1  # so that its draws leave our generators alone
        options["persistent_workers"] = False  # a kept copy would not see set_epoch
        drop_last = self.sampler.drop_last
        stream = self._stream(endless=drop_last)
        size = len(self.sampler.share(torch.arange(self.batch_size)))
        return _torch_loader(stream, batch_size=size, drop_last=drop_last, **options)

    def _samples(self, replaces: bool) -> Samples:
        return Samples(self.dataset, self.fields, self.heads, self.seed, replaces)

    def _stream(self, endless: bool) -> Stream:
        return Stream(self.dataset, self.fields, self.heads, self.sampler, endless)

    @cached_property
    def example(self) -> Batch:
        """The first sample that can be read, its views made: a batch of 1 on the CPU.

        Raises:
            ConfigError: an op is not made for it, or it is no sample; whatever data is
                wrong in every sample is said here, before anything is trained.
        """
        batch = self._checked(collate(self.first_samples(1)))
        if not batch.views:
            raise Unreadable(f"no image can be read; such as {batch.failures[0]}")
        keys = torch.zeros(1, dtype=torch.int64)
        tails = _each([head.tail for head in self.heads], batch.views)
        return batch._replace(views=[tail(x, keys) for tail, x in tails])

    def first_samples(self, count: int) -> list[Sample]:
        """Return the first samples of the dataset, read in this process."""
        if self.streams:
            return list(islice(self._stream(endless=False), count))
        samples = self._samples(self.on_error != "raise")
        return [samples[0, row] for row in range(min(count, len(self.dataset)))]

    @property
    def channels(self) -> int | None:
        """The number of channels of a view; None of what has none."""
        view = self.example.views[0]
        return view.shape[1] if isinstance(view, Tensor) and view.ndim > 2 else None

    @property
    def batch_size(self) -> int:
        """Samples a batch, over all processes."""
        return self.sampler.batch_size

    @property
    def num_classes(self) -> int | None:
        """The number of classes that the dataset states, None without labels."""
        if hasattr(self.dataset, "num_classes"):
            return self.dataset.num_classes
        return len(getattr(self.dataset, "classes", ())) or None

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and the batch in it that the next iteration starts with."""
        self.sampler.epoch, self.sampler.start = epoch, start

    def close(self) -> None:
        """End the workers and free a GPU's graphs; another iteration starts new ones.

        Torch ends them when the last reference to its iterator goes. In a reference
        cycle, which a trainer is part of, it then waits 5 s for each worker; and it has
        no public way to end them earlier.
        """
        for view in self.views:
            if isinstance(view, Replay):
                view.close()
        iterator = getattr(self.workers, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
            self.workers._iterator = None

    def __iter__(self) -> Iterator[tuple[Tensor | list[Tensor], Tensor]]:
        epoch = self.sampler.epoch
        if self.sampler.start == 0 and self.sampler.rank == 0:  # once an epoch
            self.skipped += getattr(self.dataset, "left_out", 0)
        for batch in self.unfinished():
            self.skipped += len(batch.failures)
            if not batch.views:
                continue
            self.index = batch.index
            x = self.finish(batch, epoch)
            if self.collate_fn is not None:  # called with samples, as by torch's loader
                images = x[0] if len(x) == 1 else map(list, zip(*x, strict=True))
                yield self.collate_fn(list(zip(images, batch.labels, strict=True)))
                continue
            if isinstance(x[0], Tensor) and x[0].ndim == 4 and x[0].shape[1] > 1:
                x = [view.to(memory_format=self.format) for view in x]
            yield (x if len(x) > 1 else x[0]), batch.labels, *batch.extras

    def finish(self, batch: Batch, epoch: int) -> list[Tensor]:
        """Return the views of an unfinished batch, (N, C, H, W) each."""
        return [
            view(image, seeding.sample_keys(self.seed, epoch, batch.index, v))
            for v, (view, image) in enumerate(_each(self.views, batch.views))
        ]

    def unfinished(self) -> Iterator[Batch]:
        """Yield batches on the device whose views are not finished."""
        if self.workers is None:
            for index in self.sampler.batches():
                rows = index.to(self.images.device, non_blocking=True)
                views = [self.images[rows]] * len(self.views)
                batch = Batch(views, self.labels[index], (), index, [])
                yield to_device(batch, self.device)
        elif self.device.type == "cuda":
            yield from self._prefetched()
        else:
            yield from self._read()

    def _read(self) -> Iterator[Batch]:
        """Yield the workers' batches; raise or warn for images that cannot be read."""
        for batch in self._worked():
            for failure in self._checked(batch).failures:
                if failure not in self._warned:
                    self._warned.add(failure)
                    warnings.warn(f"skipped: {failure}", stacklevel=2)
            yield batch

    def _worked(self) -> Iterator[Batch]:
        """Yield the batches of the workers, which are started where there are none.

        Raises:
            ConfigError: the dataset cannot be sent to a worker, or one ended.
        """
        count = self.workers.num_workers
        try:
            with _children_end_silently():
                batches = iter(self.workers)
        except (PicklingError, AttributeError, TypeError) as error:
            if not count:
                raise
            raise ConfigError(
                f"the dataset, or an op of its views, cannot be sent to a data worker"
                f" ({described(error)}); define functions and classes at the top of a"
                " module, or set num_workers to 0"
            ) from error
        try:
            yield from batches
        except (RuntimeError, OSError, EOFError) as error:  # torch's, of many kinds
            for worker in batches._workers if count else ():
                worker.join(0.1)  # one that was just killed
                if worker.exitcode:
                    raise ConfigError(_end_of(worker, count)) from error
            raise

    def _checked(self, batch: Batch) -> Batch:
        """Refuse a batch of images that cannot be read or do not fit together."""
        if batch.error:
            raise ConfigError(batch.error)
        if batch.failures and self.on_error == "raise":
            raise Unreadable(
                f"{batch.failures[0]}; mend or remove it, or set data.on_error=skip"
            )
        if batch.views:
            self._check_labels(batch, self.num_labels)
        if not batch.views and self.on_error == "replace":
            raise Unreadable(f"no image can be read; such as {batch.failures[0]}")
        return batch

    def _check_labels(self, batch: Batch, most: int | None) -> None:
        """Refuse labels that are not numbers of `most` classes, or none."""
        labels = batch.labels
        whole = isinstance(labels, Tensor) and not labels.is_floating_point()
        if self.learner and whole and labels.ndim == 1 and (labels < 0).any():
            name = sample_name(self.dataset, int(batch.index[labels.argmin()]))
            raise ConfigError(
                f"{name} has no label, and {self.learner} learns from labels; leave"
                " such samples out"
            )
        if most is None:
            return
        if not whole or labels.ndim != 1:
            name = sample_name(self.dataset, int(batch.index[0]))
            raise ConfigError(
                f"the batch of {name} has labels that are not one whole number an image"
                " each; return numbers of classes, or None where there is none"
            )
        if (highest := int(labels.max())) >= most:
            name = sample_name(self.dataset, int(batch.index[labels.argmax()]))
            raise ConfigError(
                f"{name} has the label {highest}, and {most} classes are numbered"
                f" from 0 to {most - 1}; subtract 1 from labels that begin with 1,"
                " or set data.num_classes"
            )

    def _prefetched(self) -> Iterator[Batch]:
        """Copy the next batch to the GPU on a second stream while this one is used."""
        stream, pending = torch.cuda.Stream(self.device), None
        for batch in self._read():
            with torch.cuda.stream(stream):
                copied = to_device(batch, self.device)
                done = stream.record_event()
            if pending is not None:
                yield _arrived(*pending)
            pending = copied, done
        if pending is not None:
            yield _arrived(*pending)


@contextmanager
def _children_end_silently() -> Iterator[None]:
    """Keep the process's own handler of SIGCHLD while torch starts workers.

    Torch's would raise the error of a worker that was killed wherever the process is
    just then, in the middle of a step or of writing a file. Without it, whoever waits
    for the worker's next batch learns of its end, within 5 s.
    """
    number = getattr(signal, "SIGCHLD", None)  # not on Windows
    handler = number and signal.getsignal(number)
    try:
        yield
    finally:
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _end_of(worker: BaseProcess, count: int) -> str:
    """Say how a data worker ended, and why it may have: one of `count`."""
    code, text = worker.exitcode, f"a data worker, pid {worker.pid}, "
    if code > 0:
        return (
            f"{text}ended with exit code {code}; see what it printed, and what the"
            f" dataset does with num_workers=0 instead of {count}"
        )
    name = signal.Signals(-code).name
    if name in ("SIGKILL", "SIGBUS"):
        return (
            f"{text}was ended by {name}, most likely for want of memory, of which each"
            f" of num_workers={count} takes some; use fewer of them, or a smaller batch"
        )
    return (
        f"{text}was ended by {name}, most likely by a library that reads the images;"
        f" num_workers=0 instead of {count} may show where"
    )


def _each(tails: list[View], views: list[Any]) -> list[tuple[View, Any]]:
    """Return each view with its ops: those of one are those of all."""
    tails = tails * len(views) if len(tails) == 1 else tails
    return list(zip(tails, views, strict=True))


def _torch_loader(dataset: Dataset, **options: Any) -> DataLoader:
    """Return torch's loader; say what it refuses."""
    try:
        return DataLoader(dataset, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a loader node: {error}") from None


def _arrived(batch: Batch, done: torch.cuda.Event) -> Batch:
    """Make the current stream wait for a batch that another one copied."""
    current = torch.cuda.current_stream()
    current.wait_event(done)

    def hold(tensor: Tensor) -> Tensor:  # its memory is not reused before we are done
        tensor.record_stream(current)
        return tensor

    return mapped(batch, hold)
