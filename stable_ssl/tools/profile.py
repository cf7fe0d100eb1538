"""Where time and memory go: mode=profile_data and mode=profile_model.

Both write `<mode>.json` to the run folder and show the same as tables; nothing that the
steps have learned is kept.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count as epochs
from itertools import islice
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor

from stable_ssl import distributed, seeding
from stable_ssl.batch import BatchSource, batches_from, count, first_view
from stable_ssl.data import build_loaders
from stable_ssl.data.combined import named_parts
from stable_ssl.data.loading.loader import Loader
from stable_ssl.evaluation.suite import undisturbed
from stable_ssl.loggers.records import Clock, peak_memory
from stable_ssl.loggers.table import Table

PASSES = 3  # over the data
BATCHES, PASS_SECONDS = 50, 10.0  # of a pass, at most
SAMPLES = 64  # read and begun one by one
WARM = 3  # steps before the clock runs
STEPS, STEP_SECONDS = 20, 20.0  # timed, at most, and of all of them
OPS = 10  # slowest, that are named
MIB = 2**20

CORES = f"({os.cpu_count()} cores here)"
DECODE = f"set data.num_workers {CORES}, or data.in_memory for small images of one size"
STAGES = {  # of an image, and what makes each shorter
    "read": ("reading and decoding", DECODE),
    "begin": ("the workers' part of the views", DECODE),
    "copy": ("copying to the GPU", "store the images smaller, or hold them on the GPU"),
    "augment": (
        "augmentation",
        "fewer views or cheaper ops, or a GPU, with data.compile=true, may help",
    ),
}
FASTER = "hardware.compile=true or hardware.precision=bfloat16 may help"
PARTS = {  # of a training step, and what makes each shorter
    "data": "see mode=profile_data",
    "forward": FASTER,
    "backward": FASTER,
    "optimizer": "a larger data.batch_size takes fewer of these",
    "hooks": "see before_train_step and after_train_step of the method",
    "probe": "log.eval.linear=null turns it off",
}


def profile_data(run: Any) -> None:
    """Time how the train data of a trainer after `setup` are made."""
    build = partial(build_loaders, run.config, run.device)
    profile = measure_data(build, run.device, run.batch_limit)
    _show(run, profile, data_tables(profile))


def profile_model(run: Any) -> None:
    """Take training steps of a trainer after `setup` and measure them."""
    run.train()
    run.before_train_epoch()
    profile = measure_model(run)
    _show(run, profile, model_tables(profile))


def _show(run: Any, profile: Mapping[str, Any], tables: Sequence[Table]) -> None:
    """Write a profile as JSON, and show its tables."""
    if run.rank == 0:
        file = f"{run.config.mode}.json"
        run.records.folder.write_file(file, json.dumps(profile, indent=1) + "\n")
        run.records.console.table("\n\n".join(map(str, tables)))
        run.say(f"profile: {run.run_dir / file}")


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
    clock, loaders = Clock(device), {}
    with seeding.preserve_rng(), clock.part("build"):
        train = build()["train"]
    for name, loader in named_parts(train, "train").items():
        start = clock.now()
        next(iter(loader))
        first = clock.now() - start
        workers = getattr(getattr(loader, "workers", loader), "num_workers", 0)
        loaders[name] = {
            "batch_size": getattr(loader, "batch_size", None),
            "num_workers": workers,
            "first_batch_s": first,
            "images_per_s": [_pass(loader, n, clock, limit) for n in range(PASSES)],
        }
        if isinstance(loader, Loader):  # another one cannot be looked into
            with seeding.preserve_rng():
                stages = _stages(loader, device, limit)
            loaders[name]["stages_ms"] = stages
            loaders[name]["bottleneck"] = bottleneck(stages, workers)
    return {"build_s": clock.seconds["build"], "loaders": loaders}


def _pass(loader: Any, epoch: int, clock: Clock, limit: int | None) -> float:
    """Return the images a second of a part of an epoch."""
    if isinstance(loader, BatchSource):
        loader.set_epoch(epoch)
    start, images = clock.now(), 0
    for batch in islice(loader, limit or BATCHES):
        images += count(batch) or 0
        if clock.now() - start > PASS_SECONDS:
            break
    return images * distributed.world_size() / (clock.now() - start)


def _stages(
    loader: Loader, device: torch.device, limit: int | None
) -> dict[str, float]:
    """Return the milliseconds that an image takes in each stage of a loader."""
    loader.set_epoch(0)
    clock, stages = Clock(device), {}
    if loader.workers is not None:
        stages = _one_by_one(loader, device, 1 if limit else SAMPLES)
    with clock.part("read"):  # in memory it is indexing
        batches = list(islice(loader.unfinished(), limit or 5))
    if loader.device.type != "cpu":
        views = [view.cpu() for batch in batches for view in batch.views]
        with clock.part("copy"):
            for view in views:
                view.to(loader.device)
    loader.finish(batches[0], epoch=0)  # the first call of an op costs more
    with clock.part("augment"):
        for batch in batches:
            loader.finish(batch, epoch=0)
    images = sum(len(batch.draws) for batch in batches)
    stages = {n: 1000 * s / images for n, s in clock.seconds.items()} | stages
    return {name: stages[name] for name in STAGES if name in stages}


def _one_by_one(loader: Loader, device: torch.device, samples: int) -> dict[str, float]:
    """Return the milliseconds of a worker's two stages for a sample, taken here."""
    source, clock, done = loader.source, Clock(device), 0
    if loader.streams:
        indices, stream = range(samples), iter(source.dataset)
    else:
        indices = range(0, len(source.dataset), -(-len(source.dataset) // samples))
        stream = map(source.dataset.__getitem__, indices)
    for index in indices:
        with clock.part("read"):
            sample = next(stream, None)
        if sample is None:
            break
        with clock.part("begin"):
            source.sample(lambda sample=sample: sample, 0, index)
        done += 1
    return {name: 1000 * seconds / done for name, seconds in clock.seconds.items()}


def bottleneck(stages: Mapping[str, float], workers: int) -> str:
    """Say which stage limits a loader, and what helps; milliseconds an image."""
    in_workers = stages.get("read", 0) + stages.get("begin", 0)
    in_main = stages.get("copy", 0) + stages["augment"]
    if workers and in_workers / workers > in_main:
        return (
            f"the workers limit: {workers} of them read"
            f" {1000 * workers / in_workers:,.0f} images/s, and"
            f" {1000 / in_main:,.0f} could be augmented; set data.num_workers higher"
            f" {CORES}, or store the images smaller"
        )
    candidates = ("copy", "augment") if workers else stages
    slowest = max(candidates, key=lambda stage: stages.get(stage, 0.0))
    share = stages[slowest] / (in_main if workers else in_workers + in_main)
    name, remedy = STAGES[slowest]
    if slowest == "read" and "begin" not in stages:
        remedy = "the images are in memory already: a larger batch may help"
    return f"{name} takes {share:.0%} of the time of the main process; {remedy}"


def data_tables(profile: Mapping[str, Any]) -> list[Table]:
    """Return what `measure_data` returned, a table a loader."""
    tables = []
    for name, loader in profile["loaders"].items():
        rates = loader["images_per_s"]
        rows = [
            ("building datasets and loaders", f"{profile['build_s']:.2f} s"),
            ("first batch", f"{loader['first_batch_s']:.2f} s"),
            ("images a second", f"{mean(rates):,.0f}"),
            ("  slowest and fastest pass", f"{min(rates):,.0f} to {max(rates):,.0f}"),
        ]
        for stage, ms in loader.get("stages_ms", {}).items():
            rows.append((f"{STAGES[stage][0]}, of an image", f"{ms:.3f} ms"))
        title = (
            f"data, loader {name}: batch size {loader['batch_size']},"
            f" {loader['num_workers']} workers, {os.cpu_count()} cores"
        )
        notes = [loader["bottleneck"]] if "bottleneck" in loader else []
        tables.append(Table(title, ("", "measured"), rows, notes=notes))
    return tables


# --- a training step ------------------------------------------------------------------


def measure_model(run: Any) -> dict[str, Any]:
    """Take some training steps of a trainer in training mode, and measure them.

    Returns:
        JSON types: `ms` by part, medians; `images_per_s` and `encode_images_per_s` (in
        evaluation mode) of all ranks; `modules`; `flops` (multiplications and additions
        count each); `activations_mib` held for the backward pass; `peak_gib`; `ops`.
        Synchronises the device around every part.
    """
    loader, length = run.train_loader, run.batches_per_epoch
    each = (batches_from(loader, epoch, 0, length, run.device) for epoch in epochs())
    batches = (batch for epoch in each for batch in epoch)
    for _ in range(1 if run.batch_limit else WARM):
        _step(run, next(batches), Clock(run.device))
    steps, start = [], time.perf_counter()
    while len(steps) < (run.batch_limit or STEPS):
        clock = run.records.clock = Clock(run.device)
        with clock.part("data"):
            batch = next(batches)
        _step(run, batch, clock)
        steps.append(_parts(clock.seconds))
        if time.perf_counter() - start > STEP_SECONDS:
            break
    run.records.clock = None
    total = median(sum(step.values()) for step in steps)
    batch = next(iter(batch.values())) if isinstance(batch, dict) else batch
    x, ranks = first_view(batch[0]), distributed.world_size()
    profile = {
        "device": str(run.device),
        "steps": len(steps),
        "batch_size": len(x) * ranks,
        "ms": {part: 1000 * median(step[part] for step in steps) for part in PARTS},
        "images_per_s": len(x) * ranks / total,
        "encode_images_per_s": ranks * _encoding(run, x),
        "modules": _modules(run),
        "peak_gib": peak_memory() / 2**30,
        "ops": _ops(run, next(batches)),
    }
    flops, saved = _cost(run, x)
    flops["per_s"] = (flops["forward"] + flops["backward"]) / total
    return profile | {"flops": flops, "activations_mib": saved / MIB}


def _step(run: Any, batch: Any, clock: Clock) -> None:
    """Take a whole training step, the probe's included."""
    with clock.part("step"):
        run.train_micro_batch(batch)
    if run.evaluation.online:
        with clock.part("probe"):
            run.evaluation.fit(run.labelled(batch), run.probe_features, run.step)


def _parts(seconds: Counter[str]) -> dict[str, float]:
    """Return the seconds of each of PARTS, of what was timed in one another.

    The optimizer's is what `train_step` takes beside its losses and their gradients;
    the hooks' is what a step takes beside `train_step`.
    """
    optimizer = seconds["train_step"] - seconds["forward"] - seconds["backward"]
    hooks = seconds["step"] - seconds["train_step"]
    return {n: seconds[n] for n in PARTS} | {"optimizer": optimizer, "hooks": hooks}


def _encoding(run: Any, x: Tensor) -> float:
    """Return the images a second that this rank encodes in evaluation mode."""
    clock = Clock(run.device)
    with undisturbed(run), run.autocast():
        run.encode(x)
        with clock.part("encode"):
            for _ in range(WARM):
                run.encode(x)
    return WARM * len(x) / clock.seconds["encode"]


def _modules(run: Any) -> list[dict[str, Any]]:
    """Return what each child of the model holds, the model's own tensors last."""
    tensors = {n: ([*m.parameters()], [*m.buffers()]) for n, m in run.named_children()}
    if parameters := list(run.parameters(recurse=False)):
        tensors["(own)"] = parameters, list(run.buffers(recurse=False))
    return [
        {
            "module": name,
            "parameters": sum(p.numel() for p in parameters),
            "trained": sum(p.numel() for p in parameters if p.requires_grad),
            "mib": sum(t.nbytes for t in [*parameters, *buffers]) / MIB,
        }
        for name, (parameters, buffers) in tensors.items()
    ]


def _cost(run: Any, x: Tensor) -> tuple[dict[str, int], int]:
    """Count the operations of a step, and the bytes it keeps for its backward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    weights = {p.untyped_storage().data_ptr() for p in run.parameters()}
    saved: dict[int, int] = {}  # bytes by address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with FlopCounterMode(display=False) as forward, hooks, run.autocast():
        loss = run.compute_loss()
    with FlopCounterMode(display=False) as backward:
        (loss["loss"] if isinstance(loss, Mapping) else loss).backward()
    run.zero_grad()
    with undisturbed(run), FlopCounterMode(display=False) as encode, run.autocast():
        run.encode(x[:1])
    counters = {"encode_image": encode, "forward": forward, "backward": backward}
    return {n: c.get_total_flops() for n, c in counters.items()}, sum(saved.values())


def _ops(run: Any, batch: Any) -> list[dict[str, Any]]:
    """Return the ops that take most of a step by themselves, the slowest first."""
    from torch.profiler import profile

    with profile() as profiled:  # of the CPU, and of a GPU where there is one
        _step(run, batch, Clock(run.device))
    on_gpu = run.device.type == "cuda"
    time_of = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = [(getattr(e, time_of), e.key, e.count) for e in profiled.key_averages()]
    total = sum(us for us, *_ in rows) or 1
    return [
        {"op": name, "calls": calls, "ms": us / 1000, "share": us / total}
        for us, name, calls in sorted(rows, reverse=True)[:OPS]
    ]


def model_tables(profile: Mapping[str, Any]) -> list[Table]:
    """Return what `measure_model` returned: times, parameters and slowest ops."""
    ms, flops = profile["ms"], profile["flops"]
    total, slowest = sum(ms.values()), max(ms, key=ms.get)
    parts = [(name, f"{t:.2f}", f"{t / total:.0%}") for name, t in ms.items()]
    notes = [
        f"{profile['images_per_s']:,.0f} images/s trained,"
        f" {profile['encode_images_per_s']:,.0f} encoded for evaluation",
        f"{(flops['forward'] + flops['backward']) / 1e9:,.2f} GFLOP a step,"
        f" {flops['per_s'] / 1e9:,.1f} GFLOP/s; {flops['encode_image'] / 1e9:,.4f}"
        " GFLOP to encode an image",
        f"{profile['activations_mib']:,.1f} MiB of activations held for the backward"
        f" pass, {profile['peak_gib']:.2f} GiB of memory at the peak",
        f"{slowest} takes {ms[slowest] / total:.0%} of a step; {PARTS[slowest]}",
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
    parts.append(("all", f"{total:.2f}", ""))
    return [
        Table(title, ("", "ms", "share"), parts, notes=notes),
        Table("parameters", ("", "all", "trained", "MiB"), modules),
        Table("slowest ops of a step", ("", "calls", "ms", "share"), ops),
    ]
