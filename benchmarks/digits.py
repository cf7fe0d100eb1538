"""Every method's recipe on the digits: what it learns, what it costs, in one table.

Each recipe runs as its command line does, with three seeds. Printed are mean and
standard deviation on the test split after the last epoch: kNN (k = 20, bank = train)
before and after training, the online linear probe, logistic regression on 10 labels a
class and RankMe of the features; CPU seconds of the whole command; and what a step
keeps for its backward pass. The table is written to benchmarks/digits.rst.

    python benchmarks/digits.py
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from stable_ssl import load_config, report
from stable_ssl.methods import METHODS, method_class

MAIN = Path(__file__).resolve().parents[1] / "runs" / "main.py"
TABLE = Path(__file__).with_name("digits.rst")
OPTIONS = ["log.eval.spectrum=true", "log.eval.few_labels=[10]"]
WHOLE = [
    "++data.bank={dataset: {name: digits, subset: train}}",
    "log.eval={knn: {k: 20}}",
]
FEW = ("fixmatch", "mean_teacher", "multitask")  # train on few labels, and have no kNN
RECIPES = (*METHODS, "rotation")
COLUMNS = ("knn_acc1", "acc1", "few10_acc1", "rankme")
TITLES = ("method", "untrained kNN", "kNN", "probe", "10 labels", "RankMe")


def run(method, seed, folder):
    """Run a recipe once; return {column: value} of its test split and the seconds."""
    name = f"{method}_{seed}"
    cost = Path(folder) / f"{name}.seconds"
    if not cost.exists():
        place = [f"log.folder={folder}", f"log.run={name}", "log.resume=null"]
        line = [f"--config-name={method}", f"hardware.seed={seed}", *place, *OPTIONS]
        line += WHOLE if method in FEW else []
        with open(Path(folder) / f"{name}.log", "w") as log:
            process = subprocess.Popen(
                [sys.executable, MAIN, *line],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            _, code, used = os.wait4(process.pid, 0)
        if code:
            raise RuntimeError(f"{name} failed: {Path(log.name).read_text()[-2000:]}")
        cost.write_text(str(used.ru_utime + used.ru_stime))
    (path,) = Path(folder).glob(f"runs/*/{name}")
    seconds = float(cost.read_text())
    rows = [row for row in report.read_rows(path) if any("test/" in n for n in row)]
    found = {name: rows[-1].get(f"test/{name}") for name in COLUMNS}
    return {"untrained": rows[0].get("test/knn_acc1"), **found, "seconds": seconds}


def kept(method, folder):
    """Return the MiB that a step of a recipe keeps for its backward pass."""
    options = [f"log.folder={folder}", "log.run=kept", "fast_dev_run=true"]
    config = load_config(method, options)
    trainer = method_class(config.model.name)(config)
    trainer.setup()
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    trainer.train()
    trainer.data = next(iter(trainer.train_loader))
    own = {p.untyped_storage().data_ptr() for p in trainer.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = trainer.compute_loss()
    mib = sum(size for place, size in storages.items() if place not in own) / 2**20
    del loss
    trainer.cleanup()
    return mib


def cell(values, scale=100, digits=1):
    """Return "99.0 ± 0.3", or a dash where a recipe has no such figure."""
    if None in values:
        return "–"
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    mean = statistics.mean(values)
    return f"{scale * mean:.{digits}f} ± {scale * spread:.{digits}f}"


def table(lines):
    """Return rows of text as a table of reStructuredText."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    text = [
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([rule, text[0], rule, *text[1:], rule])


def main():
    """Run all recipes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=RECIPES, choices=RECIPES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--folder", help="keeps the runs; those there are not repeated")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [(*TITLES, "CPU seconds", "MiB a step")]
    scratch = tempfile.TemporaryDirectory()
    folder = args.folder or scratch.name
    Path(folder).mkdir(parents=True, exist_ok=True)
    with scratch, ThreadPoolExecutor(args.jobs) as pool:
        jobs = {
            method: [pool.submit(run, method, s, folder) for s in range(args.seeds)]
            for method in args.methods
        }
        for method, futures in jobs.items():
            runs = [future.result() for future in futures]
            own = {name: [r[name] for r in runs] for name in runs[0]}
            accuracies = [cell(own[n]) for n in ("untrained", *COLUMNS[:3])]
            lines.append(
                (
                    f"``{method}``",
                    *accuracies,
                    cell(own["rankme"], 1),
                    cell(own["seconds"], 1, 0),
                    f"{kept(method, folder):.1f}",
                )
            )
            print(*lines[-1], sep="  ", flush=True)
    TABLE.write_text(f"{HEAD.format(n=args.seeds)}\n{table(lines)}\n")


HEAD = """\
Every recipe on the digits
==========================

``python benchmarks/digits.py``: {n} seeds each, mean ± standard deviation, test split
(400 images), last epoch, in per cent. ``kNN``: k = 20, bank = train split, all of it
labelled; ``probe``: online linear probe, or the classifier of a supervised method;
``10 labels``: logistic regression on 10 labels a class of that split, mean of 5 draws;
``RankMe``: of the features; ``CPU seconds``: of the whole command; ``MiB a step``: what
the loss keeps for its backward pass. Where a method ends below its untrained network,
the head of its recipe says why.
"""


if __name__ == "__main__":
    main()
