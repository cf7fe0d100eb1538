"""Kill runs at every file operation; they must end as the run that was never killed.

What a killed run leaves is its folder, which only file operations change: between two
of them it does not matter when it dies. So this counts those of a run (open to write,
write, write the second half, truncate, fsync, rename, link, remove, mkdir), and lets it
send itself SIGKILL before the n-th, which is after the one before. Then the same
command line goes on; it is killed again in every third trial, and at last left alone.
In every other trial checkpoints are written in the background, as those of large models
are: the operations of that thread count among the others, in the order of that moment.

    python benchmarks/crash.py --kills 200 --minutes 60

All methods on 1 and 2 processes, fed by 0 and 2 workers. An epoch is 9 batches, 2 of
them a step, so that its last step has one. Of 2 processes rank 0 dies, or rank 1, or
all. The n are spread evenly over a run.

At the end all files but the records of launches must be bit-identical, wall-clock
fields aside: checkpoints (weights, optimizers, probes, queues, random states, ...),
rows, spectra, figures, exports, status. The run never killed starts in a fresh
interpreter, without workers. The others are forks of this process, which has imported
all, and so take a third of the time; their ranks are fresh interpreters, too.

Started again it goes on where it was. It ends with 1 if a run did not end identical.
"""

import argparse
import csv
import hashlib
import importlib
import itertools
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from zipfile import ZipFile

from file_operations import watch

import stable_ssl
from stable_ssl import checkpoint
from stable_ssl.checkpoint import equal, load
from stable_ssl.files import write_atomically
from stable_ssl.loggers.table import Table
from stable_ssl.methods import METHODS

APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
RUN = Path("logs", "runs", "run", "run")  # below the folder of a trial
SECONDS = 300  # that a start may take
MORTAL = "STABLE_SSL_CRASH"  # environment variable: arguments of `mortal` for ranks


# --- in the run -----------------------------------------------------------------------


def mortal(folder, last, dies, background):
    """Write each file operation of rank 0 to `operations.txt`; die before one.

    Args:
        folder: of a trial; what is below its `logs` counts.
        last: number of the operation, from 1; 0 is none.
        dies: as for `victims`.
        background: whether checkpoints are written there, however small.
    """
    journal, seen = os.open(f"{folder}/operations.txt", APPEND), Counter()
    one_by_one = threading.Lock()
    if background:
        checkpoint.LARGE = 0

    def before(name, path):
        if os.environ.get("RANK", "0") == "0":
            path = os.path.relpath(path, f"{folder}/{RUN}")
            operation = f"{name} {re.sub(r'[.][0-9]+[.]tmp$', '.tmp', path)}"
            with one_by_one:
                seen[operation] += 1
                os.write(journal, f"{operation} #{seen[operation]}\n".encode())
                if seen.total() == last:
                    for process in victims(dies):
                        os.kill(process, signal.SIGKILL)

    watch(f"{folder}/logs", before)


def victims(dies):
    """Return the processes to kill, called in rank 0: of `rank 0`, `rank 1`, or all."""
    own, starter = os.getpid(), os.getppid()
    children = Path(f"/proc/{starter}/task/{starter}/children").read_text().split()
    others = [int(child) for child in children if int(child) != own]
    return {"rank 0": [own], "rank 1": others, "all": [starter, own]}[dies]


def launch(folder, line, processes, last, dies, background):
    """Run a command line in this process, which is a new one."""
    from stable_ssl.commands import main

    signal.alarm(SECONDS)  # which ends it
    output = os.open(f"{folder}/output.txt", APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if processes == 1:
        mortal(folder, last, dies, background)
    else:
        os.environ[MORTAL] = json.dumps([folder, last, dies, background])
    main(line)


if __name__ == "__mp_main__" and MORTAL in os.environ:  # this is a rank
    mortal(*json.loads(os.environ[MORTAL]))


# --- one run --------------------------------------------------------------------------

EPOCHS, STEPS = 2, 10
OPTIONS = f"""
    optim.epochs={EPOCHS} optim.scheduler.warmup_epochs=1 optim.accumulate=2
    data.batch_size=16 data.in_memory=0
    data.val.dataset.name=image_folder data.test.dataset.name=image_folder
    log.experiment=run log.run=run log.api=[csv] log.every_n_steps=3
    log.checkpoint.every_n_steps=2 log.eval.every_n_epochs=1 log.eval.spectrum=true
    log.eval.few_labels=[] log.export.types=[torchscript]
"""
CONVNET = "++model.backbone.width=4"
VIT = "model.backbone.dim=16 model.backbone.depth=1 model.backbone.heads=2"
SMALL = {  # of a method; queues turn over in ten steps, and nothing diverges
    "deepcluster_v2": f"{CONVNET} model.images=144 model.prototypes=8",
    "dino": f"{CONVNET} model.hidden=32 model.prototypes=32",
    "ijepa": f"{VIT} model.predictor_dim=16 model.predictor_depth=1",
    "mae": f"{VIT} model.decoder_dim=16",
    "moco_v2": f"{CONVNET} model.queue=64",
    "nnclr": f"{CONVNET} model.queue=64",
    "ressl": f"{CONVNET} model.queue=64",
    "w_mse": f"{CONVNET} model.part=16 model.projector=[32,8]",
    "vicreg": f"{CONVNET} optim.lr=0.01",
    "swav": f"{CONVNET} ++model.freeze_epochs=0 model.queue_epoch=1 model.queue=64",
}
RECIPES = {"multitask": "rotation"}  # where it has not the method's name
LOADERS = {  # of train, where there are several
    "fixmatch": ["train.labelled", "train.unlabelled"],
    "mean_teacher": ["train.labelled", "train.unlabelled"],
    "multitask": ["train.images", "train.rotation"],
}
LAUNCHES = """
    config.yaml config_tree.txt overrides.yaml params.yaml environment.json console.log
    lock.json
""".split()  # files about how, when and where a run was started
WALL_CLOCK = ("time", "perf/")  # how the names of its fields begin
CALLERS = (".debug_pkl", "serialization_id")  # what of TorchScript depends on them


def write_images(root):
    """Write some of the digits as a folder of PNG files a split and class."""
    from PIL import Image

    from stable_ssl.data import build_dataset

    for split, count in {"train": 9 * 16, "val": 32, "test": 32}.items():
        data = build_dataset({"name": "digits", "subset": split}, ".", False)
        for i in range(count):
            image, label = data[i]
            path = root / split / str(label) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(path)


def start(configuration, folder, last=0, dies="rank 0", background=False, fresh=False):
    """Start a run, or start it again, and wait for its end.

    Args:
        configuration: method, processes, workers.
        folder: of the trial, beside that of the images.
        last: number of the operation before which it dies; 0 is none.
        dies: as for `victims`.
        background: as for `mortal`.
        fresh: whether in an interpreter of its own.

    Returns:
        Its exit code and its operations.
    """
    method, processes, workers = configuration
    loaders = LOADERS.get(method, ["train"])
    line = [
        f"--config-name={RECIPES.get(method, method)}",
        *(f"data.{loader}.dataset.name=image_folder" for loader in loaders),
        *f"{OPTIONS} {SMALL.get(method, CONVNET)}".split(),
        f"hardware.processes={processes}",
        f"data.num_workers={workers}",
        f"data.root={folder.parent / 'images'}",
        f"log.folder={folder / 'logs'}",
    ]
    (folder / "operations.txt").unlink(missing_ok=True)
    target = launch
    arguments = str(folder), line, processes, last, dies, background
    if fresh:
        again = [sys.executable, __file__, "--launch", json.dumps(arguments)]
        target, arguments = os.execv, (sys.executable, again)
    assert len(os.listdir("/proc/self/task")) == 1  # a fork has no other thread
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    process.join()
    return process.exitcode, (folder / "operations.txt").read_text().splitlines()


def timeless(row):
    """Return a row of metrics without its wall-clock fields."""
    return {k: v for k, v in row.items() if not k.startswith(WALL_CLOCK)}


def content(path):
    """Return what must be equal of a file."""
    if path.suffix == ".ckpt":
        state = load(path)
        del state["config"], state["rows"]  # the latter is a length in bytes
        return state | {"metrics": timeless(state["metrics"])}
    if path.suffix == ".pt":  # TorchScript
        with ZipFile(path) as archive:
            names = [n for n in archive.namelist() if not n.endswith(CALLERS)]
            return {name: archive.read(name) for name in names}
    if path.suffix == ".jsonl":
        return [timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".csv":
        return [timeless(row) for row in csv.DictReader(path.open())]
    return path.read_bytes()


def ending(folder):
    """Return what must be equal at the end of a run, by file."""
    files = [path for path in (folder / RUN).rglob("*") if path.is_file()]
    files = [path for path in files if path.name not in LAUNCHES]
    return {str(path.relative_to(folder / RUN)): content(path) for path in files}


def differing(a, b):
    """Return the names of the files that are not the same in two endings."""
    return sorted(name for name in a | b if not equal(a.get(name), b.get(name)))


def reference(configuration, root):
    """Return the end of the run that is never killed, and its operations."""
    method, processes, _ = configuration
    folder, new = root / f"whole_{method}_{processes}", root / "new"
    if not folder.exists():
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        code, _ = start((method, processes, 0), new, fresh=processes == 1)
        if code:
            sys.exit(f"{method} failed without a kill: {new}/output.txt says why")
        new.rename(folder)
    whole = ending(folder)
    last = whole["ckpts/last.ckpt"]
    assert (last["epoch"], last["step"]) == (EPOCHS, STEPS)
    return whole, (folder / "operations.txt").read_text().splitlines()


# --- all runs -------------------------------------------------------------------------

GOLDEN = (5**0.5 - 1) / 2  # its multiples, modulo 1, are spread evenly, however many
WARM = """
    hydra torchvision stable_ssl.commands.launcher stable_ssl.trainer
    matplotlib.backends.backend_agg matplotlib.backends.backend_pdf
""".split()  # what a run imports, and a fork has already


def trial(number, seed, root):
    """Kill a run once or twice, let it end, and return what came of it."""
    configurations = list(itertools.product(METHODS, (1, 2), (0, 2)))
    turn, place = divmod(number, len(configurations))
    random.Random(f"{seed} {turn}").shuffle(configurations)
    configuration = configurations[place]
    whole, operations = reference(configuration, root)
    began, folder = time.monotonic(), root / f"trial_{number + 1:03d}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    draw = random.Random(f"{seed} {number}")
    dies = draw.choice(["rank 0", "rank 1", "all"][: 3 if configuration[1] > 1 else 1])
    first = 1 + int((seed / 7 + number * GOLDEN) % 1 * len(operations))
    again = 1 + int(draw.random() * max(len(operations) - first, 30))
    killed, background = [], number % 2 == 1
    for last in (first, again, 0) if number % 3 == 2 else (first, 0):
        code, done = start(configuration, folder, last, dies, background)
        if code and 0 < last <= len(done):
            killed.append(done[last - 1])
        elif code:
            break
    wrong = [f"exit code {code}"] if code else differing(whole, ending(folder))
    if not wrong:
        shutil.rmtree(folder)
    return {
        "configuration": configuration,
        "dies": dies,
        "background": background,
        "killed": killed,  # before these operations
        "wrong": wrong,
        "seconds": round(time.monotonic() - began, 1),
    }


def said(trial):
    """Return what a person reads of a trial."""
    method, processes, workers = trial["configuration"]
    killed = ", then before ".join(trial["killed"]) or "nothing"
    result = f"NOT identical: {', '.join(trial['wrong'])}" * bool(trial["wrong"])
    saving = "saving in the background: " * trial["background"]
    return (
        f"{method}, processes={processes}, workers={workers}: {saving}{trial['dies']}"
        f" killed before {killed}: {result or 'identical'} ({trial['seconds']} s)"
    )


def kinds(operations):
    """Return operations without epoch, step, and how often they have come."""
    return {re.sub(r"\d+_s\d+| #\d+", "*", operation) for operation in operations}


def summary(trials, root):
    """Return a table of the configurations, and how many operations were hit."""
    same, kills = Counter(), Counter()
    runs = Counter(tuple(t["configuration"]) for t in trials)
    for t in trials:
        kills[tuple(t["configuration"])] += len(t["killed"])
        same[tuple(t["configuration"])] += not t["wrong"]
    rows = [
        [*map(str, configuration), str(kills[configuration])]
        + [f"{same[configuration]} of {runs[configuration]}"]
        for configuration in sorted(runs)
    ]
    journals = root.glob("whole_*/operations.txt")
    there = {line for path in journals for line in path.read_text().splitlines()}
    first = {t["killed"][0] for t in trials if t["killed"]}
    killed = kinds(operation for t in trials for operation in t["killed"])
    notes = [
        f"{kills.total()} kills; {same.total()} of {len(trials)} runs ended identical",
        f"{len(there & first)} of {len(there)} operations of a run hit by a first kill,"
        f" {len(kinds(there) & killed)} of their {len(kinds(there))} kinds by any",
    ]
    columns = "method", "processes", "workers", "kills", "identical"
    return Table("runs killed and started again", columns, rows, notes=notes)


def digest():
    """Return a digest of the code: trials of other code say nothing of this one."""
    files = list(Path(stable_ssl.__file__).parent.rglob("*.py"))
    files += Path(__file__).parent.glob("*.py")
    return hashlib.sha256(b"".join(map(Path.read_bytes, sorted(files)))).hexdigest()


def main():
    """Kill so many times, or so long; print a line a trial, and a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    folder = Path(tempfile.gettempdir()) / "stable_ssl_crash"
    option("--kills", type=int, default=200)
    option("--minutes", type=float, default=60, help="after which it ends by itself")
    option("--seed", type=int, default=0, help="of what is killed when")
    option("--folder", type=Path, default=folder, help=f"of what is done: {folder}")
    option("--launch", type=json.loads, help=argparse.SUPPRESS)  # see `start`
    args = parser.parse_args()
    if args.launch:
        return launch(*args.launch)
    if os.environ.get("OMP_NUM_THREADS") != "1":  # or libraries have threads of theirs
        os.environ["OMP_NUM_THREADS"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    end, root = time.monotonic() + 60 * args.minutes, args.folder.resolve()
    file, now = root / "state.json", {"seed": args.seed, "code": digest()}
    state = json.loads(file.read_text()) if file.exists() else now | {"trials": []}
    if state | now != state:
        sys.exit(f"{root} is of another seed or code; delete it, or set --folder")
    if not state["trials"]:
        write_images(root / "images")
    for module in WARM:
        importlib.import_module(module)
    trials, longest = state["trials"], 0
    while (kills := sum(len(t["killed"]) for t in trials)) < args.kills:
        began = time.monotonic()
        if began + longest > end:
            print(f"{args.kills - kills} kills are left; the same command goes on")
            break
        trials.append(trial(len(trials), args.seed, root))
        write_atomically(file, json.dumps(state, indent=1))
        print(f"{len(trials):3} {said(trials[-1])}", flush=True)
        longest = max(longest, time.monotonic() - began)
    print(f"\n{summary(trials, root)}")
    sys.exit(any(t["wrong"] for t in trials))


if __name__ == "__main__":
    main()
