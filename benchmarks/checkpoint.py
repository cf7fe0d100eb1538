"""Seconds and MiB of saving and loading a state, beside torch.save and torch.load.

States of 1, 192 and 768 MiB in 64 tensors, on the CPU, one thread. Each trial is a new
process, for its peak of memory; all kinds take turns, so that a noisy machine slows
them alike; a figure is the least of its trials, a ratio that of the least. Files are
flushed to the disk, those of torch too.

    python benchmarks/checkpoint.py

- waits: what the training waits for; in all: until the file is on the disk
- memory: the peak beyond what was there before, the state or the model; of it `mapped`
  are pages of the file, which processes share and the system takes back when it needs
  them

A load ends when the state is in a model of its size that was there. The checksum is
compared by rank 0 alone.
"""

import os
import tempfile
import time
from pathlib import Path

import torch
from measured import Measured, in_a_process, memory, run

from stable_ssl import checkpoint
from stable_ssl.checkpoint import Checkpoints

TENSORS = 64
WHAT = "waits", "in all", "CPU", "memory", "mapped"
UNITS = "s", "s", "s", "MiB", "MiB"


def torch_save(path, state):
    """Save and flush, with nothing of ours."""
    torch.save(state, path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def save_in_a_run(path, state):
    """Save as a run does; return what is left to be waited for."""
    checkpoints = Checkpoints(path.parent / "run", 0, last=True, largest=True)
    checkpoints.save(state, 0, 0, None)
    return checkpoints.background.wait


SAVES = {
    "torch.save": torch_save,
    "checkpoint.save": checkpoint.save,
    "save in a run": save_in_a_run,
}
LOADS = {
    "torch.load": lambda path: torch.load(path, weights_only=True),
    "load, rank 0": checkpoint.load,
    "load, other ranks": lambda path: checkpoint.load(path, verified=True),
}


def trial(name, path, size):
    """Return what a kind took: s waited, s in all, s of CPU, MiB in all, MiB mapped."""
    path = Path(path)
    torch.set_num_threads(1)
    numbers = size * 2**18 // TENSORS
    state = {"modules": {f"w{i}": torch.randn(numbers) for i in range(TENSORS)}}
    small = path.with_name("small")
    checkpoint.save(small, {"modules": {"w": torch.ones(1)}})
    (SAVES | LOADS)[name](small, *[{}] * (name in SAVES))  # what the first use imports
    mapped, resident = memory("RssFile"), memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    cpu, start = time.process_time(), time.perf_counter()
    if name in SAVES:
        rest = SAVES[name](path, state)
        waited = time.perf_counter() - start
        if rest is not None:
            rest()
    else:
        found = LOADS[name](path)
        for key, tensor in state["modules"].items():
            tensor.copy_(found["modules"][key])
        waited = time.perf_counter() - start
    took = time.perf_counter() - start, time.process_time() - cpu
    grown = memory("VmHWM") - resident, memory("RssFile") - mapped
    return waited, *took, *(more / 2**20 for more in grown)


def measure(sizes, rounds):
    """Yield what each kind of saving and loading takes, beside torch's."""
    for size in sizes:
        found = {name: [] for name in SAVES | LOADS}
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(rounds):
                for name, trials in found.items():
                    file = os.path.join(folder, "torch" if "torch" in name else "ours")
                    trials.append(in_a_process(trial, name, file, size))
        least = {
            name: list(map(min, zip(*trials, strict=True)))
            for name, trials in found.items()
        }
        for name, own in least.items():
            theirs = least["torch.save" if name in SAVES else "torch.load"]
            for what, unit, ours, other in zip(WHAT, UNITS, own, theirs, strict=True):
                work = f"{name}, {size} MiB: {what}"
                if "torch" in name or unit == "MiB":
                    yield Measured(work, ours, unit)
                else:
                    beside = "torch.save" if name in SAVES else "torch.load"
                    headline = what == "waits" and size == 192 and "run" in name
                    yield Measured(work, ours, unit, beside, other / ours, headline)


if __name__ == "__main__":
    run(measure, __doc__, sizes=[1, 192, 768], rounds=3)
