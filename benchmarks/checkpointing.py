"""Memory and CPU seconds of a step with and without `model.checkpointing`.

A forward and backward pass of a backbone on noise, one thread, each in a process of
its own: the peak of its memory above what it held before, and the median of the steps'
seconds of CPU.

    python benchmarks/checkpointing.py
    python benchmarks/checkpointing.py --size 112 --batch 8 --steps 2
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch

from stable_ssl.loggers.records import peak_memory
from stable_ssl.models import backbone
from stable_ssl.models.checkpointing import checkpoint_activations

MODELS = ("vit_small_patch16_224", "resnet50")


def measure(name, checkpointing, size, batch, steps):
    """Return MiB above the model's and its images', and CPU seconds a step."""
    torch.set_num_threads(1)
    own = {"img_size": size} if name.startswith("vit") else {}
    model = backbone({"name": name, **own})
    if checkpointing:
        checkpoint_activations(model)
    x = torch.randn(batch, 3, size, size)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before, seconds = peak_memory(), []
    for _ in range(steps):
        start = time.process_time()
        model(x).square().mean().backward()
        seconds.append(time.process_time() - start)
    return (peak_memory() - before) / 2**20, statistics.median(seconds)


def main():
    """Print a row for each model, both ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224, help="of the images, pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--one", help="of the processes: model, 0 or 1")
    options = parser.parse_args()
    if options.one:
        name, checkpointing = options.one.split()
        sizes = options.size, options.batch, options.steps
        print(json.dumps(measure(name, checkpointing == "1", *sizes)))
        return
    print(f"{'':24}{'kept MiB':>10}{'s CPU':>8}{'checkpointed MiB':>18}{'s CPU':>8}")
    for name in MODELS:
        row = []
        for checkpointing in (0, 1):
            line = [sys.executable, *sys.argv, "--one", f"{name} {checkpointing}"]
            row += json.loads(subprocess.check_output(line, text=True))
        print(f"{name:24}{row[0]:10.0f}{row[1]:8.2f}{row[2]:18.0f}{row[3]:8.2f}")


if __name__ == "__main__":
    main()
