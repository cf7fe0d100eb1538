"""Run the benchmarks, each in a process of its own, and bring the README up to date.

    pip install -e ".[peers]"  # lightly, faiss, kornia and albumentations, to be beside
    python -m benchmarks                  # all of them, half an hour on two cores
    python -m benchmarks losses knn       # some; what the others found stays
    python -m benchmarks --draw FILE      # table and figure of figures that are there

The figures go to `benchmarks/results/<machine>.json`, with the command, the date and
the versions of each benchmark; the README's table and `assets/benchmarks.png` are of
those that lead. Nothing else should run on the machine.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.drawing import draw_figure, redrawn
from stable_ssl.loggers.environment import packages

HERE = Path(__file__).parent
README, FIGURE = HERE.parent / "README.rst", HERE.parent / "assets" / "benchmarks.png"
BENCHMARKS = (
    "overhead",
    "throughput",
    "photographs",
    "augment",
    "losses",
    "knn",
    "checkpoint",
    "start",
    "whole_job",
    "scale",
)
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "hydra-core", "lightly")
PACKAGES += ("faiss-cpu", "kornia", "albumentations", "webdataset")


def machine():
    """Return what this computer is, in words that make a file's name."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    processor = found[1] if found else platform.machine()
    return f"{processor}, {len(os.sched_getaffinity(0))} cores"


def versions():
    """Return the versions of Python and of each package that is installed."""
    installed = packages()
    found = {name: installed[name] for name in PACKAGES if name in installed}
    return {"python": platform.python_version(), **found}


def measured(name):
    """Run a benchmark; return its figures, and what they were measured by."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "figures.json")
        line = [sys.executable, f"benchmarks/{name}.py"]
        subprocess.run([*line, "--out", str(out)], cwd=HERE.parent, check=True)
        figures = json.loads(out.read_text())
    return {
        "command": f"python benchmarks/{name}.py",
        "date": time.strftime("%Y-%m-%d"),
        "minutes": round((time.perf_counter() - begin) / 60, 1),
        "versions": versions(),
        "figures": figures,
    }


def main():
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--draw", type=Path, metavar="FILE", help="run nothing")
    options = parser.parse_args()
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}: {', '.join(BENCHMARKS)}")
    file = options.draw
    if file is None:
        stem = re.sub(r"\W+", "_", machine()).lower()
        file = HERE / "results" / f"{stem}.json"
    found = json.loads(file.read_text()) if file.exists() else {"machine": machine()}
    results = found.setdefault("benchmarks", {})  # by name
    for name in () if options.draw else options.names or BENCHMARKS:
        print(f"\n{name}", flush=True)
        results[name] = measured(name)
        file.write_text(json.dumps(found, indent=1) + "\n")  # what there is, so far
    README.write_text(redrawn(README.read_text(), found))
    draw_figure(found, FIGURE)


if __name__ == "__main__":
    main()
