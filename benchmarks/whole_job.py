"""Seconds from a command to its last figure, as shipped, beside one and all threads.

Whole runs, as a user types them, each in a process of its own, by turns: the digits,
and noise of 32 pixels with the same model. A run that is not told settles its number of
threads by the size of its batches.

    python benchmarks/whole_job.py
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measured import Measured, paired, run
from start import COMMAND
from throughput import OPS, noise, write_arrays, write_recipe


def jobs_in(folder):
    """Write data and a recipe; return the arguments of each job."""
    arrays = write_arrays(folder, noise(2_560))
    recipe = write_recipe(folder, arrays, OPS, OPS[-1:], 256, {"name": "convnet"})
    return {
        "the digits, 20 epochs": ["--config-name=simclr", "optim.epochs=20"],
        "2,560 images of 32 px": [f"--config-name={recipe}", "optim.epochs=2"],
    }


def seconds(arguments, folder):
    """Run a job; return how long it took."""
    line = [sys.executable, "-c", COMMAND, *arguments]
    start = time.perf_counter()
    subprocess.run(line, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


def measure(rounds):
    """Yield the seconds of each job, as shipped, beside those with threads given."""
    cores = len(os.sched_getaffinity(0))
    kinds = {"as shipped": [], "one thread": ["hardware.threads=1"]}
    kinds[f"{cores} threads"] = [f"hardware.threads={cores}"]
    with tempfile.TemporaryDirectory() as folder:
        for job, arguments in jobs_in(Path(folder)).items():
            took = {kind: [] for kind in kinds}
            for _ in range(rounds):
                for kind, threads in kinds.items():
                    took[kind].append(seconds([*arguments, *threads], folder))
            own = took.pop("as shipped")
            for kind, theirs in took.items():
                middle, ahead = statistics.median(own), paired(theirs, own)
                yield Measured(f"whole run, {job}", middle, "s", kind, ahead)


if __name__ == "__main__":
    run(measure, __doc__, rounds=3)
