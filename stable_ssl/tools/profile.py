"""Where time and memory go: mode=profile_data and mode=profile_model.

Both write `<mode>.json` to the run folder and show the same as tables; nothing that the
steps have learned is kept.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import count as epochs
from itertools import islice
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor

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
MIB = 2**20

STAGES = {  # of an image
    "read": "reading and decoding",
    "begin": "the workers' part of the views",
    "copy": "copying to the GPU",
    "augment": "augmentation",
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
    """Time how the train data are made; write profile_data.json.

    Args:
        run: a trainer after `setup`.
    """
    build = partial(build_loaders, run.config, run.device)
    _show(run, measure_data(build, run.device, run.batch_limit), data_tables)


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
    """Adds up the seconds of parts by name, waiting for the device around each."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: Counter[str] = Counter()

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
        yield
        self.seconds[name] += self.now() - start


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
    return {
        "build_s": clock.seconds["build"],
        "loaders": {
            name: _measure_loader(loader, device, limit)
            for name, loader in named_parts(train, "train").items()
        },
    }


def _measure_loader(
    loader: Any, device: torch.device, limit: int | None
) -> dict[str, Any]:
    """Time one loader."""
    clock = Clock(device)
    with clock.part("first batch"):
        next(iter(loader))
    profile: dict[str, Any] = {
        "batch_size": getattr(loader, "batch_size", None),
        "num_workers": getattr(getattr(loader, "workers", loader), "num_workers", 0),
        "first_batch_s": clock.seconds["first batch"],
        "images_per_s": [_pass(loader, n, clock, limit) for n in range(PASSES)],
    }
    if isinstance(loader, Loader):  # another one cannot be looked into
        with seeding.preserve_rng():
            stages = profile["stages_ms"] = _stages(loader, device, limit)
        profile["bottleneck"] = bottleneck(stages, profile["num_workers"])
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


def _stages(
    loader: Loader, device: torch.device, limit: int | None
) -> dict[str, float]:
    """Return the milliseconds that an image takes in each stage of a loader."""
    loader.set_epoch(0)
    workers, main = Clock(device), Clock(device)
    samples = _one_by_one(loader, workers, 1 if limit else SAMPLES)
    with main.part("read"):
        batches = list(islice(loader.unfinished(), limit or 5))
    if loader.workers is not None:  # they read; in memory, reading is indexing
        del main.seconds["read"]
    if loader.device.type != "cpu":
        views = [view.cpu() for batch in batches for view in batch.views]
        with main.part("copy"):
            for view in views:
                view.to(loader.device)
    loader.finish(batches[0], epoch=0)  # the first call of an op costs more
    with main.part("augment"):
        for batch in batches:
            loader.finish(batch, epoch=0)
    images = sum(len(batch.index) for batch in batches)
    of_workers = {name: 1e3 * s / samples for name, s in workers.seconds.items()}
    return of_workers | {name: 1e3 * s / images for name, s in main.seconds.items()}


def _one_by_one(loader: Loader, clock: Clock, samples: int) -> int:
    """Read and begin some samples here, as workers do if there are any; count them."""
    if loader.workers is None:
        return 0
    source = loader.workers.dataset  # `Samples` or `Stream`
    if loader.streams:
        stream = iter(source.dataset)
        indices = range(samples)
    else:
        indices = range(0, len(source.dataset), -(-len(source.dataset) // samples))
    done = 0
    for index in indices:
        with clock.part("read"):
            sample = next(stream, None) if loader.streams else source.dataset[index]
        if sample is None:
            break
        with clock.part("begin"):
            begin(source.heads, sample[0], loader.seed, 0, index)
        done += 1
    return done


def bottleneck(stages: Mapping[str, float], workers: int) -> str:
    """Say in words which stage limits a loader, and what helps.

    Args:
        stages: milliseconds an image in one process.
        workers: processes that read and begin.
    """
    in_workers = stages.get("read", 0) + stages.get("begin", 0)
    in_main = stages.get("copy", 0) + stages["augment"]
    cores = f"({os.cpu_count()} cores here)"
    if workers and in_workers / workers > in_main:
        return (
            f"the workers limit: {workers} of them read"
            f" {1000 * workers / in_workers:,.0f} images/s, and"
            f" {1000 / in_main:,.0f} could be augmented; set data.num_workers higher"
            f" {cores}, or store the images smaller"
        )
    candidates = ("copy", "augment") if workers else stages
    name = max(candidates, key=lambda stage: stages.get(stage, 0.0))
    share = stages[name] / (in_main if workers else in_workers + in_main)
    decode = (
        f"set data.num_workers {cores}, or data.in_memory for small images of one size"
        if "begin" in stages
        else "the images are in memory already: a larger batch may help"
    )
    remedies = {
        "read": decode,
        "begin": decode,
        "copy": "store the images smaller, or hold them on the GPU",
        "augment": "data.compile=true, fewer views or cheaper ops, or a GPU may help",
    }
    return (
        f"{STAGES[name]} takes {share:.0%} of the time of the main process;"
        f" {remedies[name]}"
    )


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
            rows.append((f"{STAGES[stage]}, of an image", f"{ms:.3f} ms"))
        title = (
            f"data, loader {name}: batch size {loader['batch_size']},"
            f" {loader['num_workers']} workers, {os.cpu_count()} cores"
        )
        notes = [loader["bottleneck"]] if "bottleneck" in loader else []
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
    batches = (  # of epoch after epoch, on the device
        batch
        for epoch in epochs()
        for batch in batches_from(
            run.train_loader, epoch, 0, run.batches_per_epoch, run.device
        )
    )
    for _ in range(1 if run.batch_limit else WARM):
        _step(run, next(batches), Clock(run.device))
    steps, began = [], time.perf_counter()
    while len(steps) < (run.batch_limit or STEPS) and (
        time.perf_counter() - began < STEP_SECONDS
    ):
        clock = run.records.clock = Clock(run.device)
        with clock.part("data"):
            batch = next(batches)
        _step(run, batch, clock)
        run.records.clock = None
        steps.append(_parts(clock.seconds))
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
            run.evaluation.fit(run.labelled(batch), run.probe_features)


def _parts(seconds: Counter[str]) -> dict[str, float]:
    """Return the seconds of each of PARTS, of what was timed in one another.

    The optimizer's is what `train_step` takes beside its losses and their gradients;
    the hooks' is what a step takes beside `train_step`.
    """
    of_step, of_train_step = seconds["step"], seconds["train_step"]
    optimizer = of_train_step - seconds["forward"] - seconds["backward"]
    hooks = of_step - of_train_step
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
    if of_none := list(run.parameters(recurse=False)):
        tensors["(own)"] = of_none, list(run.buffers(recurse=False))
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
    flops = {
        "encode_image": encode.get_total_flops(),
        "forward": forward.get_total_flops(),
        "backward": backward.get_total_flops(),
    }
    return flops, sum(saved.values())


def _ops(run: Any, batch: Any) -> list[dict[str, Any]]:
    """Return the ops that take most of a step by themselves, the slowest first."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = run.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as profiled:
        _step(run, batch, Clock(run.device))
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
    whole, slowest = sum(ms.values()), max(ms, key=ms.get)
    parts = [(name, f"{t:.2f}", f"{t / whole:.0%}") for name, t in ms.items()]
    notes = [
        f"{profile['images_per_s']:,.0f} images/s trained,"
        f" {profile['encode_images_per_s']:,.0f} encoded for evaluation",
        f"{(flops['forward'] + flops['backward']) / 1e9:,.2f} GFLOP a step,"
        f" {flops['per_s'] / 1e9:,.1f} GFLOP/s; {flops['encode_image'] / 1e9:,.4f}"
        " GFLOP to encode an image",
        f"{profile['activations_mib']:,.1f} MiB of activations held for the backward"
        f" pass, {profile['peak_gib']:.2f} GiB of memory at the peak",
        f"{slowest} takes {ms[slowest] / whole:.0%} of a step; {PARTS[slowest]}",
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
