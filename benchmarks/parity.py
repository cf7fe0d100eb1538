"""The same methods here and by lightly, on photographs: accuracy and seconds.

Ours are the runs of papers/cifar10_small.yaml. Lightly's are plain loops with
torchvision's transforms, see parity_lightly.py, with the same images, backbone, policy,
optimizer and schedule; heads, losses, queues and teachers are each library's own, of
the same sizes. The features of the trained backbones are judged by the same functions
on the same test split.

    pip install -e . "lightly==1.6.*"
    stable-ssl paper papers/cifar10_small.yaml --out benchmarks/cifar10_small ...
    python benchmarks/parity.py --root CIFAR --jobs 2  # train/<class>/*.jpg, and test
    python benchmarks/parity.py                        # writes the table anew

A trial is a process of its own, and is kept in benchmarks/results/parity.json with a
hash of what it was made with: what is there is not made again. The table is
benchmarks/parity.md.
"""

import argparse
import ast
import hashlib
import inspect
import json
import math
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from stable_ssl.files import write_atomically

HERE = Path(__file__).resolve().parent
RESULTS, TABLE = HERE / "results" / "parity.json", HERE / "parity.md"
OURS, PAPER = HERE / "cifar10_small.json", HERE.parent / "papers" / "cifar10_small.yaml"
LIGHTLY = HERE / "parity_lightly.py"
NARROW = 2.0  # points; half the width of an interval that says `equal`
METHODS = {  # recipe: class of parity_lightly.py; its LeJEPA needs small views
    "simclr": "SimCLR",
    "dcl": "DCL",
    "moco_v2": "MoCoV2",
    "nnclr": "NNCLR",
    "barlow_twins": "BarlowTwins",
    "vicreg": "VICReg",
    "byol": "BYOL",
    "simsiam": "SimSiam",
    "dino": "DINO",
    "swav": "SwAV",
    "tico": "TiCo",
    "mmcr": "MMCR",
    "w_mse": "WMSE",
    "visreg": "VISReg",
}
OPS = ("crop", "jitter", "gray", "flip", "normalize")  # of the policy
JUDGED = {"knn": "kNN", "linear": "linear"}  # columns of our table


# --- one trial of lightly -------------------------------------------------------------


def configured(method, root):
    """Return the configuration of our run of a method, of images in folders."""
    from stable_ssl import load_config
    from stable_ssl.tools.paper_file import read

    paper = read(PAPER)
    (row,) = [row for row in paper.rows if row.recipe == method]
    folders = [f"data.{s}.dataset.name=image_folder" for s in ("train", "val", "test")]
    own = [*paper.overrides, *row.overrides, *folders, f"data.root={root}"]
    return load_config(method, own)


def plain(config, split):
    """Return images (N, 3, H, W) as uint8, and labels, of a split without its views."""
    import torch
    from torchvision.transforms.functional import pil_to_tensor

    from stable_ssl.data.datasets import build_dataset

    data = build_dataset(dict(config.data[split].dataset), config.data.root)
    samples = [data[i] for i in range(len(data))]
    images = torch.stack([pil_to_tensor(image) for image, _ in samples])
    return images, torch.tensor([label for _, label in samples])


def train(config, seed, images):
    """Train by lightly; return the backbone, and CPU seconds of the loop."""
    import parity_lightly
    import torch
    from torchvision.transforms.functional import to_pil_image

    from stable_ssl import models

    method = getattr(parity_lightly, METHODS[config.model.name])
    torch.manual_seed(seed)
    backbone = models.backbone(config.model.backbone)
    optim = config.optim
    budget = {
        "batch_size": config.data.batch_size,
        "epochs": optim.epochs,
        "lr": optim.lr,
        "weight_decay": optim.weight_decay,
        "warmup_epochs": optim.scheduler.warmup_epochs,
    }
    pictures = [to_pil_image(image) for image in images]
    policy = {name: dict(config.data.transforms[name]) for name in OPS}
    return backbone, parity_lightly.train(method, backbone, pictures, policy, budget)


def judged(backbone, config, bank, queries, seed):
    """Return the accuracies of kNN and of a linear classifier, in per cent."""
    import torch
    from omegaconf import OmegaConf

    from stable_ssl.evaluation.knn import knn_accuracy
    from stable_ssl.evaluation.linear import linear_accuracy

    norm = config.data.transforms.normalize
    mean, std = (torch.tensor(norm[k]).view(3, 1, 1) for k in ("mean", "std"))

    @torch.no_grad()
    def encode(images):
        batches = images.split(config.data.eval_batch_size)
        return torch.cat([backbone((x / 255 - mean) / std) for x in batches])

    backbone.eval()
    bank, queries = (encode(bank[0]), bank[1]), (encode(queries[0]), queries[1])
    offline = OmegaConf.to_object(config.log.eval.offline)
    knn = config.log.eval.knn
    knn = knn_accuracy(bank, queries, 10, knn.k, knn.temperature)
    linear = linear_accuracy(bank, queries, 10, offline, seed)
    return {"knn": 100 * knn["acc1"], "linear": 100 * linear["acc1"]}


def trial(method, seed, root):
    """Return what one trial found."""
    import torch

    torch.set_num_threads(1)
    config = configured(method, root)
    images = plain(config, "train")
    backbone, seconds = train(config, seed, images[0])
    found = judged(backbone, config, images, plain(config, "test"), seed)
    facts = {"seconds": seconds, "date": time.strftime("%Y-%m-%d")}
    return {**found, **facts, "torch": torch.__version__}


def made_with(method):
    """Return a hash of what a trial depends on, besides the libraries.

    Of parity_lightly.py it is all that stands there, other methods left out.
    """
    config = configured(method, "")
    text = LIGHTLY.read_text()
    classes = {p.name: p for p in ast.parse(text).body if hasattr(p, "name")}
    needed = ["train", "TwoViews", METHODS[method]]
    for name in needed:
        bases = getattr(classes[name], "bases", [])
        needed += [base.id for base in bases if getattr(base, "id", "") in classes]
    parts = [ast.get_source_segment(text, classes[name]) for name in needed]
    parts += map(inspect.getsource, (plain, train, judged))
    data = config.data.transforms, config.data.train, config.data.test
    other = config.optim, config.model.backbone, config.log.eval, config.data.batch_size
    parts += map(str, (*data, *other))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


# --- all of them ----------------------------------------------------------------------


def run(method, seed, root):
    """Make one trial in a process of its own."""
    line = [sys.executable, "-W", "ignore", __file__, "--root", root]
    line += ["--trial", method, str(seed)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{method}, seed {seed}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def make(methods, seeds, jobs, root):
    """Make the trials that are not there; keep each as it ends."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    hashes, wanted = {method: made_with(method) for method in methods}, {}
    for seed in range(seeds):
        for method in methods:
            kept = found.get(f"{method} {seed}", {})
            if kept.get("with") != hashes[method]:
                wanted[f"{method} {seed}"] = (method, seed)
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(run, *of, root): name for name, of in wanted.items()}
        for future in as_completed(futures):
            name = futures[future]
            method, seed = wanted[name]
            facts = {"method": method, "seed": seed, "with": hashes[method]}
            try:
                found[name] = facts | future.result()
            except RuntimeError as error:
                print(error, file=sys.stderr, flush=True)
                continue
            text = json.dumps(found, indent=1, sort_keys=True) + "\n"
            write_atomically(RESULTS, text)
            figures = (
                f"{k} {found[name][k]:.2f}" for k in ("knn", "linear", "seconds")
            )
            print(name, *figures, flush=True)


# --- the table ------------------------------------------------------------------------


def interval(a, b):
    """Return the difference of two means, and half of its 95 % interval by Welch."""
    from scipy.stats import t

    parts = [statistics.variance(x) / len(x) for x in (a, b)]
    freedom = [p**2 / (len(x) - 1) for p, x in zip(parts, (a, b), strict=True)]
    half = 0.0
    if sum(freedom):
        half = t.ppf(0.975, sum(parts) ** 2 / sum(freedom)) * math.sqrt(sum(parts))
    return statistics.mean(a) - statistics.mean(b), float(half)


def verdict(difference, half):
    """Return in a word what an interval says."""
    if abs(difference) <= half:
        return "equal" if half <= NARROW else "more seeds"
    return "ours higher" if difference > 0 else "ours lower"


def shown(values, digits=2):
    """Return "55.40 ± 0.31"."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def ours():
    """Return {recipe: {knn, linear, seconds: values}} of our table."""
    made = json.loads(OURS.read_text()) if OURS.exists() else {"rows": []}
    if made["rows"] and "image_folder" not in made["command"]:
        raise SystemExit(f"{OURS} is of other images; make it of those in folders")
    found = {}
    for row in made["rows"]:
        cells = {cell["column"]: cell["values"] for cell in row["cells"]}
        values = {name: cells[column] for name, column in JUDGED.items()}
        values["seconds"] = [60 * minutes for minutes in cells["minutes"]]
        found[row["recipe"]] = values
    return found


def table(ours, trials):
    """Return the table of all methods that both sides have runs of.

    Args:
        ours: as of `ours`.
        trials: of lightly, each {method, knn, linear, seconds}.
    """
    head = ["method", "n", "kNN, ours", "kNN, lightly", "difference, 95 %", ""]
    head += ["linear, ours", "linear, lightly", "difference, 95 %", ""]
    head += ["seconds, ours", "seconds, lightly", "ratio"]
    lines = [f"| {' | '.join(head)} |", "| :-- " + "| --: " * (len(head) - 1) + "|"]
    for method in METHODS:
        theirs = [t for t in trials if t["method"] == method]
        own = ours.get(method, {}).get("knn")
        if not (theirs and own):
            continue
        cells = [f"`{method}`", f"{len(own)}/{len(theirs)}"]
        for metric in JUDGED:
            a, b = ours[method][metric], [t[metric] for t in theirs]
            cells += [shown(a), shown(b)]
            if min(len(a), len(b)) > 1:
                difference, half = interval(a, b)
                cells += [f"{difference:+.2f} ± {half:.2f}", verdict(difference, half)]
            else:
                cells += [f"{statistics.mean(a) - statistics.mean(b):+.2f}", ""]
        a, b = ours[method]["seconds"], [t["seconds"] for t in theirs]
        cells += [shown(a, 0), shown(b, 0)]
        cells.append(f"{statistics.mean(a) / statistics.mean(b):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


HEAD = f"""\
# The same methods here and by lightly 1.6

```console
python benchmarks/parity.py --root CIFAR --jobs 2
```

20,000 images of CIFAR-10 (its JPEG copy, 2,000 a class), convnet of 0.06 M parameters,
15 epochs at batch 256, AdamW at 2e-3 on a cosine with 1.5 epochs of warm-up; top-1 on
the 10,000 test images in per cent, mean ± standard deviation over n seeds, ours and
lightly's. Ours: the runs of `benchmarks/cifar10_small.md`. `kNN`: k = 20; `linear`: SGD
on frozen features, its rate chosen on a tenth of them; both on the train images. A
difference of means has its 95 % interval (Welch): `equal` where that includes 0 and is
at most ± {NARROW:g} wide; of so many comparisons one in twenty may differ by chance.
Seconds with one thread: ours from launch to end, with reading, online probe and all
evaluation, another run beside it; lightly's CPU seconds of the training alone. Its one
trial of SimCLR ran beside more work than ours: the ratio is to be measured again.

Conventions that stay as each has them: lightly's SimCLR and DCL end their projector in
a batch norm, its prototypes have a bias; views pass the network one by one there, and
together here for SimCLR, DCL, DINO, SwAV, MMCR, W-MSE and VISReg, so that batch norm
sees all of them; teachers move before a step there, after it here.
"""


def main():
    """Make what is missing where there are images, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", help="folder of train/<class>/*.jpg and test/...")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trials at once")
    parser.add_argument("--trial", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.trial:
        print(json.dumps(trial(args.trial[0], int(args.trial[1]), args.root)))
        return
    if args.root:
        make(args.methods, args.seeds, args.jobs, args.root)
    kept = json.loads(RESULTS.read_text()).values() if RESULTS.exists() else []
    trials = [t for t in kept if t["with"] == made_with(t["method"])]
    TABLE.write_text(f"{HEAD}\n{table(ours(), trials)}\n")


if __name__ == "__main__":
    main()
