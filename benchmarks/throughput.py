"""Images/s of SimCLR, end to end, beside the same steps on views made beforehand.

Noise of 32 pixels, batch 256, the convnet, and one of a quarter of its width that
leaves most of the time to the data; torch's threads; the same policy, model and loss
for all. Ours in a bare loop and as the trainer that a recipe runs, with rows and probe;
torchvision and lightly in the bare loop, on PIL images, with two workers. All take
turns, so that a noisy machine slows them alike. On a CPU; benchmarks/gpu.py is for a
GPU.

    python benchmarks/throughput.py
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measured import Measured, paired, run
from PIL import Image

from stable_ssl import SimCLR, load_config
from stable_ssl.augment import build_ops
from stable_ssl.data import Loader
from stable_ssl.data.datasets import Images
from stable_ssl.loggers.console import Console
from stable_ssl.losses import nt_xent
from stable_ssl.memory import keep_freed
from stable_ssl.models import backbone, mlp

BATCH, SIDE, WORKERS = 256, 32, 2
MODELS = {  # backbone, batches of a round
    "light convnet": ({"name": "convnet", "width": 8}, 20),
    "convnet": ({"name": "convnet"}, 4),
}
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
OPS = [
    {"name": "random_resized_crop", "size": SIDE, "scale": [0.08, 1.0]},
    {"name": "color_jitter", **JITTER, "p": 0.8},
    {"name": "grayscale", "p": 0.2},
    {"name": "horizontal_flip", "p": 0.5},
    {"name": "normalize", "mean": MEAN, "std": STD},
]


class OfImages(torch.utils.data.Dataset):
    """Two views of each image by a transform of PIL images."""

    def __init__(self, pixels, transform):
        self.arrays = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.transform = transform

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.arrays[index])), 0


def ours(pixels):
    """Return the library's loader."""
    data = Images(pixels, torch.zeros(len(pixels)).long(), 1)
    views = [build_ops(OPS), build_ops(OPS)]
    return Loader(data, views, batch_size=BATCH, shuffle=True, channels_last=True)


def of_others(pixels, transform):
    """Return torch's loader, as the README of either library sets it up."""
    return torch.utils.data.DataLoader(
        OfImages(pixels, transform),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
        persistent_workers=True,
    )


def torchvision(pixels):
    """Return a loader of torchvision's transforms."""
    from torchvision import transforms as t

    view = t.Compose(
        [
            t.RandomResizedCrop(SIDE),
            t.RandomApply([t.ColorJitter(**JITTER)], 0.8),
            t.RandomGrayscale(0.2),
            t.RandomHorizontalFlip(),
            t.ToTensor(),
            t.Normalize(MEAN, STD),
        ]
    )
    return of_others(pixels, lambda image: [view(image), view(image)])


def lightly(pixels):
    """Return a loader of lightly's transform."""
    from lightly.transforms import SimCLRTransform

    normalize = {"mean": MEAN, "std": STD}
    changes = {"cj_strength": 0.5, "gaussian_blur": 0.0, "normalize": normalize}
    return of_others(pixels, SimCLRTransform(SIDE, **changes))


def bare_loop(spec):
    """Return what takes a step on each batch of a loader."""
    encoder = backbone(spec)
    model = torch.nn.Sequential(encoder, mlp(encoder.dim, 512, 128))
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def train(batches):
        for views, _ in batches:
            a, b = (x.to(memory_format=torch.channels_last) for x in views)
            nt_xent(model(a), model(b)).backward()
            optimizer.step()
            optimizer.zero_grad()

    return train


def write_recipe(folder, dataset, view, plain, batch_size, spec):
    """Write a recipe of SimCLR on a dataset, whose root is the folder; return its path.

    Of `view` come the two of training, of `plain` that of evaluations.
    """
    nodes = {
        split: {"dataset": {**dataset, "image_transform": ops}}
        for split, ops in {"train": [view, view], "val": plain}.items()
    }
    recipe = {
        "defaults": ["simclr", {"override data": None}, "_self_"],
        "data": {"root": str(folder), "batch_size": batch_size, **nodes},
        "model": {"backbone": spec},
    }
    path = folder / f"{dataset['name']}.yaml"
    path.write_text(json.dumps(recipe))  # JSON is YAML
    return path


def write_arrays(folder, pixels):
    """Save images, and labels of ten classes; return the dataset."""
    np.save(folder / "images.npy", pixels.permute(0, 2, 3, 1).contiguous().numpy())
    np.save(folder / "labels.npy", np.arange(len(pixels)) % 10)
    return {"name": "array", "images": "images.npy", "labels": "labels.npy"}


def as_trained(pixels, spec, folder):
    """Return a trainer of a recipe, set up for these images."""
    dataset = write_arrays(folder, pixels)
    recipe = write_recipe(folder, dataset, OPS, OPS[-1:], BATCH, spec)
    changes = ["log.eval.every_n_epochs=null", "log.checkpoint.every_n_epochs=null"]
    changes += [f"log.folder={folder}", "log.monitor=null", "optim.epochs=1000"]
    trainer = SimCLR(load_config(recipe, changes))
    trainer.records.console = Console(open(os.devnull, "w"))
    trainer.setup()
    return trainer


def noise(images):
    """Return images of noise: (N, 3, SIDE, SIDE) uint8."""
    generator = torch.Generator().manual_seed(0)
    size = (images, 3, SIDE, SIDE)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


def seconds(work, *arguments):
    """Time one call."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def measure(models, rounds):
    """Yield images/s of each model, beside all others."""
    keep_freed()  # as a run does
    for name in models:
        spec, steps = MODELS[name]
        pixels = noise(BATCH * steps)
        loader, train = ours(pixels), bare_loop(spec)
        with tempfile.TemporaryDirectory() as folder:
            trainer = as_trained(pixels, spec, Path(folder))
            works = {
                "the trainer": (trainer.train_epoch,),
                "ours in a bare loop": (train, loader),
                "views made beforehand": (train, list(loader)),
            }
            for peer in (torchvision, lightly):
                try:
                    works[peer.__name__] = train, peer(pixels)
                except ImportError:
                    continue
            speeds = {who: [] for who in works}
            for epoch in range(rounds + 1):
                loader.set_epoch(epoch)
                for who, (work, *arguments) in works.items():
                    took = seconds(work, *arguments)
                    if epoch:  # the first one warms up
                        speeds[who].append(len(pixels) / took)
            trainer.cleanup()
        own = speeds.pop("the trainer")
        for who, theirs in speeds.items():
            middle, what = statistics.median(own), f"SimCLR, {name}, {SIDE} px"
            ahead = paired(own, theirs)
            headline = name == "light convnet" and who != "ours in a bare loop"
            yield Measured(what, middle, "images/s", who, ahead, headline)


if __name__ == "__main__":
    run(measure, __doc__, models=list(MODELS), rounds=7)
