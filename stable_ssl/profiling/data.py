"""How fast the train data come, and what of their making takes the time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import torch

from stable_ssl import distributed, seeding
from stable_ssl.data.batch import count
from stable_ssl.data.decode import begin
from stable_ssl.data.loader import Loader
from stable_ssl.profiling.clock import Clock

PASSES = 3
BATCHES = 50  # of a pass, at most
SECONDS = 10.0  # of a pass, at most
SAMPLES = 64  # read and begun one by one


def profile_data(
    build: Callable[[], Mapping[str, Any]],
    device: torch.device,
    limit: int | None = None,
) -> dict[str, Any]:
    """Build the loaders once more, and time what they do.

    Every rank times its own part; images are those of all ranks.

    Args:
        build: makes the loaders by split, of which `train` is timed.
        device: of the batches.
        limit: batches of a pass; None takes some 50.

    Returns:
        `build_s`, and of each train loader by name: `first_batch_s`, which starts the
        workers; `images_per_s`, one number a pass; `stages_ms`, of one image in one
        process: read, begin (a worker's part of the views), copy (to a GPU), augment;
        num_workers, batch_size and the bottleneck in words. Synchronises the device.
    """
    clock = Clock(device)
    with seeding.preserve_rng(), clock.part("build"):
        train = build()["train"]
    seconds = clock.take()["build"]
    loaders = getattr(train, "loaders", {"train": train})
    found = {name: _loader(one, clock, limit) for name, one in loaders.items()}
    return {"build_s": seconds, "loaders": found}


def _loader(loader: Any, clock: Clock, limit: int | None) -> dict[str, Any]:
    """Time one loader."""
    start = clock.now()
    next(iter(loader))
    found: dict[str, Any] = {
        "batch_size": getattr(loader, "batch_size", None),
        "num_workers": getattr(getattr(loader, "workers", loader), "num_workers", 0),
        "first_batch_s": clock.now() - start,
        "images_per_s": [_pass(loader, n, clock, limit) for n in range(PASSES)],
    }
    if isinstance(loader, Loader):  # another one cannot be looked into
        with seeding.preserve_rng():
            found["stages_ms"] = _stages(loader, clock, limit)
        found["bottleneck"] = bottleneck(found["stages_ms"], found["num_workers"])
    return found


def _pass(loader: Any, epoch: int, clock: Clock, limit: int | None) -> float:
    """Return the images a second of a part of an epoch."""
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)
    start, images = clock.now(), 0
    for batch in islice(loader, limit or BATCHES):
        images += count(batch)
        if clock.now() - start > SECONDS:
            break
    return images * distributed.world_size() / (clock.now() - start)


def _stages(loader: Loader, clock: Clock, limit: int | None) -> dict[str, float]:
    """Return the milliseconds that an image takes in each stage of a loader."""
    loader.set_epoch(0)
    found, images, clock.seconds = {}, 0, {}
    if loader.workers is None:  # in memory: reading is indexing
        batches = loader.unfinished()
        for _ in range(limit or 5):
            with clock.part("read"):
                batch = next(batches, None)
            if batch is None:
                break
            images += len(batch.index)
        found["read"] = clock.seconds["read"] / images
    else:
        found |= _one_by_one(loader, clock, 1 if limit else SAMPLES)
    batches = list(islice(loader.unfinished(), limit or 5))
    images = sum(len(batch.index) for batch in batches)
    clock.take()
    if loader.device.type != "cpu":
        held = [[view.cpu() for view in batch.views] for batch in batches]
        with clock.part("copy"):
            for views in held:
                for view in views:
                    view.to(loader.device)
        found["copy"] = clock.seconds["copy"] / images
    for n, batch in enumerate([batches[0], *batches]):
        if n == 1:  # the first call of an op costs more
            clock.take()
        with clock.part("augment"):
            loader.finish(batch, epoch=0)
    found["augment"] = clock.seconds["augment"] / images
    return {name: 1000 * seconds for name, seconds in found.items()}


def _one_by_one(loader: Loader, clock: Clock, samples: int) -> dict[str, float]:
    """Time what a worker does with each of some samples, here."""
    source = loader.workers.dataset  # `Samples` or `Stream`
    if loader.streams:
        read = iter(source.dataset)
        places = range(samples)
    else:
        places = range(0, len(source.dataset), -(-len(source.dataset) // samples))
    clock.take()
    done = 0
    for place in places:
        with clock.part("read"):
            item = next(read, None) if loader.streams else source.dataset[place]
        if item is None:
            break
        with clock.part("begin"):
            begin(source.heads, item[0], loader.seed, 0, place)
        done += 1
    return {name: seconds / done for name, seconds in clock.take().items()}


def bottleneck(stages: Mapping[str, float], workers: int) -> str:
    """Say in words which stage limits a loader, and what helps.

    Args:
        stages: milliseconds an image in one process.
        workers: processes that read and begin.
    """
    apart = stages.get("read", 0) + stages.get("begin", 0)
    together = stages.get("copy", 0) + stages["augment"]
    in_memory = "begin" not in stages
    if workers and apart / workers > together:
        return (
            f"the workers limit: {workers} of them read {1000 * workers / apart:,.0f}"
            f" images/s, and {1000 / together:,.0f} could be augmented; set"
            f" data.num_workers higher ({os.cpu_count()} cores here), or store the"
            " images smaller"
        )
    total = apart + together if not workers else together
    name = max(stages if not workers else ("copy", "augment"), key=_of(stages))
    share = f"{stages[name] / total:.0%} of the time of the main process"
    if name in ("read", "begin") and not in_memory:
        return (
            f"{WORDS[name]} takes {share}; set data.num_workers ({os.cpu_count()} cores"
            " here), or data.in_memory for small images of one size"
        )
    helps = {
        "read": "the images are in memory already: a larger batch may help",
        "copy": "store the images smaller, or hold them on the GPU",
        "augment": "data.compile=true, fewer views or cheaper ops, or a GPU may help",
    }
    return f"{WORDS[name]} takes {share}; {helps[name]}"


def _of(stages: Mapping[str, float]) -> Callable[[str], float]:
    return lambda name: stages.get(name, 0.0)


WORDS = {
    "read": "reading and decoding",
    "begin": "the workers' part of the views",
    "copy": "copying to the GPU",
    "augment": "augmentation",
}
