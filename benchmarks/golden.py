"""What every recipe computes today, recorded, so that a rebuild shows what it changes.

    python benchmarks/golden.py record
    python benchmarks/golden.py compare
    python benchmarks/golden.py compare simclr byol --threads 2

A recipe on the digits takes 20 steps; one on other data takes 2, on a few generated
images of the size that it expects, in batches that a CPU can bear. Of its keys only
those in `OPTIONS`, `configure` and `shrink` are changed. Seed 0, one thread, float64
(see `doubled`), one evaluation at the end.

`record` writes two files. benchmarks/results/golden.json is committed: the rows of
metrics.jsonl without wall-clock fields. benchmarks/.golden.json is this machine's and
ignored by git: SHA-256 of the final weights, of the optimizer's state and of the probe.
`compare` trains again, compares the rows as `agree` says and, where bits were recorded
on the same machine with the same versions and threads, the bits. It prints `equal`, or
names each difference and exits with 1. Who changes on purpose what is computed records
again, and the commit shows by how much. A new clone compares with the committed rows
alone until it records.
"""

import argparse
import hashlib
import io
import json
import math
import platform
import sys
import tempfile
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import torch
from omegaconf import DictConfig

from stable_ssl import load_config
from stable_ssl.config import recipes
from stable_ssl.data import register_dataset
from stable_ssl.data.datasets import Images
from stable_ssl.methods import method_class

HERE = Path(__file__).parent
ROWS = HERE / "results" / "golden.json"
BITS = HERE / ".golden.json"
LEFT_OUT = {
    "base": "names no method; every other recipe builds on it",
    "deepcluster_v2_cifar10_lars": "has more clusters than there are pictures",
    "mmcr_cifar10_adam": "has 40 views and a ResNet-50, too much for a CPU",
    "w_mse_cifar10_adam": "whitens more images together than the pictures are",
    "data2vec_folder": "its ViT-B takes a CPU long, and a digits recipe is recorded",
    "dinov2_folder": "its ViT-L takes a CPU long, and a digits recipe is recorded",
    "distillation_folder": "its teacher's weights are downloaded, and may change",
    "simmim_folder": "its ViT-B takes a CPU long, and a digits recipe is recorded",
}
STARTS_FROM = {"finetune": "simclr"}  # whose checkpoint it loads
DIGITS_STEPS, OTHER_STEPS = 20, 2


# --- what a rebuild may have to adapt -------------------------------------------------


def probe_of(trainer):
    """Return the online probe and its optimizer; None, None where there is none."""
    probe = trainer.evaluation.online.get("probe")
    return (None, None) if probe is None else (probe.module, probe.optimizer)


# --- data -----------------------------------------------------------------------------


def pictures(count, size, seed):
    """Return blocks of colour that a class shares and noise: images and labels.

    Args:
        count: N.
        size: height and width, in pixels.
        seed: of the noise; the classes look the same under any.

    Returns:
        (N, 3, size, size) uint8, and (N,) int64, ten classes in turn.
    """
    labels = torch.arange(count) % 10
    coarse = torch.randint(
        256, (10, 3, 4, 4), generator=torch.Generator().manual_seed(0)
    )[labels]
    fine = torch.randint(
        256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed)
    )
    images = coarse.repeat_interleave(2, -1).repeat_interleave(2, -2) + fine
    images = images.repeat_interleave(size // 8, -1).repeat_interleave(size // 8, -2)
    return (images // 2).to(torch.uint8), labels


@register_dataset("pictures_32")
def pictures_32(root="", subset="train"):
    """Stand for CIFAR-10: 20 images to train on, 10 to evaluate."""
    count, seed = (20, 1) if subset == "train" else (10, 2)
    return Images(*pictures(count, 32, seed), 10)


FOLDER = {"train": 6, "val": 6, "test": 6}  # images of each subset


def write_folder(root):
    """Write PNG files of three sizes as `root/subset/class/image.png`."""
    from torchvision.io import write_png

    for seed, (subset, count) in enumerate(FOLDER.items()):
        for i in range(count):
            images, labels = pictures(count, 96 + 16 * (i % 3), seed)
            path = root / subset / str(int(labels[i])) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(images[i], str(path))


# --- recipes --------------------------------------------------------------------------

OPTIONS = [  # of every run
    "hardware.seed=0",
    "hardware.accelerator=cpu",
    "hardware.precision=float32",
    "optim.epochs=null",
    "log.run=run",
    "log.resume=null",
    "log.pictures=null",
    "log.export.types=[]",
    "log.checkpoint.every_n_epochs=null",  # the last step is saved all the same
    "log.eval.every_n_epochs=null",  # likewise the evaluation after it
    "log.eval.untrained=false",
    "log.eval.few_labels=[]",
]


def all_names():
    """Return the recipes that are recorded."""
    return [name for name in recipes() if name not in LEFT_OUT]


def on_digits(name):
    """Return whether a recipe trains on the digits, which need not be replaced."""
    return not name.endswith("_folder") and "_cifar10_" not in name


def shrink(node):
    """Let the loaders below a node read few images, generated ones for CIFAR-10."""
    for key, value in node.items():
        if key == "batch_size" and value is not None:
            node[key] = 2
        elif key == "labels_per_class":
            node[key] = 2
        elif key == "name" and value == "CIFAR10":
            node[key] = "pictures_32"
        elif isinstance(value, DictConfig):
            shrink(value)


def configure(name, folder, threads, overrides):
    """Return a recipe's config, short and small."""
    digits = on_digits(name)
    steps = DIGITS_STEPS if digits else OTHER_STEPS
    config = load_config(
        name,
        [
            *OPTIONS,
            f"hardware.threads={threads}",
            f"optim.steps={steps}",
            f"log.every_n_steps={2 if digits else 1}",
            f"log.folder={folder / 'logs'}",
            *overrides,
        ],
    )
    if not digits:
        config.optim.scheduler.warmup_epochs = 0  # or two steps would hardly move it
        data = config.data
        data.root, data.num_workers, data.eval_batch_size = str(folder), 0, 10
        for node in (data.train, data.val):
            shrink(node)
        if config.log.eval.knn and config.log.eval.knn.k > 20:
            config.log.eval.knn.k = 20  # all that there are
        small = 2 if name.endswith("_folder") else 4  # whose images are of 224 pixels
        data.batch_size, data.batch_size_per_gpu = small, None
    return config


def fingerprint(threads):
    """Return what bits depend on besides the code."""
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{platform.node()} {capability} torch {torch.__version__}, {threads} threads"
    )


def digest(tensors):
    """Return the SHA-256 of tensors by name: names, types, shapes and bytes, sorted."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = torch.as_tensor(tensors[name]).detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def optimizer_state(module, optimizer):
    """Return an optimizer's tensors by name of parameter, however they are grouped."""
    return {
        f"{name}/{key}": value
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def bits_of(trainer):
    """Return a digest each of the weights, the optimizer's state and the probe."""
    bits = {
        "weights": digest(trainer.state_dict()),
        "optimizer": digest(optimizer_state(trainer, trainer.optimizer)),
    }
    probe, optimizer = probe_of(trainer)
    if probe is not None:
        own = {**probe.state_dict(), **optimizer_state(probe, optimizer)}
        bits["probe"] = digest(own)
    return bits


def run(name, threads=1, overrides=()):
    """Train a recipe, briefly.

    Args:
        name: of the recipe.
        threads: of the CPU.
        overrides: as on the command line.

    Returns:
        {"samples": {split: how many}, "rows": [{...}], "bits": {...}}
    """
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        if name.endswith("_folder"):
            write_folder(folder)
        if start := STARTS_FROM.get(name):
            first = train(configure(start, folder / "first", threads, ()))
            last = first.run_dir / "ckpts" / "last.ckpt"
            overrides = [f"log.load_from={last}", *overrides]
        trainer = train(configure(name, folder, threads, overrides))
        lines = (trainer.run_dir / "metrics.jsonl").read_text().splitlines()
    splits = {s: own for s, own in trainer.loaders.items() if s in ("val", "test")}
    return {
        "samples": {split: len(own.dataset) for split, own in splits.items()},
        "rows": [rounded(json.loads(line)) for line in lines],
        "bits": bits_of(trainer),
    }


def train(config):
    """Return the trainer of a config after its run, of which it prints nothing."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = doubled(method_class(config.model.name))(config)
        trainer.run()
    return trainer


def doubled(trainer):
    """Return the trainer in float64, so that a figure says the same on any processor.

    A ReLU's input near 0 falls on either side with the order of a sum, and 20 steps at
    a recipe's rate make 1e-7 of that 1e-2 of the loss; of 1e-16 nothing is seen.
    """

    class Double(trainer):
        def initialize_modules(self):
            super().initialize_modules()
            self.double()
            for module in self.modules():
                if not list(module.children()):  # views come in float32
                    module.register_forward_pre_hook(widened)

    Double.__name__ = trainer.__name__
    return Double


def widened(module, inputs):
    """Return a layer's inputs, those in float32 as float64."""
    return tuple(
        x.double() if getattr(x, "dtype", None) == torch.float32 else x for x in inputs
    )


def rounded(row):
    """Return a row without wall-clock fields, to seven digits, which `agree` needs."""
    return {
        name: float(f"{value:.7g}") if isinstance(value, float) else value
        for name, value in row.items()
        if name.partition("/")[0] not in ("time", "perf")
    }


# --- compare --------------------------------------------------------------------------

RELATIVE = 1e-4
TINY = 1e-6  # below which a figure is rounding
FLIPS = 2  # samples


def agree(name, a, b, samples):
    """Return whether two values of a metric are the same but for rounding.

    In float64 another processor or number of threads moves no figure of the methods by
    1e-6; the probe is float32 all the same, and another version of torch may sum in
    another order. An accuracy moves by whole samples, of which one that lies between
    two classes may fall on the other side.

    Args:
        name: of the metric.
        a: recorded.
        b: found.
        samples: {split: how many}.
    """
    split, _, metric = name.partition("/")
    if "acc" in metric and split in samples:
        return abs(a - b) <= (FLIPS + 0.5) / samples[split]
    return math.isclose(a, b, rel_tol=RELATIVE, abs_tol=TINY) or a != a and b != b


def differences(recorded, found):
    """Yield (step, metric, recorded value, found value) of each that does not agree."""
    rows, again = recorded["rows"], found["rows"]
    if len(rows) != len(again):
        yield None, "rows", len(rows), len(again)
    for old, new in zip(rows, again, strict=False):
        for name in {**old, **new}:
            a, b = old.get(name), new.get(name)
            if a is None or b is None or not agree(name, a, b, recorded["samples"]):
                yield old["step"], name, a, b


def compare(names, threads):
    """Train again; print a table and each difference; return whether there is none."""
    recorded, bits = read(ROWS), read(BITS)
    where, said = fingerprint(threads), []
    print(f"{'recipe':26}{'seconds':>8}  {'rows':16}bits")
    for name in names:
        if name not in recorded:
            said.append(f"{name}: not recorded; `record {name}` does")
            continue
        start = time.perf_counter()
        found = run(name, threads)
        seconds = time.perf_counter() - start
        apart = [
            f"{name}, step {step}, {metric}: {a} recorded, {b} now"
            for step, metric, a, b in differences(recorded[name], found)
        ]
        own = bits.get(name, {})
        known = own.get("where") == where
        other = [part for part in found["bits"] if own.get(part) != found["bits"][part]]
        other += [part for part in own if part not in {"where", *found["bits"]}]
        of_bits = "not recorded here"
        if known:
            of_bits = f"other {', '.join(other)}" if other else "equal"
            said += [f"{name}: other bits of the {part}" for part in other]
        of_rows = f"{len(apart)} differ" if apart else "equal"
        print(f"{name:26}{seconds:8.1f}  {of_rows:16}{of_bits}", flush=True)
        said += apart
    print(*said or ["equal"], sep="\n")
    return not said


# --- record ---------------------------------------------------------------------------


def read(path):
    """Return what a file holds by recipe; nothing where it is not there."""
    return json.loads(path.read_text()) if path.exists() else {}


def write(path, by_recipe):
    """Write a file by recipe, a row a line, so that a commit shows which changed."""
    parts = []
    for name in sorted(by_recipe):
        rows = by_recipe[name].get("rows")
        text = json.dumps({k: v for k, v in by_recipe[name].items() if k != "rows"})
        if rows is not None:
            lines = ",\n".join(json.dumps(row) for row in rows)
            text = f'{text[:-1]}, "rows": [\n{lines}]}}'
        parts.append(f"{json.dumps(name)}: {text}")
    path.parent.mkdir(exist_ok=True)
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def record(names, threads):
    """Train, and write the rows and this machine's bits; others' stay as they are."""
    kept = set(all_names())
    rows, bits = (
        {name: own for name, own in read(path).items() if name in kept}
        for path in (ROWS, BITS)
    )
    for name in names:
        found = run(name, threads)
        bits[name] = {"where": fingerprint(threads), **found.pop("bits")}
        rows[name] = found
        print(name, flush=True)
    write(ROWS, rows)
    write(BITS, bits)


def main():
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("recipes", nargs="*", help="names; none means all of them")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    arguments = parser.parse_intermixed_args()
    if unknown := set(arguments.recipes) - set(all_names()):
        parser.error(f"no such recipe: {', '.join(sorted(unknown))}")
    chosen = arguments.recipes or all_names()
    if arguments.action == "record":
        record(chosen, arguments.threads)
    else:
        sys.exit(not compare(chosen, arguments.threads))


if __name__ == "__main__":
    main()
