"""What a run says of itself before its first step."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_ssl import seeding
from stable_ssl.batch import known_length
from stable_ssl.checkpoint import equal
from stable_ssl.data.combined import named_parts
from stable_ssl.data.loading.loader import Loader
from stable_ssl.data.nodes import split_name
from stable_ssl.lifecycle import small_batches
from stable_ssl.models.randomness import drawing_modules
from stable_ssl.run import Run

UNLIKE_ONE = "N processes draw otherwise than one"


def opening(run: Run) -> Iterator[str]:
    """Yield lines: where a run's files are, on what, of what and how long it trains."""
    folder = Path(os.path.relpath(run.run_dir))
    folder = run.run_dir if ".." in folder.parts else folder
    config, fit = run.config, run.config.mode == "fit"
    kept = "kept nowhere" if config.fast_dev_run else folder
    yield f"run       {kept}{', fresh' if fit and run.step == 0 else ''}"
    yield f"machine   {_machine(run)}"
    splits = {s: x for s, x in run.loaders.items() if s != "bank"}
    for number, text in enumerate(_data(splits, run.num_classes)):
        yield f"{'' if number else 'data':10}{text}"
    trained = sum(p.numel() for p in run.parameters() if p.requires_grad)
    size = sum(p.numel() for p in run.parameters())
    part = f", {trained / 1e6:.3g} of them trained" if fit and trained < size else ""
    yield f"model     {type(run).__name__}, {size / 1e6:.3g} million parameters{part}"
    if fit:
        epochs = _several(run.total_steps / run.steps_per_epoch, "epoch")
        steps = _several(run.steps_per_epoch, "step")
        images = run.images_per_step
        each = f", {images:,} samples each" if images else ""
        yield f"training  {epochs} of {steps}{each}"
        if drawing := list(drawing_modules(run)):
            (name, module), *_ = drawing
            modules = f"{_several(len(drawing), 'module')}, as {name or 'the model'}"
            yield f"random    {modules}, a {type(module).__name__}: {UNLIKE_ONE}"
        if not config.fast_dev_run:
            yield f"go on     the same command and log.run={config.log.run}"


def drawn(run: Run) -> str | None:
    """Say that something drew from the global generators since the epoch's start.

    None where nothing did, or modules that `opening` names.
    """
    start = run.rng_at_epoch
    now = seeding.get_rng_state()
    if start is None or equal({name: start[name] for name in now}, now):
        return None
    if any(drawing_modules(run)):
        return None
    return (
        f"step {run.step}: something draws from the global generators: {UNLIKE_ONE};"
        " seeding.uniform(self.row_keys(n)) draws alike"
    )


def _machine(run: Run) -> str:
    """Return "2 processes, NVIDIA H200, bfloat16" or "CPU, 1 thread a process: ..."."""
    several = f"{run.world_size} processes, " if run.world_size > 1 else ""
    hardware, threads = run.config.hardware, torch.get_num_threads()
    name = f"CPU, {_several(threads, 'thread')} a process"
    if run.device.type == "cuda":
        name = torch.cuda.get_device_name(run.device)
    elif values := small_batches(hardware, run.loaders):
        name += f": batches of {values:,} values are small"
    precision = hardware.precision
    sharded = ", weights shared out by block" if hardware.sharding == "full" else ""
    return (
        f"{several}{name}{'' if precision == 'float32' else f', {precision}'}{sharded}"
    )


def _several(number: float, word: str) -> str:
    return f"{number:,g} {word}{'s' * (number != 1)}"


def _data(loaders: Mapping[str, Any], classes: int | None) -> Iterator[str]:
    """Yield a line for each loader: its samples, and the views of one."""
    for split, loader in loaders.items():
        for name, part in named_parts(loader).items():
            dataset = getattr(part, "dataset", None)
            size = None if dataset is None else known_length(dataset)
            samples = "samples" if size is None else f"{size:,} samples"
            of = f" of {classes} classes" if classes and split == "train" else ""
            text = f"{split_name(split, name)}: {samples}{of}"
            if isinstance(part, Loader) and not part.streams:
                text += f", {_views(part.example.views)}"
            yield text


def _views(views: list[Any]) -> str:
    """Return "2 views of 3 x 224 x 224, 8 of 3 x 96 x 96"."""
    shapes: dict[str, int] = {}
    for view in views:
        shape = view.shape[1:] if isinstance(view, Tensor) else ()
        text = " x ".join(map(str, shape)) or type(view).__name__
        shapes[text] = shapes.get(text, 0) + 1
    parts = [f"{_several(n, 'view')} of {text}" for text, n in shapes.items()]
    return ", ".join(parts)
