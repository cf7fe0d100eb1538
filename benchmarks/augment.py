"""Microseconds per image and view: ours, torchvision, kornia and albumentations.

    pip install -e ".[peers]"
    python benchmarks/augment.py  # on a CPU; benchmarks/gpu.py is for a GPU

All take turns in one thread, so that a noisy machine slows them alike; a figure is the
median over the rounds, a ratio that of the ratios of the same round. They start from
decoded photographs in the form that suits each and end with a normalized float32 batch:
torch.stack is part of the time of those that take single images.

The policies: crops are bilinear with an aspect within 3/4 and 4/3, flips have p .5,
jitter (of brightness, contrast, saturation, hue) p .8, grey p .2, and blurs a sigma
within .1 and 2. A view ends with normalize.

- SimCLR: crop .08-1, flip, jitter .8 .8 .8 .2, grey, blur p .5.
- BYOL: crop .08-1, flip, jitter .4 .4 .2 .1, grey; then blur in one view, and blur
  p .1 and solarize p .2 in the other. Printed is the mean of the two.
- DINO: two global views as BYOL's but of crops .4-1, and six local ones of crops .05-.4
  with blur p .5 and no solarize. Printed is the mean of the eight.

Views of 32 pixels are made of images of 32 (DINO's local ones have 16) with a blur
kernel of 3, a tenth of the side; those of 224 of images of 256 (local ones 96), with
one of 23. The work is equal but that kornia and albumentations crop without antialias,
albumentations computes in bytes, and kornia jitters a whole batch in one order.
"""

import os
import time
from functools import partial
from itertools import count, product

import numpy as np
import torch
from measured import Measured, paired, run
from PIL import Image
from sklearn.datasets import load_sample_images

from stable_ssl.augment import View, build_ops
from stable_ssl.memory import keep_freed
from stable_ssl.seeding import sample_keys

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
STRONG = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
WEAK = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
WHOLE, GLOBAL, LOCAL = (0.08, 1.0), (0.4, 1.0), (0.05, 0.4)
POLICIES = {  # views: how many, their side and crop, jitter, p of blur and of solarize
    "SimCLR": [(1, "size", WHOLE, STRONG, 0.5, 0)],
    "BYOL": [(1, "size", WHOLE, WEAK, 1.0, 0), (1, "size", WHOLE, WEAK, 0.1, 0.2)],
    "DINO": [
        (1, "size", GLOBAL, WEAK, 1.0, 0),
        (1, "size", GLOBAL, WEAK, 0.1, 0.2),
        (6, "local", LOCAL, WEAK, 0.5, 0),
    ],
}
SETTINGS = [
    {"source": 32, "size": 32, "local": 16, "kernel": 3},
    {"source": 256, "size": 224, "local": 96, "kernel": 23},
]


def view_ops(side, kernel, scale, jitter, blur, solarize):
    """Return a view's ops as the library reads them."""
    ops = [
        {"name": "random_resized_crop", "size": [side, side], "scale": scale},
        {"name": "horizontal_flip", "p": 0.5},
        {"name": "color_jitter", **jitter, "p": 0.8},
        {"name": "grayscale", "p": 0.2},
        {"name": "gaussian_blur", "kernel_size": [kernel, kernel], "p": blur},
        {"name": "solarize", "p": solarize},
        {"name": "normalize", "mean": MEAN, "std": STD},
    ]
    return [op for op in ops if op.get("p") != 0]


def photographs(n, size):
    """Cut n squares out of scikit-learn's photographs: (n, 3, size, size) uint8."""
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    rng, squares = np.random.default_rng(0), []
    for i in range(n):
        photo, side = photos[i % len(photos)], int(rng.integers(128, 428))
        x, y = (int(rng.integers(0, extent - side + 1)) for extent in photo.size)
        square = photo.crop((x, y, x + side, y + side)).resize((size, size))
        squares.append(torch.from_numpy(np.array(square)))
    return torch.stack(squares).permute(0, 3, 1, 2).contiguous()


# --- the contenders: from ops and images to a call that makes a view of each ----------


def translate(ops, table):
    """Build the ops by a peer's constructors."""
    ops = [dict(op) for op in ops]
    return [table[op.pop("name")](**op) for op in ops]


def ours(ops, images):
    """Batched; drawn from the key of each image."""
    view, epochs = View(build_ops(ops)), count()
    index = torch.arange(len(images), device=images.device)
    return lambda: view(images, sample_keys(0, next(epochs), index, 0))


def torchvision(ops, images, version, floats):
    """Image by image: version 1 on PIL, version 2 on tensors, as bytes or floats."""
    from torchvision import transforms as v1
    from torchvision.transforms import v2

    t, to_float = v2, v2.ToDtype(torch.float32, scale=True)
    if version == 1:
        t, to_float = v1, v1.ToTensor()
        images = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in images]

    def sometimes(transform):
        return lambda p, **kwargs: t.RandomApply([transform(**kwargs)], p)

    table = {
        "random_resized_crop": t.RandomResizedCrop,
        "horizontal_flip": t.RandomHorizontalFlip,
        "color_jitter": sometimes(t.ColorJitter),
        "grayscale": t.RandomGrayscale,
        "gaussian_blur": sometimes(t.GaussianBlur),
        "solarize": partial(t.RandomSolarize, 0.5 if floats else 128),
        "normalize": t.Normalize,
    }
    steps = translate(ops, table)
    steps.insert(0 if floats else -1, to_float)
    view = t.Compose(steps)
    return lambda: torch.stack([view(image) for image in images])


def kornia(ops, images):
    """Batched; crops by resampling, the faster of its two modes here."""
    from kornia import augmentation as k

    table = {
        "random_resized_crop": partial(k.RandomResizedCrop, cropping_mode="resample"),
        "horizontal_flip": k.RandomHorizontalFlip,
        "color_jitter": k.ColorJitter,
        "grayscale": k.RandomGrayscale,
        "gaussian_blur": partial(k.RandomGaussianBlur, sigma=(0.1, 2.0)),
        "solarize": partial(k.RandomSolarize, (0.5, 0.5), 0.0),
        "normalize": k.Normalize,
    }
    view = k.AugmentationSequential(*translate(ops, table), data_keys=["input"])
    view.to(images.device)
    return lambda: view(images.float() / 255)


def albumentations(ops, images):
    """Image by image, on arrays of bytes."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # importing it asks the network
    import albumentations as a
    import cv2
    from albumentations.pytorch import ToTensorV2

    cv2.setNumThreads(0)

    def blur(kernel_size, p):
        return a.GaussianBlur(tuple(kernel_size), (0.1, 2.0), p)

    table = {
        "random_resized_crop": a.RandomResizedCrop,
        "horizontal_flip": a.HorizontalFlip,
        "color_jitter": a.ColorJitter,
        "grayscale": a.ToGray,
        "gaussian_blur": blur,
        "solarize": a.Solarize,
        "normalize": a.Normalize,
    }
    view = a.Compose([*translate(ops, table), ToTensorV2()])
    arrays = list(images.permute(0, 2, 3, 1).contiguous().numpy())
    return lambda: torch.stack([view(image=array)["image"] for array in arrays])


CONTENDERS = {
    "ours": ours,
    "torchvision v1, PIL": partial(torchvision, version=1, floats=False),
    "torchvision v2, uint8": partial(torchvision, version=2, floats=False),
    "torchvision v2, float": partial(torchvision, version=2, floats=True),
    "kornia": kornia,
    "albumentations": albumentations,
}


def seconds(make):
    """Time one call."""
    start = time.perf_counter()
    make()
    return time.perf_counter() - start


def times(images, setting, views, rounds):
    """Return the seconds a batch of each contender that is installed, by rounds."""
    spent = {}
    for n, side, *rest in views:
        share = n / sum(n for n, *_ in views)
        ops, makes = view_ops(setting[side], setting["kernel"], *rest), {}
        for name, contender in CONTENDERS.items():
            try:
                makes[name] = contender(ops, images)
            except ImportError:
                continue
        for turn, (name, make) in product(range(rounds + 1), makes.items()):
            total = spent.setdefault(name, np.zeros(rounds + 1))
            total[turn] += share * seconds(make)
    return {name: total[1:] for name, total in spent.items()}  # the first warms up


def measure(rounds, batches):
    """Yield ours beside each of the others."""
    torch.set_num_threads(1)
    keep_freed()  # as a run does
    for setting, batch in zip(SETTINGS, batches, strict=True):
        images = photographs(batch, setting["source"])
        for policy, views in POLICIES.items():
            spent = times(images, setting, views, rounds)
            own, what = spent.pop("ours") / batch * 1e6, f"a view, {policy}"
            what = f"{what}, {setting['source']} to {setting['size']} px"
            for name, theirs in spent.items():
                headline = policy == "SimCLR" and "v2" not in name
                middle, ahead = float(np.median(own)), paired(theirs / batch * 1e6, own)
                yield Measured(what, middle, "us", name, ahead, headline)


if __name__ == "__main__":
    run(measure, __doc__, rounds=5, batches=[256, 64])
