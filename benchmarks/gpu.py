r"""What a GPU shows, in one call of a few minutes: a table, and JSON after each figure.

    python benchmarks/gpu.py --minutes 9 --out FOLDER --cifar cifar10-images.tar.xz
    python benchmarks/gpu.py --dry --out FOLDER  # all of it on a CPU, in toy sizes

It needs Python, torch, torchvision, scikit-learn and pytest. What else the library
imports may lie in a folder of wheels, `--wheels FOLDER`, for a machine without network;
one that has a network fills it by

    pip wheel --no-deps -w FOLDER hydra-core==1.3.* omegaconf==2.3.* submitit \
        cloudpickle antlr4-python3-runtime==4.9.*

The parts, each a process of its own, so that the failure of one leaves the others:

tests         pytest -m gpu, two minutes at most.
augmentation  milliseconds for 256 images of 256 px to views of 224: policy by policy
              and op by op, eager and compiled, beside kornia where it is installed.
training      images/s as shipped (bfloat16, channels_last, online probe), on views made
              beforehand, and the time of a step outside forward, backward and
              optimizer: SimCLR, ResNet-18, 32 px, batch 512; Barlow Twins and DINO (two
              views of 224 px, eight more of 96), ViT-S/16, batch 256. The generated
              images lie on the GPU. Synchronisations a step; whether a resumed run ends
              with the same bits; loss and views compiled.
cifar         `--recipe` on CIFAR-10 with the `overrides`, in the minutes that are left:
              as many epochs as fit. `--cifar` names an archive or folder of
              train/<class>/ and test/<class>/.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOWHERE = open(os.devnull, "w")  # for what trainers print
MINUTES = {"tests": 2.0, "augmentation": 1.0, "training": 4.0, "cifar": 60.0}  # at most
KORNIA = {  # ms for 256 images of 224 px on an H200, as published
    "random_resized_crop": 18.3,
    "gaussian_blur": 17.1,
    "color_jitter": 4.8,
    "solarize": 1.1,
    "horizontal_flip": 0.64,
    "grayscale": 0.59,
}


class Figures:
    """What a part measured so far: printed, and written after each figure.

    Args:
        path: of the JSON file, {name: value}.
    """

    def __init__(self, path):
        self.path, self.values = path, {}

    def add(self, name, value):
        """Print a figure, and write all of them."""
        self.values[name] = value
        self.path.write_text(json.dumps(self.values, indent=1) + "\n")
        print(f"  {name:42} {shown(value)}", flush=True)


def shown(value):
    """Return a number, or numbers by name, as text."""
    if isinstance(value, dict):
        return "  ".join(f"{name} {shown(v)}" for name, v in value.items())
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


# --- tests ----------------------------------------------------------------------------


def tests(figures, args):
    """Run the tests that need a GPU; without one, see that they are found."""
    line = [sys.executable, "-m", "pytest", "-m", "gpu", "--tb=short", "--durations=5"]
    line += ["-p", "no:cacheprovider"]
    line += ["-n0", "--collect-only"] if args.dry else ["-n8", "--dist=load"]
    # or the checkout would be imported instead of what is installed
    environ = {**os.environ, "PYTHONSAFEPATH": "1"}
    with open(args.out / "tests.log", "w") as log:
        put = {"stdout": log, "stderr": subprocess.STDOUT}
        done = subprocess.run(line, cwd=ROOT, env=environ, **put)
    lines = [x for x in (args.out / "tests.log").read_text().splitlines() if x.strip()]
    if done.returncode:
        print(*lines[-60:], sep="\n")
    figures.add("exit code", done.returncode)
    figures.add("result", lines[-1])


# --- augmentation ---------------------------------------------------------------------


def milliseconds(make, rounds):
    """Return the median time of a call, the device being waited for."""
    import torch

    from stable_ssl.tools.profile import Clock

    clock = Clock(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    times = []
    for _ in range(rounds + 2):  # the first ones build kernels and tables
        start = clock.now()
        make()
        times.append(1000 * (clock.now() - start))
    return statistics.median(times[2:])


def augmentation(figures, args):
    """Time whole policies, then their ops one by one."""
    import augment
    import torch

    from stable_ssl.augment import View, build_ops
    from stable_ssl.seeding import sample_keys

    device = "cuda" if torch.cuda.is_available() else "cpu"
    n, rounds = (2, 1) if args.dry else (256, 20)
    setting = augment.SETTINGS[-1]
    images = augment.photographs(n, setting["source"]).to(device)
    index = torch.arange(n, device=device)

    def timed(ops, compiled=False, x=images):
        view = View(build_ops(ops))
        if compiled:
            view.compile()
        return milliseconds(lambda: view(x, sample_keys(0, 1, index)), rounds)

    policies = {
        name: [
            (count, augment.view_ops(setting[side], setting["kernel"], *rest))
            for count, side, *rest in views
        ]
        for name, views in augment.POLICIES.items()
    }
    for name, views in policies.items():
        total = sum(count for count, _ in views)
        per_view = sum(count * timed(ops) for count, ops in views) / total
        figures.add(f"{name}, ms a view", per_view)
    views = torch.rand(n, 3, 224, 224, device=device)
    for op in policies["BYOL"][1][1]:
        x = images if op["name"] == "random_resized_crop" else views
        always = {**op, "p": 1.0} if "p" in op else op
        found = {"ours": timed([always], x=x)}
        if op["name"] in KORNIA:
            found["kornia, published"] = KORNIA[op["name"]]
        figures.add(op["name"], found)
    with contextlib.suppress(ImportError):
        for name, views in policies.items():
            makes = [(c, augment.CONTENDERS["kornia"](o, images)) for c, o in views]
            spent = sum(c * milliseconds(make, rounds) for c, make in makes)
            figures.add(f"kornia, {name}, ms a view", spent / sum(c for c, _ in views))
    if args.dry:
        return
    for name, views in policies.items():
        total = sum(count for count, _ in views)
        per_view = sum(c * timed(ops, compiled=True) for c, ops in views) / total
        figures.add(f"{name}, compiled, ms a view", per_view)


# --- training -------------------------------------------------------------------------


def noise(root="", subset=None, n=1, side=32):
    """Return a dataset of n generated images (3, side, side) of ten classes."""
    import torch

    from stable_ssl.data.datasets import Images

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, side, side), generator=generator)
    return Images(pixels.to(torch.uint8), torch.arange(n) % 10, 10)


def trainings(dry):
    """Return {name: groups data, model and optim of a config} of what is timed."""
    import augment

    small, photo = ({"batch": 8, "side": 16}, {"batch": 4, "side": 32})
    vit = {"patch_size": 8, "dim": 16, "depth": 1, "heads": 2, "image_size": 32}
    resnet, heads, prototypes, near = {"name": "convnet", "width": 4}, [16, 16], 32, 16
    if not dry:
        small, photo = {"batch": 512, "side": 32}, {"batch": 256, "side": 256}
        vit = {"patch_size": 16, "dim": 384, "depth": 12, "heads": 6, "image_size": 224}
        resnet, heads = {"name": "resnet18", "stem": "cifar"}, [2048, 2048]
        prototypes, near = 65536, 96

    def data(batch, side, views):
        node = {"name": "noise", "n": 8 * batch, "side": side}
        node |= {"subset": "train", "image_transform": views}
        train = {"dataset": node}
        return {"batch_size": batch, "train": train, "val": None, "test": None}

    def views(name, size, local, kernel):
        sides = {"size": size, "local": local}
        return [
            augment.view_ops(sides[side], kernel, *rest)
            for count, side, *rest in augment.POLICIES[name]
            for _ in range(count)
        ]

    half = augment.view_ops(small["side"], 3, (0.2, 1.0), augment.WEAK, 0, 0)
    size, kernel = vit["image_size"], 3 if dry else 23
    sgd = {"optimizer": "sgd", "lr": 0.06, "scheduler": {"warmup_epochs": 0}}
    adamw = {"optimizer": "adamw", "lr": 1e-4, "scheduler": {"warmup_epochs": 0}}
    vit = {"name": "vit", **vit}
    barlow = {"name": "barlow_twins", "backbone": vit, "projector": heads}
    dino = {"name": "dino", "backbone": vit, "prototypes": prototypes}
    photos = views("BYOL", size, near, kernel)
    return {
        "SimCLR ResNet-18": {
            "data": data(**small, views=[half, half]),
            "model": {"name": "simclr", "backbone": resnet, "projector": [512, 128]},
            "optim": sgd,
        },
        "Barlow Twins ViT-S/16": {
            "data": data(**photo, views=photos),
            "model": barlow,
            "optim": adamw,
        },
        "DINO ViT-S/16": {
            "data": data(**photo, views=views("DINO", size, near, kernel)),
            "model": dino,
            "optim": adamw,
        },
    }


class Prepared(list):
    """Batches made beforehand; `batch_size` is their images."""

    batch_size = 0


def trainer(spec, folder, steps, *, every=10, base=None, **groups):
    """Return the trainer of one of `trainings`, ready to run.

    Args:
        spec: groups data, model and optim of a config.
        folder: of its run.
        steps: optimizer steps.
        every: steps of a row.
        base: makes a class of the method's.
        groups: further keys by group, such as `data={"compile": True}`.
    """
    import torch

    from stable_ssl import load_config
    from stable_ssl.methods import method_class

    words = ["log.monitor=null", "log.eval.untrained=false", "log.eval.few_labels=[]"]
    words += ["log.eval.every_n_epochs=null", "log.checkpoint.every_n_epochs=null"]
    words += ["log.pictures=null", f"log.folder={folder}", f"log.every_n_steps={every}"]
    words += ["optim.epochs=null", f"optim.steps={steps}", "log.eval.knn=null"]
    load = load_config("base", words)
    own = {"precision": "bfloat16" if torch.cuda.is_available() else "float32"}
    config = {**load}
    plain = {"hardware": {**load.hardware, **own}, "optim": load.optim}
    for group in ("hardware", "data", "model", "optim"):
        parts = plain.get(group, {}), spec.get(group, {}), groups.get(group, {})
        config[group] = {k: v for part in parts for k, v in part.items()}
    config["mode"] = groups.get("mode", "fit")
    cls = method_class(spec["model"]["name"])
    with contextlib.redirect_stdout(NOWHERE):
        return (base(cls) if base else cls)(config)


def run(made):
    """Let a trainer run, and return it."""
    with contextlib.redirect_stdout(NOWHERE):
        made.run()
    return made


def speed(made):
    """Return {images/s, GiB} of a trainer's rows, without the first of them."""
    lines = (run(made).run_dir / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "perf/images_per_s" in row]
    kept = rows[len(rows) // 3 :]
    return {
        "images/s": statistics.median(row["perf/images_per_s"] for row in kept),
        "GiB": rows[-1]["perf/memory_gib"],
    }


def prepared(cls):
    """Return a trainer that sees the same few batches, made beforehand."""

    class Beforehand(cls):
        def initialize_data(self):
            super().initialize_data()
            batches = Prepared(islice(self.train_loader, 4))
            batches.batch_size = self.train_loader.batch_size
            self.train_loader = batches

    return Beforehand


def counting(counts):
    """Return a maker of a trainer that counts what waits for the GPU in a step."""
    import torch

    def base(cls):
        class Counting(cls):
            def before_train_step(self):
                if 4 <= self.step < 9:
                    torch.cuda.set_sync_debug_mode("warn")
                super().before_train_step()

            def after_train_step(self):
                super().after_train_step()
                torch.cuda.set_sync_debug_mode("default")

            def fit(self):
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    super().fit()
                places = [w for w in caught if "called a synchron" in str(w.message)]
                counts.append(len(places) / 5)
                for w in {f"{w.filename}:{w.lineno}" for w in places}:
                    print(f"  waits at {w}")

        return Counting

    return base


class Killed(Exception):
    """Stands for the end of a process."""


def dying(cls):
    """Return a trainer that dies two steps after its checkpoint."""

    class Dying(cls):
        def before_train_step(self):
            if self.step == 6:
                raise Killed
            super().before_train_step()

    return Dying


def resumes_exactly(spec, folder):
    """Return whether a killed run, started again, ends with the same weights."""
    import torch

    def made(name, base=None):
        exact = {"deterministic": True}
        found = trainer(spec, folder, 8, base=base, hardware=exact)
        found.config.log.run = name
        found.config.log.checkpoint.every_n_steps = 4
        return found

    whole = run(made("whole"))
    with contextlib.suppress(Killed):
        run(made("killed", dying))
    again = run(made("killed"))
    a, b = whole.state_dict(), again.state_dict()
    resumed = "resumed at" in (again.run_dir / "console.log").read_text()
    return resumed and all(torch.equal(a[name], b[name]) for name in a)


def training(figures, args):
    """Time the trainings: eager first, then exactness, then compiled."""
    import torch

    from stable_ssl.data import register_dataset

    register_dataset("noise")(noise)
    gpu = torch.cuda.is_available()
    folder, specs = tempfile.mkdtemp(), trainings(args.dry)
    steps, every = (2, 1) if args.dry else (60, 10)
    baseline = {}
    for name, spec in specs.items():
        if gpu:  # the kernels are built and chosen by the first run
            counts = []
            run(trainer(spec, folder, 12, base=counting(counts), every=12))
            figures.add(f"{name}, synchronisations a step", counts[0])
            torch.cuda.reset_peak_memory_stats()
        found = speed(trainer(spec, folder, steps, every=every))
        before = speed(trainer(spec, folder, steps, every=every, base=prepared))
        baseline[name] = found["images/s"]
        found["of prepared"] = found["images/s"] / before["images/s"]
        figures.add(name, found)
        made = run(trainer(spec, folder, steps, mode="profile_model"))
        parts = json.loads((made.run_dir / "profile_model.json").read_text())["ms"]
        core = sum(parts[part] for part in ("forward", "backward", "optimizer"))
        whole = sum(parts.values())
        figures.add(f"{name}, ms", {**parts, "outside, share": 1 - core / whole})
    first = specs["SimCLR ResNet-18"]
    figures.add("SimCLR ResNet-18 resumes to the bit", resumes_exactly(first, folder))
    if args.dry:
        return
    on = {"compile": True}
    ways = {"loss and views": {"hardware": on, "data": on}}
    ways |= {"views": {"data": on}, "loss": {"hardware": on}}
    for what, options in ways.items():
        for name, spec in specs.items():
            start = time.monotonic()
            found = speed(trainer(spec, folder, steps, every=every, **options))
            found["of eager"] = found["images/s"] / baseline[name]
            found["seconds"] = time.monotonic() - start
            figures.add(f"{name}, {what} compiled", found)


# --- CIFAR-10 -------------------------------------------------------------------------


def toy_cifar(folder):
    """Write an archive of a few generated images; return its path."""
    from PIL import Image

    archive = folder / "toy.tar.xz"
    with tarfile.open(archive, "w:xz") as file:
        for split, n in (("train", 64), ("test", 32)):
            for i, image in enumerate(noise(n=n).images):
                path = folder / f"{i}.png"
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
                file.add(path, f"{split}/{i % 10}/{i}.png")
    return archive


def cifar(figures, args):
    """Train a recipe for as many epochs as fit; its last figures."""
    folder = Path(tempfile.mkdtemp())
    source = toy_cifar(folder) if args.dry else args.cifar
    if source is None:
        figures.add("skipped", "no --cifar")
        return
    if source.is_file():
        start = time.monotonic()
        with tarfile.open(source) as archive:
            archive.extractall(folder / "images", filter="data")
        source = folder / "images"
        figures.add("seconds to unpack", time.monotonic() - start)
    from stable_ssl import load_config
    from stable_ssl.methods import method_class

    def train(length):
        words = [f"log.folder={folder}", "log.eval.every_n_epochs=null"]
        words += ["log.checkpoint.every_n_epochs=null", "log.pictures=null"]
        words += [*length, f"data.root={source}"]
        for split in ("train", "val"):
            words.append(f"data.{split}.dataset.name=image_folder")
        if args.dry:
            words += ["data.batch_size=16", "data.eval_batch_size=16"]
            words += ["model.backbone.name=convnet", "~model.backbone.stem"]
            words += ["hardware.precision=float32", "log.eval.knn.k=5"]
        config = load_config(args.recipe, [*words, *args.overrides])
        with open(args.out / "cifar.log", "a") as log:
            with contextlib.redirect_stdout(log):
                made, start = method_class(config.model.name)(config), time.monotonic()
                made.run()
        lines = (made.run_dir / "metrics.jsonl").read_text().splitlines()
        (args.out / "cifar.jsonl").write_text("\n".join(lines) + "\n")
        return made, time.monotonic() - start, [json.loads(line) for line in lines]

    trial = ["optim.epochs=null", "optim.steps=2" if args.dry else "optim.steps=60"]
    made, first, rows = train([*trial, "log.every_n_steps=10"])
    figures.add("seconds of a run of some steps", first)
    warm = [row["perf/images_per_s"] for row in rows if "perf/images_per_s" in row]
    images = made.steps_per_epoch * made.images_per_step
    each = images / (warm[-1] if warm else 1.0)
    figures.add("seconds an epoch, about", each)
    left = args.deadline - time.monotonic() - first - 5
    most = load_config(args.recipe).optim.epochs
    epochs = 1 if args.dry else max(1, min(most, int(0.95 * left / each)))
    made, seconds, rows = train([f"optim.epochs={epochs}"])
    last = {k: v for row in rows for k, v in row.items()}
    figures.add("recipe", " ".join([args.recipe, *args.overrides]))
    figures.add("epochs", epochs)
    figures.add("seconds", seconds)
    for name in ("train/loss", "val/knn_acc1", "val/acc1", "perf/images_per_s"):
        figures.add(name, last[name])


# --- all of them ----------------------------------------------------------------------

PARTS = {
    "tests": tests,
    "augmentation": augmentation,
    "training": training,
    "cifar": cifar,
}


def machine():
    """Return what is measured on."""
    import torch

    gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if gpu else "CPU",
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "time": time.strftime("%Y-%m-%d"),
    }


def installed(wheels):
    """Install the library and a folder of wheels to a temporary one; return it."""
    target = tempfile.mkdtemp()
    line = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    line += ["--no-build-isolation", "--target", target, ROOT]
    subprocess.run([*line, *sorted(wheels.glob("*.whl"))], check=True)
    return target


def main():
    """Run the parts one after the other, each in a process; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--cifar", type=Path, help="archive or folder of images")
    parser.add_argument("--recipe", default="simclr_cifar10_sgd")
    parser.add_argument("--overrides", nargs="*", default=[], help="of the recipe")
    parser.add_argument("--wheels", type=Path, help="folder of what is not installed")
    parser.add_argument("--dry", action="store_true", help="toy sizes, on a CPU")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part:
        PARTS[args.part](Figures(args.out / f"{args.part}.json"), args)
        return
    end = time.monotonic() + 60 * args.minutes
    environ = dict(os.environ)
    if args.wheels:
        path = [installed(args.wheels), os.environ.get("PYTHONPATH")]
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    if args.dry:
        environ["CUDA_VISIBLE_DEVICES"] = ""
    whole = {"machine": machine()}
    print(shown(whole["machine"]), flush=True)
    for part in args.parts:
        start = time.monotonic()
        limit = min(60 * MINUTES[part], end - start)
        deadline = start + limit
        line = [sys.executable, __file__, *sys.argv[1:], "--part", part]
        print(f"{part} ({limit:.0f} s at most)", flush=True)
        status = "in time"
        try:
            done = subprocess.run(
                [*line, "--deadline", str(deadline)], env=environ, timeout=max(limit, 1)
            )
            status = f"exit code {done.returncode}" if done.returncode else status
        except subprocess.TimeoutExpired:
            status = "out of time"
        file = args.out / f"{part}.json"
        whole[part] = json.loads(file.read_text()) if file.exists() else {}
        whole[part]["status"] = status
        whole[part]["wall seconds"] = round(time.monotonic() - start, 1)
        (args.out / "gpu.json").write_text(json.dumps(whole, indent=1) + "\n")
    for part in args.parts:
        print(f"\n{part}: {whole[part]['status']}, {whole[part]['wall seconds']} s")
        for name, value in whole[part].items():
            if name not in ("status", "wall seconds"):
                print(f"  {name:42} {shown(value)}")


if __name__ == "__main__":
    main()
