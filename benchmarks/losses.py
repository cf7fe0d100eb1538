"""Milliseconds and MiB of NT-Xent, forward and backward, in blocks and whole.

Projections of 4096 images, 128 wide, two views, float32, one thread. Each trial is a
new process, for its peak of memory; the two take turns, so that a noisy machine slows
them alike, and the medians are printed.

    python benchmarks/losses.py
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from stable_ssl.losses import nt_xent

N, D, ROUNDS, STEPS = 4096, 128, 5, 3


def whole(z_a, z_b, temperature=0.5):
    """Compute NT-Xent as a cross-entropy over all similarities at once."""
    z = F.normalize(torch.cat([z_a, z_b]))
    logits = (z / temperature) @ z.T
    logits.fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z_a)))


LOSSES = {"in blocks": nt_xent, "whole": whole}


def peak():
    """Return the most memory this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def trial(name):
    """Print the ms of the fastest of a few steps, and the MiB that they took."""
    torch.set_num_threads(1)
    z = torch.randn(2, N, D, requires_grad=True)
    before, times = peak(), []
    for _ in range(STEPS):
        start = time.perf_counter()
        LOSSES[name](*z).backward()
        times.append(time.perf_counter() - start)
    print(min(times) * 1e3, peak() - before)


def main():
    """Print the medians of both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trial", choices=LOSSES, help="print one trial of this loss")
    arguments = parser.parse_args()
    if arguments.trial:
        return trial(arguments.trial)
    found = {name: [] for name in LOSSES}
    for _ in range(ROUNDS):
        for name, trials in found.items():
            out = subprocess.run(
                [sys.executable, __file__, "--trial", name],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                check=True,
                text=True,
            )
            trials.append([float(x) for x in out.stdout.split()])
    for name, trials in found.items():
        ms, mib = (statistics.median(x) for x in zip(*trials, strict=True))
        print(f"{name:10} {ms:6.0f} ms {mib:6.0f} MiB")


if __name__ == "__main__":
    main()
