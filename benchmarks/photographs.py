"""Microseconds an image, from JPEG files to batches of two SimCLR views of 224 pixels.

Ours, torchvision on PIL images and, where it is installed, lightly, each by its own
folder dataset and with `--workers` processes, in one run by turns, without a model.
Reading and decoding alone is the least that anybody needs. The policy is the same:
crop, flip, jitter .8 .8 .8 .2, grey, blur, normalize; the files are 500 x 375 pixels,
cut out of scikit-learn's photographs.

    python benchmarks/photographs.py
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measured import Measured, paired, run
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import datasets
from torchvision import transforms as t

from stable_ssl import load_config
from stable_ssl.data import build_loader
from stable_ssl.memory import keep_freed

BATCH, IMAGES = 64, 640
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
OPS = [
    {"name": "random_resized_crop", "size": 224},
    {"name": "horizontal_flip"},
    {"name": "color_jitter", "brightness": 0.8, "contrast": 0.8}
    | {"saturation": 0.8, "hue": 0.2, "p": 0.8},
    {"name": "grayscale", "p": 0.2},
    {"name": "gaussian_blur", "kernel_size": 23, "p": 0.5},
    {"name": "normalize", "mean": MEAN, "std": STD},
]


def write_photographs(root):
    """Write JPEG files of two classes."""
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        photo, width = photos[i % 2], int(rng.integers(320, 560))
        height = width * 3 // 4
        x, y = (
            int(rng.integers(0, side - cut + 1))
            for side, cut in zip(photo.size, (width, height), strict=True)
        )
        path = root / "photos" / str(i % 2) / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cut = photo.crop((x, y, x + width, y + height))
        cut.resize((500, 375)).save(path, quality=90)


def ours(root, workers):
    """Return the loader of a run with these data."""
    data = load_config("base").data
    data.root, data.num_workers, data.batch_size = str(root), workers, BATCH
    dataset = {"name": "image_folder", "root": "photos", "image_transform": [OPS, OPS]}
    node = {"dataset": dataset}
    return build_loader(node, data, train=True, seed=0, device=torch.device("cpu"))


def of_others(dataset, workers):
    """Return torch's loader, as the README of either library sets it up."""
    kept = {"persistent_workers": True} if workers else {}
    return torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=True, drop_last=True, num_workers=workers, **kept
    )


def two_views(transform):
    """Return a transform that calls another twice."""
    return lambda image: [transform(image), transform(image)]


def torchvision(root, workers):
    """Return torchvision's loader."""
    view = t.Compose(
        [
            t.RandomResizedCrop(224),
            t.RandomHorizontalFlip(),
            t.RandomApply([t.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
            t.RandomGrayscale(0.2),
            t.RandomApply([t.GaussianBlur(23, (0.1, 2.0))], 0.5),
            t.ToTensor(),
            t.Normalize(MEAN, STD),
        ]
    )
    return of_others(datasets.ImageFolder(root / "photos", two_views(view)), workers)


def lightly(root, workers):
    """Return lightly's loader; its blur is PIL's."""
    from lightly.data import LightlyDataset
    from lightly.transforms import SimCLRTransform

    transform = SimCLRTransform(224, cj_strength=1.0)
    return of_others(LightlyDataset(str(root / "photos"), transform), workers)


def decoding(root, workers):
    """Return a loader that decodes, and does nothing else."""

    def decode(image):
        image.load()
        return 0

    return of_others(datasets.ImageFolder(root / "photos", decode), workers)


def seconds_an_image(loader, epoch):
    """Read an epoch; return the seconds of an image."""
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)
    start, images = time.perf_counter(), 0
    for _ in loader:
        images += BATCH
    return (time.perf_counter() - start) / images


def measure(workers, rounds):
    """Yield ours beside each of the others, and beside decoding alone."""
    keep_freed()  # as a run does
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder))
        loaders = {}
        for contender in (ours, torchvision, lightly, decoding):
            try:
                found = contender(Path(folder), workers)
            except ImportError:
                continue
            loaders[contender.__name__] = found
            seconds_an_image(found, 0)  # starts the workers
        times = {name: [] for name in loaders}
        for epoch in range(1, rounds + 1):
            for name, loader in loaders.items():
                times[name].append(1e6 * seconds_an_image(loader, epoch))
    own = times.pop("ours")
    for name, theirs in times.items():
        what, headline = "photographs to two views of 224 px", name != "decoding"
        middle, ahead = statistics.median(own), paired(theirs, own)
        yield Measured(what, middle, "us an image", name, ahead, headline)


if __name__ == "__main__":
    run(measure, __doc__, workers=2, rounds=5)
