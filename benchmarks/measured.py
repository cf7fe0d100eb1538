"""What a benchmark finds: printed as it is measured, and kept as JSON."""

import argparse
import json
import multiprocessing
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measured:
    """One figure of ours, alone or beside another's of the same run."""

    what: str  # the work: "SimCLR, 224 px"
    value: float
    unit: str  # "us a view", "images/s", "MB"
    beside: str = ""  # who did the same work
    ahead: float | None = None  # times as good as theirs: 2 is twice as fast
    headline: bool = False  # stands in the README

    def __str__(self):
        line = f"{self.what:44}{self.value:12,.4g} {self.unit:14}"
        if self.ahead is None:
            return line.rstrip()
        return f"{line}{self.ahead:6.2f} x as good as {self.beside}"


def run(measure, doc, **options):
    """Print what `measure(**options)` yields, and write it where `--out` says.

    Options are given as defaults, and taken from the command line by their names.
    """
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    for name, default in options.items():
        many = {"nargs": "+"} if isinstance(default, list) else {}
        kind = type(default[0] if many else default)
        parser.add_argument(f"--{name}", type=kind, default=default, **many)
    parser.add_argument("--out", type=Path, help="a file for the figures, as JSON")
    arguments = vars(parser.parse_args())
    out, found = arguments.pop("out"), []
    out = out and out.resolve()  # wherever the benchmark goes
    for figure in measure(**arguments):
        print(figure, flush=True)
        found.append(asdict(figure))
    if out:
        out.write_text(json.dumps(found, indent=1))


def paired(theirs, ours):
    """Return the median of the ratios of two lists, measured by turns."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def in_a_process(function, *arguments):
    """Call a function in a process of its own, whose peak of memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def memory(name):
    """Return bytes of this process by their name in /proc/self/status."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024


def peak():
    """Return the most memory this program has held, in MB.

    Not getrusage's ru_maxrss, which begins with the peak of the parent process.
    """
    return memory("VmHWM") / 1e6
