"""Batches of (views, labels) on the device, as a function of (seed, epoch, position).

Images in memory are indexed and augmented as whole batches. Others are decoded by the
workers of a torch DataLoader, which also run a view's operations up to the first that
fixes the size (a crop, a resize), so that images of any size become one batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler

from stable_ssl import seeding
from stable_ssl.augment import External, Op, Replay, View
from stable_ssl.batch import known_length, prefetched, to_device
from stable_ssl.data.datasets import Images, Source, sample_name
from stable_ssl.data.fields import Fields
from stable_ssl.data.images.decode import Decode
from stable_ssl.data.images.unreadable import Unreadable
from stable_ssl.data.loading.head import Head
from stable_ssl.data.loading.processes import Workers, read_beside
from stable_ssl.data.loading.sampler import BatchSampler
from stable_ssl.data.loading.worker import (
    TRIES,
    Batch,
    Sample,
    Samples,
    Stream,
    Trial,
    collate,
)
from stable_ssl.schema import ConfigError

PLAIN, USUAL = Decode(), Fields()
GPU_SHARE = 1 / 4  # share of the GPU's free memory that images may be held in


class Loader:
    """Iterate over the batches of an epoch, which `set_epoch` chooses.

    A batch is `(x, y)`: x a float view (N, C, H, W), or a list of them when there are
    several; y the labels (N,) int64. Views depend on (seed, epoch, index, view) alone,
    and on how often a sampler drew that index before in the epoch.
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
        ConfigError: an iterable dataset with several workers, or with a sampler; a
            keyword or value that torch refuses; fewer samples a batch than processes.
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
        self.device, self.collate_fn = torch.device(device), collate_fn
        self.batch_size = batch_size  # samples, over all processes
        self.streams = isinstance(dataset, IterableDataset)
        size = known_length(dataset) if self.streams else len(dataset)
        spares = TRIES - 1 if on_error == "replace" else 0
        order = size, batch_size, seed, shuffle, drop_last, sampler
        self.sampler = BatchSampler(*order, rank, world_size, spares)
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.num_labels: int | None = None  # labels read from here on are below it
        self.learner = ""  # who needs a label of each sample, for messages
        self.skipped = 0  # samples that could not be read, see `take_skipped`
        self.index: Tensor | None = None  # of the last batch's samples in the dataset
        self._warned: set[str] = set()
        held = isinstance(dataset, Images)  # decoded already
        self.heads = [Head(ops, PLAIN if held else decode) for ops in views]
        reading = dataset, fields, self.heads, seed
        self.source: Samples | Stream  # of samples whose views are begun
        if self.streams:
            self.source = Stream(*reading, self.sampler, endless=drop_last)
        else:
            self.source = Samples(*reading, size)
        if held and not any(head.external for head in self.heads):
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

    def _workers(self, options: dict[str, Any]) -> Workers:
        """Return the torch loader whose workers read samples and begin their views."""
        count = options.get("num_workers", 0)
        options = {
            "collate_fn": collate,
            "pin_memory": self.device.type == "cuda",
            "persistent_workers": count > 0,
            **options,
        }
        if not self.streams:
            return Workers(self.source, batch_sampler=self.sampler, **options)
        if count > 1 or self.sampler.sampler is not None:
            raise ConfigError(
                "an iterable dataset is read in order by one worker: set num_workers: 1"
                " and no sampler in its loader node"
            )
        options["num_workers"] = 1  # so that its draws leave our generators alone
        options["persistent_workers"] = False  # a kept copy would not see set_epoch
        options["batch_size"] = len(self.sampler.share(torch.arange(self.batch_size)))
        return Workers(self.source, drop_last=self.sampler.drop_last, **options)

    # --- what is known before an epoch ------------------------------------------------

    @cached_property
    def example(self) -> Batch:
        """The first sample that can be read, its views made: a batch of 1 on the CPU.

        Raises:
            ConfigError: an op is not made for it, or it is no sample; whatever data is
                wrong in every sample is said here, before anything is trained.
        """
        batch = self._checked(collate(self.trial([0])[0]), whole=True)
        tails = [head.tail for head in self.heads]
        return batch._replace(views=self.finish(batch, 0, tails))

    def trial(self, rows: Sequence[int], starts: int = 1) -> list[list[Sample]]:
        """Return samples as the first epoch would have them, once for each start.

        Args:
            rows: which samples; of a stream, its first ones, as many.
            starts: how often they are read, one time after the other.
        """
        trial = Trial(self.source, rows, replaces=self.on_error != "raise")
        if self.workers is None or isinstance(self.dataset, Source):
            return [trial[start] for start in range(starts)]
        return read_beside(trial, range(starts), self.workers)

    @property
    def channels(self) -> int | None:
        """The number of channels of a view; None of what has none."""
        view = self.example.views[0]
        return view.shape[1] if isinstance(view, Tensor) and view.ndim > 2 else None

    def __len__(self) -> int:
        return len(self.sampler)

    # --- an epoch ---------------------------------------------------------------------

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and the batch in it that the next iteration starts with."""
        self.sampler.epoch, self.sampler.start = epoch, start

    def __iter__(self) -> Iterator[tuple[Tensor | list[Tensor], Tensor]]:
        epoch = self.sampler.epoch
        if self.sampler.start == 0 and self.sampler.rank == 0:  # once an epoch
            self.skipped += getattr(self.dataset, "left_out", 0)
        for batch in self.unfinished():
            self.skipped += len(batch.failures)
            if not batch.views:
                continue
            self.index = self.source.row(batch.draws)
            x = self.finish(batch, epoch)
            if self.collate_fn is not None:  # called with samples, as by torch's loader
                images = x[0] if len(x) == 1 else map(list, zip(*x, strict=True))
                yield self.collate_fn(list(zip(images, batch.labels, strict=True)))
                continue
            if isinstance(x[0], Tensor) and x[0].ndim == 4 and x[0].shape[1] > 1:
                x = [view.to(memory_format=self.format) for view in x]
            yield (x if len(x) > 1 else x[0]), batch.labels, *batch.extras

    def unfinished(self) -> Iterator[Batch]:
        """Yield batches on the device whose views are not finished."""
        if self.workers is not None:
            yield from prefetched(self._read(), self.device)
            return
        for draws in self.sampler.batches():
            index = self.source.row(draws)
            rows = index.to(self.images.device, non_blocking=True)
            views = [self.images[rows]] * len(self.views)
            yield to_device(Batch(views, self.labels[index], (), draws), self.device)

    def finish(
        self, batch: Batch, epoch: int, tails: list[View] | None = None
    ) -> list[Tensor]:
        """Return the views of an unfinished batch, (N, C, H, W) each."""
        tails = self.views if tails is None else tails
        if len(tails) == 1:  # the ops of one view are those of all
            tails = tails * len(batch.views)
        return [
            tail(view, seeding.sample_keys(self.seed, epoch, batch.draws, v))
            for v, (tail, view) in enumerate(zip(tails, batch.views, strict=True))
        ]

    def close(self) -> None:
        """End the workers and free a GPU's graphs; an iteration starts new ones."""
        for view in self.views:
            if isinstance(view, Replay):
                view.close()
        if self.workers is not None:
            self.workers.close()

    # --- what workers hand over -------------------------------------------------------

    def _read(self) -> Iterator[Batch]:
        """Yield the workers' batches; raise or warn for images that cannot be read."""
        for batch in self.workers:
            batch = self._checked(batch, whole=self.on_error == "replace")
            for failure in batch.failures:
                if failure not in self._warned:
                    self._warned.add(failure)
                    warnings.warn(f"skipped: {failure}", stacklevel=2)
            yield batch

    def _checked(self, batch: Batch, whole: bool) -> Batch:
        """Refuse a batch with an error; if it must be whole, also one of no image."""
        if batch.error:
            raise ConfigError(batch.error)
        if batch.failures and self.on_error == "raise":
            raise Unreadable(
                f"{batch.failures[0]}; mend or remove it, or set data.on_error=skip"
            )
        if batch.views:
            self._check_labels(batch)
        elif whole and batch.failures:
            raise Unreadable(f"no image can be read; such as {batch.failures[0]}")
        return batch

    def _check_labels(self, batch: Batch) -> None:
        """Refuse what `learner` or `num_labels` do not allow."""
        labels, most = batch.labels, self.num_labels
        whole = isinstance(labels, Tensor) and not labels.is_floating_point()
        whole = whole and labels.ndim == 1
        if self.learner and whole and (labels < 0).any():
            at = labels.argmin()
            text = f"no label, and {self.learner} learns from labels; leave such out"
        elif most is not None and not whole:
            at = 0
            text = "no label that is one whole number; return one an image, or None"
        elif most is not None and (highest := int(labels.max())) >= most:
            at = labels.argmax()
            text = (
                f"the label {highest}, and {most} classes are numbered from 0 to"
                f" {most - 1}; subtract 1 from labels that begin with 1, or set"
                " data.num_classes"
            )
        else:
            return
        row = int(self.source.row(batch.draws[at]))
        raise ConfigError(f"{sample_name(self.dataset, row)} has {text}")
