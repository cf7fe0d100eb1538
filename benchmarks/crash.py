"""Kill runs with SIGKILL at random moments; they must end as the one never killed.

SimCLR and Supervised, fed by two workers from a folder of images, are killed again and
again, every other time while a checkpoint is being written, and started again by the
same command line. Weights, optimizer, probe, random state and metrics.jsonl (wall-clock
fields aside) must end bit-identical to those of a run that was never killed.

    python benchmarks/crash.py --kills 50
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stable_ssl.checkpoint import equal, load
from stable_ssl.data import build_dataset

MAIN = Path(__file__).resolve().parents[1] / "runs" / "main.py"
METHODS = ("simclr", "supervised")
KILLS_A_RUN = 5
WALL_CLOCK = ("time", "perf/")  # how the names of its fields begin
OPTIONS = [
    "data.train.dataset.name=image_folder",
    "data.val.dataset.name=image_folder",
    "data.test.dataset.name=image_folder",
    "data.num_workers=2",
    "data.in_memory=0",  # or workers would have nothing to do
    "optim.epochs=12",
    "log.checkpoint.every_n_steps=2",
    "log.eval.every_n_epochs=2",
    "log.eval.untrained=false",
    "log.every_n_steps=3",
    "data.batch_size=64",
]


def write_images(root):
    """Write the digits as a folder of PNG files a split and class."""
    from PIL import Image

    for split in ("train", "val", "test"):
        data = build_dataset({"name": "digits", "subset": split}, ".", False)
        for i in range(min(len(data), 400)):
            image, label = data[i]
            path = root / split / str(label) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(path)


def start(method, root, name):
    """Start the run in a session of its own, so that its workers die with it."""
    line = [sys.executable, MAIN, f"--config-name={method}", *OPTIONS]
    line += [f"data.root={root / 'images'}", f"log.folder={root}", f"log.run={name}"]
    return subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def children(process):
    """Return how many processes a run has started that still live; of Linux."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return len(path.read_text().split()) if path.exists() else 0


def kill(process, run, generator, during_save):
    """Kill at a random moment or while a checkpoint is written.

    Returns:
        Whether it still ran, and how many workers it had.
    """
    time.sleep(generator.uniform(2, 8))
    while during_save and process.poll() is None:
        if list((run / "ckpts").glob(".e*.tmp")):
            break
    alive, workers = process.poll() is None, children(process)
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return alive, workers


def finish(process):
    """Wait for the end of a run, which must be a good one."""
    _, errors = process.communicate(timeout=600)
    if process.returncode:
        sys.exit(f"a run ended with {process.returncode}:\n{errors.decode()}")


def ending(run):
    """Return all that must be equal: the last checkpoint and the rows."""
    state = load(run / "ckpts" / "last.ckpt")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [
        {k: v for k, v in json.loads(x).items() if not k.startswith(WALL_CLOCK)}
        for x in lines
    ]
    kept = state.keys() - {"config", "metrics", "rows", "spectra"}
    return {"rows": rows, **{name: state[name] for name in kept}}


def main():
    """Kill so many times, and print how many runs ended as the unkilled one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    generator = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root / "images")
        references = {}
        for method in METHODS:
            finish(start(method, root, "whole"))
            references[method] = ending(root / "runs" / method / "whole")
        kills = saves = runs = exact = fed = 0
        while kills < arguments.kills:
            method = METHODS[runs % len(METHODS)]
            run = root / "runs" / method / f"killed_{runs}"
            for _ in range(min(KILLS_A_RUN, arguments.kills - kills)):
                during_save = kills % 2 == 0
                process = start(method, root, run.name)
                alive, workers = kill(process, run, generator, during_save)
                if not alive:
                    break  # it had ended before the moment came
                kills, saves = kills + 1, saves + during_save
                fed += workers > 0
            finish(start(method, root, run.name))
            same = equal(references[method], ending(run))
            runs, exact = runs + 1, exact + same
            print(
                f"{method} {run.name}: {'exact' if same else 'DIFFERENT'}", flush=True
            )
        print(
            f"{kills} kills, {saves} while a checkpoint was written, {fed} with workers"
        )
        print(f"{exact} of {runs} runs ended bit-identical to the run never killed")
        sys.exit(exact < runs)


if __name__ == "__main__":
    main()
