"""Where time and memory go: mode=profile_data and mode=profile_model.

Both write `<mode>.json` to the run folder and show the same as tables; nothing that the
steps have learned is kept.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count as epochs
from itertools import islice
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor, nn

from stable_ssl import distributed, seeding
from stable_ssl.data import build_loaders
from stable_ssl.data.batch import BatchSource, batches_from, count, first_view
from stable_ssl.data.combined import named_parts
from stable_ssl.data.decode import begin
from stable_ssl.data.loader import Loader
from stable_ssl.evaluation.suite import undisturbed
from stable_ssl.loggers.records import peak_memory
from stable_ssl.loggers.table import Table

PASSES = 3  # over the data
BATCHES = 50  # of a pass, at most
PASS_SECONDS = 10.0  # of a pass, at most
SAMPLES = 64  # read and begun one by one
WARM = 3  # steps before the clock runs
STEPS = 20  # timed, at most
STEP_SECONDS = 20.0  # of all timed steps, at most
OPS = 10  # slowest, that are named
PARTS = ("data", "forward", "backward", "optimizer", "hooks", "probe")
MIB = 2**20


def profile_data(run: Any) -> None:
    """Time how the train data are made; write profile_data.json.

    Args:
        run: a trainer after `setup`.
    """
    build = partial(build_loaders, run.config, run.device)
    _show(run, measure_data(build, run.device, run._limit), data_tables)


def profile_model(run: Any) -> None:
    """Take training steps and measure them; write profile_model.json.

    Args:
        run: a trainer after `setup`; its weights change.
    """
    run.train()
    run.before_train_epoch()
    _show(run, measure_model(run), model_tables)


def _show(run: Any, profile: Any, tables: Callable[[Any], list[Table]]) -> None:
    """Write a profile as JSON, and show its tables."""
    if run.rank == 0:
        file = f"{run.config.mode}.json"
        run.records.folder.write_file(file, json.dumps(profile, indent=1) + "\n")
        run.records.console.table("\n\n".join(map(str, tables(profile))))
        run.say(f"profile: {run.run_dir / file}")


class Clock:
    """Adds up the seconds that parts of a program take, by name.

    Args:
        device: whose work is waited for at the beginning and end of each part.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = {}

    def now(self) -> float:
        """Return the seconds of a clock, the device being idle; synchronises."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add what happens inside to a part."""
        start = self.now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - start

    def take(self) -> dict[str, float]:
        """Return the seconds so far, and start at nothing."""
        taken, self.seconds = self.seconds, {}
        return taken

    def watched(self, name: str, function: Callable) -> Callable:
        """Return a function whose calls are added to a part."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return call


# --- the data -------------------------------------------------------------------------


def measure_data(
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
    loaders = named_parts(train, "train").items()
    measured = {name: _loader(loader, clock, limit) for name, loader in loaders}
    return {"build_s": seconds, "loaders": measured}


def _loader(loader: Any, clock: Clock, limit: int | None) -> dict[str, Any]:
    """Time one loader."""
    start = clock.now()
    next(iter(loader))
    profile: dict[str, Any] = {
        "batch_size": getattr(loader, "batch_size", None),
        "num_workers": getattr(getattr(loader, "workers", loader), "num_workers", 0),
        "first_batch_s": clock.now() - start,
        "images_per_s": [_pass(loader, n, clock, limit) for n in range(PASSES)],
    }
    if isinstance(loader, Loader):  # another one cannot be looked into
        with seeding.preserve_rng():
            profile["stages_ms"] = _stages(loader, clock, limit)
        stages, workers = profile["stages_ms"], profile["num_workers"]
        profile["bottleneck"] = bottleneck(stages, workers)
    return profile


def _pass(loader: Any, epoch: int, clock: Clock, limit: int | None) -> float:
    """Return the images a second of a part of an epoch."""
    if isinstance(loader, BatchSource):
        loader.set_epoch(epoch)
    start, images = clock.now(), 0
    for batch in islice(loader, limit or BATCHES):
        images += count(batch)
        if clock.now() - start > PASS_SECONDS:
            break
    return images * distributed.world_size() / (clock.now() - start)


def _stages(loader: Loader, clock: Clock, limit: int | None) -> dict[str, float]:
    """Return the milliseconds that an image takes in each stage of a loader."""
    loader.set_epoch(0)
    clock.take()
    if loader.workers is None:  # in memory: reading is indexing
        with clock.part("read"):
            batches = list(islice(loader.unfinished(), limit or 5))
        images = sum(len(batch.index) for batch in batches)
        stages = {"read": clock.take()["read"] / images}
    else:
        stages = _one_by_one(loader, clock, 1 if limit else SAMPLES)
        batches = list(islice(loader.unfinished(), limit or 5))
        images = sum(len(batch.index) for batch in batches)
    if loader.device.type != "cpu":
        held = [view.cpu() for batch in batches for view in batch.views]
        with clock.part("copy"):
            for view in held:
                view.to(loader.device)
        stages["copy"] = clock.take()["copy"] / images
    loader.finish(batches[0], epoch=0)  # the first call of an op costs more
    with clock.part("augment"):
        for batch in batches:
            loader.finish(batch, epoch=0)
    stages["augment"] = clock.take()["augment"] / images
    return {name: 1000 * seconds for name, seconds in stages.items()}


def _one_by_one(loader: Loader, clock: Clock, samples: int) -> dict[str, float]:
    """Return the seconds of a worker's two stages for a sample, taken here."""
    source = loader.workers.dataset  # `Samples` or `Stream`
    if loader.streams:
        stream = iter(source.dataset)
        indices = range(samples)
    else:
        indices = range(0, len(source.dataset), -(-len(source.dataset) // samples))
    done = 0
    for index in indices:
        with clock.part("read"):
            item = next(stream, None) if loader.streams else source.dataset[index]
        if item is None:
            break
        with clock.part("begin"):
            begin(source.heads, item[0], loader.seed, 0, index)
        done += 1
    return {name: seconds / done for name, seconds in clock.take().items()}


STAGES = {
    "read": "reading and decoding",
    "begin": "the workers' part of the views",
    "copy": "copying to the GPU",
    "augment": "augmentation",
}


def bottleneck(stages: Mapping[str, float], workers: int) -> str:
    """Say in words which stage limits a loader, and what helps.

    Args:
        stages: milliseconds an image in one process.
        workers: processes that read and begin.
    """
    in_workers = stages.get("read", 0) + stages.get("begin", 0)
    in_main = stages.get("copy", 0) + stages["augment"]
    if workers and in_workers / workers > in_main:
        return (
            f"the workers limit: {workers} of them read"
            f" {1000 * workers / in_workers:,.0f} images/s, and"
            f" {1000 / in_main:,.0f} could be augmented; set data.num_workers higher"
            f" ({os.cpu_count()} cores here), or store the images smaller"
        )
    candidates = ("copy", "augment") if workers else stages
    name = max(candidates, key=lambda stage: stages.get(stage, 0.0))
    share = stages[name] / (in_main if workers else in_workers + in_main)
    helps = {
        "read": "the images are in memory already: a larger batch may help",
        "copy": "store the images smaller, or hold them on the GPU",
        "augment": "data.compile=true, fewer views or cheaper ops, or a GPU may help",
    }
    if name in ("read", "begin") and "begin" in stages:  # not in memory
        helps[name] = (
            f"set data.num_workers ({os.cpu_count()} cores here), or data.in_memory for"
            " small images of one size"
        )
    text = f"{STAGES[name]} takes {share:.0%} of the time of the main process"
    return f"{text}; {helps[name]}"


def data_tables(profile: Mapping[str, Any]) -> list[Table]:
    """Return what `measure_data` returned, a table a loader."""
    tables = []
    for name, one in profile["loaders"].items():
        rates = one["images_per_s"]
        rows = [
            ("building datasets and loaders", f"{profile['build_s']:.2f} s"),
            ("first batch", f"{one['first_batch_s']:.2f} s"),
            ("images a second", f"{mean(rates):,.0f}"),
            ("  slowest and fastest pass", f"{min(rates):,.0f} to {max(rates):,.0f}"),
        ]
        for stage, ms in one.get("stages_ms", {}).items():
            rows.append((f"{STAGES[stage]}, of an image", f"{ms:.3f} ms"))
        title = (
            f"data, loader {name}: batch size {one['batch_size']},"
            f" {one['num_workers']} workers, {os.cpu_count()} cores"
        )
        notes = [one["bottleneck"]] if "bottleneck" in one else []
        tables.append(Table(title, ("", "measured"), rows, notes=notes))
    return tables


# --- a training step ------------------------------------------------------------------


def measure_model(run: Any) -> dict[str, Any]:
    """Take some training steps, and measure them.

    Args:
        run: a trainer in training mode.

    Returns:
        JSON types: `ms` by part, medians; `images_per_s` and `encode_images_per_s` (in
        evaluation mode) of all ranks; `modules`; `flops` (multiplications and additions
        count each); `activations_mib` held for the backward pass; `peak_gib`; `ops`.
        Synchronises the device around every part.
    """
    clock, batches = Clock(run.device), _endless(run)
    for _ in range(1 if run._limit else WARM):
        _step(run, next(batches))
    rows, batch = _steps(run, clock, batches)
    total = median(sum(row.values()) for row in rows)
    batch = next(iter(batch.values())) if isinstance(batch, dict) else batch
    x, ranks = first_view(batch[0]), distributed.world_size()
    profile = {
        "device": str(run.device),
        "steps": len(rows),
        "batch_size": len(x) * ranks,
        "ms": {part: 1000 * median(row[part] for row in rows) for part in PARTS},
        "images_per_s": len(x) * ranks / total,
        "encode_images_per_s": ranks * _encoding(run, clock, x),
        "modules": _modules(run),
        "peak_gib": peak_memory() / 2**30,
        "ops": _ops(run, next(batches)),
    }
    flops, saved = _cost(run, x)
    flops["per_s"] = (flops["forward"] + flops["backward"]) / total
    return profile | {"flops": flops, "activations_mib": saved / MIB}


def _endless(run: Any) -> Iterator[Any]:
    """Yield the train batches of epoch after epoch, on the device."""
    for epoch in epochs():
        loader, length = run.train_loader, run._epoch_batches
        yield from batches_from(loader, epoch, 0, length, run.device)


def _step(run: Any, batch: Any) -> None:
    """Take a whole training step, the probe's included."""
    run.train_micro_batch(batch)
    if run.evaluation.online:
        run.evaluation.fit(run.labelled(batch), run.probe_features)


def _steps(
    run: Any, clock: Clock, batches: Iterator[Any]
) -> tuple[list[dict[str, float]], Any]:
    """Return the seconds of the parts of each step, and the last batch.

    The backward pass is what `train_step` takes beside the loss and the optimizer's
    step; the hooks are what the whole step takes beside all else.
    """
    rows, spent, batch = [], 0.0, None
    with _watching(run, clock):
        while len(rows) < (run._limit or STEPS) and spent < STEP_SECONDS:
            start = clock.now()
            with clock.part("data"):
                batch = next(batches)
            _step(run, batch)
            whole = clock.now() - start
            spent += whole
            row = clock.take()
            train = row.pop("train_step")
            backward = train - row["forward"] - row["optimizer"]
            hooks = max(whole - backward - sum(row.values()), 0.0)
            row |= {"backward": backward, "hooks": hooks}
            rows.append({part: row.get(part, 0.0) for part in PARTS})
    return rows, batch


@contextmanager
def _watching(run: Any, clock: Clock) -> Iterator[None]:
    """Time the methods that a step calls, while inside."""
    from unittest.mock import patch

    with ExitStack() as stack:
        for owner, method, part in (
            (run, "train_step", "train_step"),
            (run, "loss", "forward"),
            (run, "optimizer_step", "optimizer"),
            (run.evaluation, "fit", "probe"),
        ):
            timed = clock.watched(part, getattr(owner, method))
            stack.enter_context(patch.object(owner, method, timed))
        yield


def _encoding(run: Any, clock: Clock, x: Tensor) -> float:
    """Return the images a second that this rank encodes in evaluation mode."""
    with undisturbed(run), run.autocast():
        run.encode(x)
        clock.take()
        with clock.part("encode"):
            for _ in range(WARM):
                run.encode(x)
    return WARM * len(x) / clock.take()["encode"]


def _modules(model: nn.Module) -> list[dict[str, Any]]:
    """Return what each child of the model holds, the model's own tensors last."""
    held = [(n, [*m.parameters()], [*m.buffers()]) for n, m in model.named_children()]
    if own := list(model.parameters(recurse=False)):
        held.append(("(own)", own, list(model.buffers(recurse=False))))
    return [
        {
            "module": name,
            "parameters": sum(p.numel() for p in parameters),
            "trained": sum(p.numel() for p in parameters if p.requires_grad),
            "mib": sum(t.nbytes for t in [*parameters, *buffers]) / MIB,
        }
        for name, parameters, buffers in held
    ]


def _cost(run: Any, x: Tensor) -> tuple[dict[str, int], int]:
    """Count the operations of a step, and the bytes it keeps for its backward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    fixed = {p.untyped_storage().data_ptr() for p in run.parameters()}
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in fixed:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with FlopCounterMode(display=False) as forward, hooks, run.autocast():
        loss = run.compute_loss()
    with FlopCounterMode(display=False) as backward:
        (loss["loss"] if isinstance(loss, Mapping) else loss).backward()
    run.zero_grad()
    with undisturbed(run), FlopCounterMode(display=False) as one, run.autocast():
        run.encode(x[:1])
    flops = {
        "encode_image": one.get_total_flops(),
        "forward": forward.get_total_flops(),
        "backward": backward.get_total_flops(),
    }
    return flops, sum(held.values())


def _ops(run: Any, batch: Any) -> list[dict[str, Any]]:
    """Return the ops that take most of a step by themselves, the slowest first."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = run.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as profiled:
        _step(run, batch)
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = [(getattr(e, key), e.key, e.count) for e in profiled.key_averages()]
    total = sum(time for time, *_ in rows) or 1
    return [
        {"op": name, "calls": calls, "ms": time / 1000, "share": time / total}
        for time, name, calls in sorted(rows, reverse=True)[:OPS]
    ]


def model_tables(profile: Mapping[str, Any]) -> list[Table]:
    """Return what `measure_model` returned: times, parameters and slowest ops."""
    ms, flops = profile["ms"], profile["flops"]
    whole = sum(ms.values())
    parts = [(name, f"{t:.2f}", f"{t / whole:.0%}") for name, t in ms.items()]
    notes = [
        f"{profile['images_per_s']:,.0f} images/s trained,"
        f" {profile['encode_images_per_s']:,.0f} encoded for evaluation",
        f"{(flops['forward'] + flops['backward']) / 1e9:,.2f} GFLOP a step,"
        f" {flops['per_s'] / 1e9:,.1f} GFLOP/s; {flops['encode_image'] / 1e9:,.4f}"
        " GFLOP to encode an image",
        f"{profile['activations_mib']:,.1f} MiB of activations held for the backward"
        f" pass, {profile['peak_gib']:.2f} GiB of memory at the peak",
        _advice(ms),
    ]
    modules = [
        (m["module"], f"{m['parameters']:,}", f"{m['trained']:,}", f"{m['mib']:.2f}")
        for m in profile["modules"]
    ]
    ops = [
        (op["op"], str(op["calls"]), f"{op['ms']:.2f}", f"{op['share']:.0%}")
        for op in profile["ops"]
    ]
    title = (
        f"a step of {profile['batch_size']} images on {profile['device']}, median of"
        f" {profile['steps']}"
    )
    parts.append(("all", f"{whole:.2f}", ""))
    return [
        Table(title, ("", "ms", "share"), parts, notes=notes),
        Table("parameters", ("", "all", "trained", "MiB"), modules),
        Table("slowest ops of a step", ("", "calls", "ms", "share"), ops),
    ]


def _advice(ms: Mapping[str, float]) -> str:
    """Say what most of a step is spent on, and what helps; milliseconds by part."""
    faster = "hardware.compile=true or hardware.precision=bfloat16 may help"
    helps = {
        "data": "see mode=profile_data",
        "forward": faster,
        "backward": faster,
        "optimizer": "a larger data.batch_size takes fewer of these",
        "probe": "log.eval.linear=null turns it off",
        "hooks": "see before_train_step and after_train_step of the method",
    }
    name = max(ms, key=ms.get)
    return f"{name} takes {ms[name] / sum(ms.values()):.0%} of a step; {helps[name]}"
