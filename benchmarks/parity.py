"""The same methods here and by lightly, on photographs: accuracy and seconds.

20,000 images of CIFAR-10, 15 epochs, batch 256: the same backbone, policy, optimizer
and schedule; heads, losses, queues and teachers are each library's own, of the same
sizes. Ours is a run of `experiment=cifar10_small` without evaluation; lightly's is a
plain loop on torchvision's transforms, see parity_lightly.py. Of both the features of
the trained backbone are then judged in one way: kNN (k = 20) and logistic regression,
fitted on the train images, on the test split. Seconds are those of one CPU core that
the training took, everything included but the reading of the images.

    pip install -e . "lightly==1.6.*"
    python benchmarks/parity.py --root CIFAR --jobs 2  # train/<class>/*.jpg, and test
    python benchmarks/parity.py --root CIFAR --methods simclr byol --seeds 5
    python benchmarks/parity.py                           # writes the table anew

A trial is a process of its own, and is kept in benchmarks/results/parity.json with what
it was made with: what is there is not made again. The table is benchmarks/parity.md.
"""

import argparse
import ast
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "parity.json"
TABLE = Path(__file__).with_name("parity.md")
SIDES = ("ours", "lightly")
NARROW = 2.0  # points; half the width of an interval that says `equal`
METHODS = {  # what our recipe takes for the sizes of parity_lightly.py
    "simclr": {"projector": [256, 64], "temperature": 0.2},
    "dcl": {"projector": [256, 64], "temperature": 0.2},
    "moco_v2": {"projector": [256, 64], "queue": 4096, "momentum": 0.99},
    "nnclr": {
        "projector": [256, 256, 64],
        "predictor": 256,
        "queue": 4096,
        "temperature": 0.2,
    },
    "barlow_twins": {"projector": [512, 512, 512], "scale": 1},
    "vicreg": {"projector": [512, 512, 512]},
    "byol": {"projector": [512, 128], "predictor": 512, "momentum": 0.99},
    "simsiam": {"projector": [512, 512, 512], "predictor": 128},
    "dino": {
        "hidden": 512,
        "bottleneck": 64,
        "prototypes": 2048,
        "warmup_temperature": 0.04,
        "teacher_temperature": 0.04,
        "warmup_epochs": 0,
        "momentum": 0.99,
    },
    "swav": {"projector": [256, 64], "prototypes": 512, "epsilon": 0.05, "queue": 0},
    "tico": {"projector": [512, 128], "momentum": 0.99},
    "mmcr": {"projector": [512, 512, 128]},
    "w_mse": {"projector": [512, 32]},
    "lejepa": {"projector": [256, 256, 32]},
    "visreg": {"projector": [256, 256, 32]},
}
CONFIGS = Path(__file__).resolve().parents[1] / "runs" / "configs"
EXPERIMENT = CONFIGS / "experiment" / "cifar10_small.yaml"
DATA = CONFIGS / "data" / "cifar10_small.yaml"
OF_LIGHTLY = {  # classes of parity_lightly.py
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
    "lejepa": "LeJEPA",
    "visreg": "VISReg",
}
FOLDER = {  # the images as files
    f"data.{split}.dataset.name": "image_folder" for split in ("train", "val", "test")
}


# --- one trial ------------------------------------------------------------------------


def configured(method, seed, root, folder):
    """Return the configuration of our run."""
    from stable_ssl import load_config

    quiet = [
        "eval.knn=null",
        "eval.linear=null",
        "eval.untrained=false",
        "monitor=null",
    ]
    quiet += ["eval.few_labels=[]", "pictures=null", "run=run", f"folder={folder}"]
    return load_config(
        method,
        [
            "experiment=cifar10_small",
            *(f"++model.{key}={value}" for key, value in METHODS[method].items()),
            *(f"{key}={value}" for key, value in FOLDER.items()),
            f"data.root={root}",
            f"hardware.seed={seed}",
            *(f"log.{text}" for text in quiet),
        ],
    )


def plain(config, split):
    """Return images (N, 3, H, W) as uint8, and labels, of a split without its views."""
    import torch
    from torchvision.transforms.functional import pil_to_tensor

    from stable_ssl.data.datasets import build_dataset

    data = build_dataset(dict(config.data[split].dataset), config.data.root)
    samples = [data[i] for i in range(len(data))]
    images = torch.stack([pil_to_tensor(image) for image, _ in samples])
    return images, torch.tensor([label for _, label in samples])


def train_ours(config):
    """Train as a user does; return the backbone, and seconds of this process."""
    from stable_ssl.methods import method_class

    trainer = method_class(config.model.name)({**config, "data": alone(config)})
    begin = time.process_time()
    trainer.run()
    return trainer.backbone, time.process_time() - begin


def alone(config):
    """Return the group `data` with the train split alone."""
    return {**config.data, "val": None, "test": None, "predict": "train"}


def train_lightly(config, seed, images):
    """Train by lightly; return the backbone, and seconds of this process."""
    import parity_lightly
    import torch
    from torchvision.transforms.functional import to_pil_image

    from stable_ssl import models

    method = getattr(parity_lightly, OF_LIGHTLY[config.model.name])
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
    policy = {name: dict(config.data.transforms[name]) for name in POLICY}
    seconds = parity_lightly.train(method, backbone, pictures, policy, budget)
    return backbone, seconds


POLICY = ("crop", "jitter", "gray", "flip", "normalize")


def judged(backbone, config, train, test):
    """Return kNN and logistic regression of the features, top-1 in per cent."""
    import torch

    from stable_ssl.evaluation.knn import knn_accuracy
    from stable_ssl.evaluation.logistic import logistic_accuracy

    norm = config.data.transforms.normalize
    mean, std = (torch.tensor(norm[k]).view(3, 1, 1) for k in ("mean", "std"))

    @torch.no_grad()
    def encode(images):
        return torch.cat(
            [backbone((x / 255 - mean) / std) for x in images.split(500)]
        ).float()

    backbone.eval()
    bank, queries = encode(train[0]), encode(test[0])
    knn = knn_accuracy((bank, train[1]), (queries, test[1]), 10)["acc1"]
    center, scale = bank.mean(0), bank.std(0).clamp(min=1e-6)
    x, q = (bank - center) / scale, (queries - center) / scale
    return 100 * knn, 100 * logistic_accuracy((x, train[1]), (q, test[1]))


def trial(method, side, seed, root):
    """Return what one trial found."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = configured(method, seed, root, folder)
        train, test = plain(config, "train"), plain(config, "test")
        if side == "ours":
            backbone, seconds = train_ours(config)
        else:
            backbone, seconds = train_lightly(config, seed, train[0])
    knn, linear = judged(backbone, config, train, test)
    found = {"knn": knn, "linear": linear, "seconds": seconds}
    return {**found, "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__}


# --- all of them ----------------------------------------------------------------------


def made_with(method, side):
    """Return a hash of what a trial depends on, besides the libraries.

    Of parity_lightly.py it is all that stands there, other methods left out.
    """
    texts = [str(METHODS[method]), EXPERIMENT.read_text(), DATA.read_text()]
    if side == "lightly":
        text = Path(__file__).with_name("parity_lightly.py").read_text()
        classes = {p.name: p for p in ast.parse(text).body if hasattr(p, "name")}
        needed = ["train", "TwoViews", OF_LIGHTLY[method]]
        for name in needed:
            bases = getattr(classes[name], "bases", [])
            needed += [b.id for b in bases if getattr(b, "id", "") in classes]
        texts += [ast.get_source_segment(text, classes[name]) for name in needed]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def run(method, side, seed, args):
    """Make one trial in a process of its own."""
    line = [sys.executable, "-W", "ignore", __file__, "--root", args.root]
    line += ["--trial", method, side, str(seed)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{method} {side} {seed}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


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


def table(found):
    """Return the table of all methods that both sides have trials of."""
    head = ["method", "n", "kNN, ours", "kNN, lightly", "difference, 95 %", ""]
    head += ["linear, ours", "linear, lightly", "difference, 95 %", ""]
    head += ["seconds, ours", "seconds, lightly", "ratio"]
    lines = [
        "| " + " | ".join(head) + " |",
        "| :-- " + "| --: " * (len(head) - 1) + "|",
    ]
    for method in METHODS:
        sides = [
            [t for t in found.values() if (t["method"], t["side"]) == (method, side)]
            for side in SIDES
        ]
        if not all(sides):
            continue
        cells = [f"`{method}`", "/".join(str(len(side)) for side in sides)]
        for metric in ("knn", "linear"):
            a, b = ([trial[metric] for trial in side] for side in sides)
            cells += [shown(a), shown(b)]
            if min(len(a), len(b)) > 1:
                difference, half = interval(a, b)
                cells += [f"{difference:+.2f} ± {half:.2f}", verdict(difference, half)]
            else:
                cells += [f"{a[0] - b[0]:+.2f}", ""]
        a, b = ([trial["seconds"] for trial in side] for side in sides)
        ratio = statistics.mean(a) / statistics.mean(b)
        cells += [shown(a, 0), shown(b, 0), f"{ratio:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


HEAD = """\
# The same methods here and by lightly {lightly}

```console
python benchmarks/parity.py --root CIFAR --jobs 2
```

20,000 images of CIFAR-10 (its JPEG copy, 2,000 a class), convnet of 0.27 M parameters,
15 epochs at batch 256, AdamW at 2e-3 on a cosine with 1.5 epochs of warm-up; top-1 on
the 10,000 test images in per cent, mean ± standard deviation over n seeds. `kNN`: k =
20; `linear`: logistic regression; both fitted on the train images. A difference of
means has its 95 % interval (Welch): `equal` where that includes 0 and is at most
± {narrow:g} wide.
Seconds of one CPU core for the training, views included.
"""


def main():
    """Make what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", help="folder of train/<class>/*.jpg and test/...")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trials at once")
    parser.add_argument("--trial", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.trial:
        method, side, seed = args.trial
        print(json.dumps(trial(method, side, int(seed), args.root)))
        return
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    wanted = {}
    for seed in range(args.seeds):
        for method in args.methods:
            for side in args.sides:
                known = {"method": method, "side": side, "seed": seed}
                known["with"] = made_with(method, side)
                kept = found.get(f"{method} {side} {seed}", {})
                if any(kept.get(key) != value for key, value in known.items()):
                    wanted[f"{method} {side} {seed}"] = known
    with ThreadPoolExecutor(args.jobs) as pool:
        futures = {
            pool.submit(run, k["method"], k["side"], k["seed"], args): name
            for name, k in wanted.items()
            if args.root
        }
        for future in as_completed(futures):
            name = futures[future]
            found[name] = {**wanted[name], **future.result()}
            RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
            told = {k: round(found[name][k], 2) for k in ("knn", "linear", "seconds")}
            print(name, told, flush=True)
    head = HEAD.format(lightly=version("lightly"), narrow=NARROW)
    TABLE.write_text(f"{head}\n{table(found)}\n")


if __name__ == "__main__":
    main()
