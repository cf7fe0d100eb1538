"""The same methods here and by lightly, on photographs: accuracy and seconds.

Ours are the runs of papers/cifar10_small.yaml. Lightly's are plain loops with
torchvision's transforms, see parity_lightly.py, with the same images, backbone, policy,
optimizer and schedule; heads, losses, queues and teachers are each library's own, of
the same sizes. The features of the trained backbones are judged by the same functions
on the same test split.

    pip install -e . "lightly==1.6.*"
    stable-ssl paper papers/cifar10_small.yaml --out benchmarks/cifar10_small ...
    python benchmarks/parity.py --root CIFAR --jobs 2  # train/<class>/*.jpg, and test
    python benchmarks/parity.py --root CIFAR --seconds  # with nothing beside it
    python benchmarks/parity.py                        # writes the table anew

A trial is a process of its own, and is kept in benchmarks/results/parity.json with a
hash of what it was made with: what is there is not made again, and can be made on
several machines. Views of a seed are drawn once, into --views (2 GB each). Seconds are
of one machine: epochs of both sides, one after another. The table is
benchmarks/parity.md.
"""

import argparse
import ast
import hashlib
import importlib.metadata
import inspect
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from stable_ssl.files import write_atomically

HERE = Path(__file__).resolve().parent
RESULTS, TABLE = HERE / "results" / "parity.json", HERE / "parity.md"
OURS, PAPER = HERE / "cifar10_small.json", HERE.parent / "papers" / "cifar10_small.yaml"
LIGHTLY = HERE / "parity_lightly.py"
NARROW = 2.0  # points; half the width of an interval that says `equal`
SHORT, ROUNDS = 512, 3  # images a class, and epochs, where seconds are measured
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


def configured(method, root, *overrides):
    """Return the configuration of our run of a method, of images in folders."""
    from stable_ssl import load_config
    from stable_ssl.tools.paper_file import read

    paper = read(PAPER)
    (row,) = [row for row in paper.rows if row.recipe == method]
    folders = [f"data.{s}.dataset.name=image_folder" for s in ("train", "val", "test")]
    own = [*paper.overrides, *row.overrides, *folders, f"data.root={root}"]
    return load_config(method, [*own, *overrides])


def plain(config, split):
    """Return images (N, 3, H, W) as uint8, and labels, of a split without its views."""
    import torch
    from torchvision.transforms.functional import pil_to_tensor

    from stable_ssl.data.datasets import build_dataset

    data = build_dataset(dict(config.data[split].dataset), config.data.root)
    samples = [data[i] for i in range(len(data))]
    images = torch.stack([pil_to_tensor(image) for image, _ in samples])
    return images, torch.tensor([label for _, label in samples])


def pictures(images):
    """Return images of PIL of (N, 3, H, W)."""
    from torchvision.transforms.functional import to_pil_image

    return [to_pil_image(image) for image in images]


def policy(config):
    """Return the arguments of the policy's operations by their names."""
    return {name: dict(config.data.transforms[name]) for name in OPS}


def training(config, seed, loader):
    """Return a backbone, and its training by lightly: seconds by epoch."""
    import parity_lightly
    import torch

    from stable_ssl import models

    method = getattr(parity_lightly, METHODS[config.model.name])
    torch.manual_seed(seed)
    backbone = models.backbone(config.model.backbone)
    optim = config.optim
    used = optim.optimizer, optim.scheduler.name, optim.groups, optim.grad_max_norm
    assert used == ("adamw", "cosine", [], None), f"the plain loop has no {used}"
    budget = {
        "epochs": optim.epochs,
        "lr": optim.lr,
        "weight_decay": optim.weight_decay,
        "warmup_epochs": optim.scheduler.warmup_epochs,
    }
    return backbone, parity_lightly.train(method, backbone, loader, budget)


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


def drawn(method, seed, root, folder):
    """Return the file of a seed's views; draw them where it is not there."""
    import parity_lightly
    import torch

    config = configured(method, root)
    made = drawn_with(config, Path(root).resolve())
    file = Path(folder) / f"{made}-{seed}.npy"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        images, part = pictures(plain(config, "train")[0]), file.with_suffix(".part")
        parity_lightly.draw(images, policy(config), config.optim.epochs, part)
        part.replace(file)
    return file


def trial(method, seed, root, folder):
    """Return what one trial found."""
    import parity_lightly
    import torch

    torch.set_num_threads(1)
    config = configured(method, root)
    views = drawn(method, seed, root, folder)
    loader = parity_lightly.Drawn(views, policy(config), config.data.batch_size)
    backbone, epochs = training(config, seed, loader)
    list(epochs)
    images, queries = (plain(config, split) for split in ("train", "test"))
    found = judged(backbone, config, images, queries, seed)
    facts = {"method": method, "seed": seed, "with": made_with(method)}
    return {**facts, **found, **versions()}


def versions():
    """Return when and by which versions something was measured."""
    known = {name: importlib.metadata.version(name) for name in ("torch", "lightly")}
    return {"date": time.strftime("%Y-%m-%d"), "versions": known}


def made_with(method):
    """Return a hash of what a trial depends on, besides the libraries."""
    config = configured(method, "")
    code = ["train", "Drawn", "normalize", METHODS[method]], [plain, training, judged]
    data = config.data.test, config.data.batch_size
    other = config.optim, config.model.backbone, config.log.eval
    return hashed(*code, drawn_with(config), *data, *other)


def drawn_with(config, *place):
    """Return a hash of what the views of a seed depend on."""
    data = config.data.transforms, config.data.train, config.optim.epochs
    return hashed(["draw", "TwoViews"], [plain, drawn], *data, *place)


def hashed(names, functions, *facts):
    """Return a hash of code, words left out, and of facts.

    Args:
        names: of what is needed of parity_lightly.py; bases of a class are added.
        functions: of this file.
        facts: anything with a text.
    """
    body = ast.parse(LIGHTLY.read_text()).body
    known = {part.name: part for part in body if hasattr(part, "name")}
    needed = list(names)
    for name in needed:
        bases = getattr(known[name], "bases", [])
        needed += [base.id for base in bases if getattr(base, "id", "") in known]
    parts = [wordless(known[name]) for name in needed]
    for function in functions:
        parts.append(wordless(ast.parse(textwrap.dedent(inspect.getsource(function)))))
    parts += map(str, facts)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def wordless(tree):
    """Return code without its comments and docstrings."""
    for node in ast.walk(tree):
        if getattr(node, "body", None) and isinstance(node, ast.stmt | ast.Module):
            if isinstance(node.body[0], ast.Expr):
                node.body[0] = ast.Pass()
    return ast.unparse(tree)


# --- seconds --------------------------------------------------------------------------


def seconds(method, root):
    """Return the seconds of a short epoch of a method, ours and lightly's, in turn.

    Ours with reading, views, online probe and row; the better of two after a first one.
    `steps`: of these, what lightly's model takes to be trained on views that are there.
    """
    import parity_lightly
    import torch

    from stable_ssl.methods import method_class

    torch.set_num_threads(1)
    fewer = [f"data.train.dataset.labels_per_class={SHORT}", "log.pictures=null"]
    with tempfile.TemporaryDirectory() as folder:
        config = configured(method, root, *fewer, f"log.folder={folder}")
        trainer = method_class(method)(config)
        trainer.setup()
        images = pictures(plain(config, "train")[0])
        views = images, policy(config), config.data.batch_size
        _, epochs = training(config, 0, parity_lightly.loader(*views))
        taken = {"ours": [], "lightly": []}
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            trainer.train_epoch()
            taken["ours"].append(time.perf_counter() - begin)
            taken["lightly"].append(next(epochs))
        trainer.cleanup()
    found = {who: min(each[1:]) for who, each in taken.items()}
    return {**found, "steps": steps(method, config), **versions()}


def steps(method, config):
    """Return the seconds of a short epoch's steps on one batch, by lightly's loss."""
    import parity_lightly
    import torch

    from stable_ssl import models

    backbone = models.backbone(config.model.backbone)
    size, n = config.data.batch_size, 10 * SHORT // config.data.batch_size
    cls = getattr(parity_lightly, METHODS[method])
    model = cls(backbone, config.optim.epochs, n * config.optim.epochs).train()
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    x0, x1 = torch.randn(2, size, 3, 32, 32)
    x0, x1 = (x.to(memory_format=torch.channels_last) for x in (x0, x1))
    for step in range(n + 1):
        if step == 1:  # after a first one
            begin = time.perf_counter()
        optimizer.zero_grad()
        model.loss(x0, x1, step).backward()
        model.after_backward(step)
        optimizer.step()
    return time.perf_counter() - begin


# --- all of them ----------------------------------------------------------------------


def one(method, thing, args):
    """Return what is found of a method: `seconds`, `views SEED`, or a seed's trial."""
    if thing == "seconds":
        return seconds(method, args.root)
    if thing.startswith("views"):
        return str(drawn(method, int(thing.split()[1]), args.root, args.views))
    return trial(method, int(thing), args.root, args.views)


def run(what, args):
    """Do `one` of a method and a thing, in a process of its own."""
    line = [sys.executable, "-W", "ignore", __file__, "--root", args.root]
    line += ["--views", args.views, "--one", *what]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(what)}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def kept():
    """Return what was measured: {"byol 0": a trial, "byol seconds": of both sides}."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def draw(wanted, args):
    """Draw the views of the seeds of all trials first, so that no trial waits."""
    first = {seed: method for method, seed in reversed(wanted)}
    with ThreadPoolExecutor(args.jobs) as pool:
        for seed, method in first.items():
            pool.submit(run, [method, f"views {seed}"], args)


def make(wanted, args):
    """Measure each of `wanted`, [method, seed or `seconds`]; keep it as it ends."""
    with ThreadPoolExecutor(args.jobs) as pool:
        futures = {pool.submit(run, what, args): " ".join(what) for what in wanted}
        for future in as_completed(futures):
            name = futures[future]
            try:
                found = kept() | {name: future.result()}
            except RuntimeError as error:
                print(error, file=sys.stderr, flush=True)
                continue
            text = json.dumps(found, indent=1, sort_keys=True) + "\n"
            write_atomically(RESULTS, text)
            print(name, found[name], flush=True)


def missing(methods, seeds):
    """Return the trials that are not there, or are of other code."""
    found, hashes = kept(), {method: made_with(method) for method in methods}
    return [
        [method, str(seed)]
        for seed in range(seeds)
        for method in methods
        if found.get(f"{method} {seed}", {}).get("with") != hashes[method]
    ]


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
    """Return "55.40 ± 0.31"; "-" of nothing."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def ours():
    """Return {recipe: {knn, linear: values}} of our table.

    Raises:
        SystemExit: it is of other images, or of other configurations than those of now.
    """
    from stable_ssl.commands.paper import plan
    from stable_ssl.tools.paper_file import read

    if not OURS.exists():
        return {}
    made = json.loads(OURS.read_text())
    overrides = [word for word in shlex.split(made["command"])[3:] if "=" in word]
    now = {one.folder.name for one in plan(read(PAPER), PAPER.stem, "logs", overrides)}
    old = now ^ {one["run"] for one in made["runs"]}
    if old or "image_folder" not in made["command"]:
        raise SystemExit(f"{OURS} is of other images or settings; make it again")
    found = {}
    for row in made["rows"]:
        cells = {cell["column"]: cell["values"] for cell in row["cells"]}
        found[row["recipe"]] = {name: cells[column] for name, column in JUDGED.items()}
    return found


def table(ours, trials, seconds):
    """Return the table; cells without a run are empty.

    Args:
        ours: as of `ours`.
        trials: of lightly, each {method, knn, linear}.
        seconds: {method: {ours, lightly}}.
    """
    head = ["method", "n", "kNN, ours", "kNN, lightly", "difference, 95 %", ""]
    head += ["linear, ours", "linear, lightly", "difference, 95 %", ""]
    head += ["epoch, ours", "epoch, lightly", "its steps", "ratio"]
    lines = [f"| {' | '.join(head)} |", "| :-- " + "| --: " * (len(head) - 1) + "|"]
    for method in METHODS:
        theirs = [t for t in trials if t["method"] == method]
        own = ours.get(method, {})
        cells = [f"`{method}`", f"{len(own.get('knn', []))}/{len(theirs)}"]
        for metric in JUDGED:
            a, b = own.get(metric, []), [t[metric] for t in theirs]
            cells += [shown(a), shown(b), "", ""]
            if min(len(a), len(b)) > 1:
                difference, half = interval(a, b)
                cells[-2:] = (
                    f"{difference:+.2f} ± {half:.2f}",
                    verdict(difference, half),
                )
        timed = [seconds.get(method, {}).get(k) for k in ("ours", "lightly", "steps")]
        cells += [f"{t:.1f} s" if t else "" for t in timed]
        cells.append(f"{timed[0] / timed[1]:.2f}" if timed[0] else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def explained(seconds):
    """Say what the seconds come from; nothing before there are some."""
    parts = [s["ours"] / s["steps"] for s in seconds.values() if s.get("steps")]
    shares = [s["steps"] / s["lightly"] for s in seconds.values() if s.get("steps")]
    if not parts:
        return ""
    low, high, least, most = min(parts), max(parts), min(shares), max(shares)
    return (
        f"\nSteps alone are {100 * least:.0f} to {100 * most:.0f} % of lightly's"
        " epochs. A whole epoch here, with views, probe and rows,\n"
        f"is {low:.2f} to {high:.2f} times as long as those: what is above half of"
        " lightly's seconds is the\nnetwork's.\n"
    )


HEAD = f"""\
# The same methods here and by lightly 1.6

```console
python benchmarks/parity.py --root CIFAR --jobs 2
python benchmarks/parity.py --root CIFAR --methods simsiam tico visreg --seeds 5
```

20,000 images of CIFAR-10 (its JPEG copy, 2,000 a class), convnet of 0.06 M parameters,
15 epochs at batch 256, AdamW at 2e-3 on a cosine with 1.5 epochs of warm-up; top-1 on
the 10,000 test images in per cent, mean ± standard deviation over n seeds, ours and
lightly's. Ours: the runs of `benchmarks/cifar10_small.md`. `kNN`: k = 20; `linear`: SGD
on frozen features, its rate chosen on a tenth of them; both on the train images. A
difference of means has its 95 % interval (Welch): `equal` where that includes 0 and is
at most ± {NARROW:g} wide, of five seeds where three left it wider; of so many
comparisons one in twenty may differ by chance.
With three seeds on each side, differences below about a point are not resolved.
Lightly's methods all read the same views of a seed, drawn before by torchvision.
`epoch`: seconds of {10 * SHORT:,} images on one core, of both in turn in one process,
by `python benchmarks/parity.py --root CIFAR --seconds` with nothing beside it; ours
with its online probe. `its steps`: what of lightly's epoch are forward, backward and
optimizer, which both sides need; the rest are its views. Both are channels last.

Conventions that stay as each has them: lightly's SimCLR and DCL end their projector in
a batch norm, its BYOL heads end in biases, SwAV's prototypes have one, and its NNCLR
contrasts by NT-Xent, so also within a view. Views pass the network one by one there,
and together here for SimCLR, DINO, SwAV, MMCR and VISReg (in the projector for W-MSE),
so that batch norm sees all of them. Lightly's MMCR is without its momentum network and
second term, as ours is.
"""


def main():
    """Make what is missing where there are images, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", help="folder of train/<class>/*.jpg and test/...")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trials at once")
    folder = Path(tempfile.gettempdir()) / "parity_views"
    parser.add_argument("--views", default=str(folder), help="folder of drawn views")
    parser.add_argument("--seconds", action="store_true", help="measure these alone")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(*args.one, args)))
        return
    if args.root and args.seconds:
        args.jobs = 1
        make([[method, "seconds"] for method in args.methods], args)
    elif args.root:
        wanted = missing(args.methods, args.seeds)
        draw(wanted, args)
        make(wanted, args)
    found = kept()
    trials = [one for one in found.values() if "with" in one]
    trials = [one for one in trials if one["with"] == made_with(one["method"])]
    timed = {m: found[f"{m} seconds"] for m in METHODS if f"{m} seconds" in found}
    text = f"{HEAD}\n{table(ours(), trials, timed)}\n{explained(timed)}"
    TABLE.write_text(text)


if __name__ == "__main__":
    main()
