"""What a training step costs: time by part, arithmetic, memory, the slowest ops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import count
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from stable_ssl import distributed
from stable_ssl.data.batch import first_view
from stable_ssl.data.loader import batches_from
from stable_ssl.evaluation.online import undisturbed
from stable_ssl.loggers.records import peak_memory
from stable_ssl.profiling.clock import Clock

WARM = 3  # steps before the clock runs
STEPS = 20  # timed, at most
SECONDS = 20.0  # of all timed steps, at most
OPS = 10  # slowest, that are named
PARTS = ("data", "forward", "backward", "optimizer", "hooks", "probe")
MIB = 2**20


def profile_model(
    model: nn.Module,
    batches: Iterator[Any],
    step: Callable[[Any], None],
    watched: Mapping[str, tuple[Any, str]],
    loss: Callable[[], Any],
    encode: Callable[[Tensor], Tensor],
    autocast: Callable[[], AbstractContextManager],
    device: torch.device,
    limit: int | None = None,
) -> dict[str, Any]:
    """Take some training steps, and measure them; the weights change.

    Args:
        model: what is trained.
        batches: on the device, without end.
        step: takes a whole training step with a batch.
        watched: {part: (object, method)} that a step calls: `train_step`, and in it
            `forward` and `optimizer`; of what is left of it `backward` is made.
        loss: of the batch of the last step, with gradient: a scalar or a dict.
        encode: maps a view (N, C, H, W) to features.
        autocast: returns the precision to compute in.
        device: of the model; synchronised around every part.
        limit: steps to take; None takes some 20.

    Returns:
        JSON types: `ms` by part, medians; `images_per_s` and `encode_images_per_s` (in
        evaluation mode) of all ranks; `modules`; `flops` (multiplications and additions
        count each); `activations_mib` held for the backward pass; `peak_gib`; `ops`.
    """
    clock = Clock(device)
    for _ in range(1 if limit else WARM):
        step(next(batches))
    rows, images = _steps(clock, batches, step, watched, limit)
    x = first_view(images[-1])
    parts = {name: median(row[name] for row in rows) for name in PARTS}
    total = median(sum(row.values()) for row in rows)
    ranks = distributed.world_size()
    found = {
        "device": str(device),
        "steps": len(rows),
        "batch_size": len(x) * ranks,
        "ms": {name: 1000 * seconds for name, seconds in parts.items()},
        "images_per_s": len(x) * ranks / total,
        "encode_images_per_s": ranks * _encoding(clock, model, encode, autocast, x),
        "modules": _modules(model),
        "peak_gib": peak_memory() / 2**30,
        "ops": _ops(step, batches, device),
    }
    flops, saved = _cost(model, loss, encode, autocast, x)
    flops["per_s"] = (flops["forward"] + flops["backward"]) / total
    return found | {"flops": flops, "activations_mib": saved / MIB}


def endless(loader: Any, length: int, device: torch.device) -> Iterator[Any]:
    """Yield the batches of epoch after epoch.

    Args:
        loader: as for `batches_from`.
        length: batches of an epoch.
        device: of the batches.
    """
    for epoch in count():
        yield from batches_from(loader, epoch, 0, length, device)


def _steps(
    clock: Clock,
    batches: Iterator[Any],
    step: Callable[[Any], None],
    watched: Mapping[str, tuple[Any, str]],
    limit: int | None,
) -> tuple[list[dict[str, float]], list[Any]]:
    """Return the seconds of the parts of each step, and the images of the last."""
    rows, spent = [], 0.0
    with clock.watching(watched):
        while len(rows) < (limit or STEPS) and spent < SECONDS:
            start = clock.now()
            with clock.part("data"):
                batch = next(batches)
            step(batch)
            whole = clock.now() - start
            spent += whole
            row = clock.take()
            train = row.pop("train_step")
            inner = row["forward"] + row["optimizer"]
            outer = whole - train - sum(row.values()) + inner
            row |= {"backward": train - inner, "hooks": max(outer, 0.0)}
            rows.append({name: row.get(name, 0.0) for name in PARTS})
    images = batch if not isinstance(batch, dict) else next(iter(batch.values()))
    return rows, [images[0]]


def _encoding(
    clock: Clock,
    model: nn.Module,
    encode: Callable[[Tensor], Tensor],
    autocast: Callable[[], AbstractContextManager],
    x: Tensor,
) -> float:
    """Return the images a second that are encoded in evaluation mode."""
    with undisturbed(model), autocast():
        encode(x)
        clock.take()
        for _ in range(WARM):
            with clock.part("encode"):
                encode(x)
    return WARM * len(x) / clock.take()["encode"]


def _modules(model: nn.Module) -> list[dict[str, Any]]:
    """Return what each child of the model holds, the model's own tensors last."""
    children = [(name, list(m.parameters()), m) for name, m in model.named_children()]
    own = list(model.parameters(recurse=False))
    rows = [_held(name, held, list(m.buffers())) for name, held, m in children]
    if own:
        rows.append(_held("(own)", own, list(model.buffers(recurse=False))))
    return rows


def _held(name: str, parameters: list[Tensor], buffers: list[Tensor]) -> dict[str, Any]:
    return {
        "module": name,
        "parameters": sum(p.numel() for p in parameters),
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
        "mib": sum(t.nbytes for t in [*parameters, *buffers]) / MIB,
    }


def _cost(
    model: nn.Module,
    loss: Callable[[], Any],
    encode: Callable[[Tensor], Tensor],
    autocast: Callable[[], AbstractContextManager],
    x: Tensor,
) -> tuple[dict[str, int], int]:
    """Count the operations of a step, and the bytes it keeps for its backward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    fixed = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in fixed:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with FlopCounterMode(display=False) as forward, hooks, autocast():
        value = loss()
    with FlopCounterMode(display=False) as backward:
        (value["loss"] if isinstance(value, Mapping) else value).backward()
    model.zero_grad()
    with undisturbed(model), FlopCounterMode(display=False) as one, autocast():
        encode(x[:1])
    flops = {
        "encode_image": one.get_total_flops(),
        "forward": forward.get_total_flops(),
        "backward": backward.get_total_flops(),
    }
    return flops, sum(held.values())


def _ops(
    step: Callable[[Any], None], batches: Iterator[Any], device: torch.device
) -> list[dict[str, Any]]:
    """Return the ops that take most of a step by themselves, the slowest first."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    batch = next(batches)
    with profile(activities=kinds) as profiled:
        step(batch)
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = [(getattr(e, key), e.key, e.count) for e in profiled.key_averages()]
    total = sum(time for time, *_ in rows) or 1
    rows.sort(reverse=True)
    return [
        {"op": name, "calls": calls, "ms": time / 1000, "share": time / total}
        for time, name, calls in rows[:OPS]
    ]
