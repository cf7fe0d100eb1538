"""End-to-end images/s of SimCLR over the same steps on batches made beforehand.

Noise of each model's image size, batch 256, the exact SimCLR policy. Both are timed by
turns in one run, so that a noisy machine slows them alike; printed is the median of
paired ratios. On a CPU; benchmarks/gpu.py is for a GPU.

    python benchmarks/throughput.py
"""

import argparse
import statistics
import time

import torch

from stable_ssl.data import Loader
from stable_ssl.data.augment import build_ops
from stable_ssl.data.datasets import Images
from stable_ssl.losses import nt_xent
from stable_ssl.models import backbone, mlp

BATCH = 256
MODELS = {  # backbone, image size, batches of a round, rounds
    "convnet": ({"name": "convnet"}, 32, 8, 9),
    "resnet18": ({"name": "resnet18", "stem": "cifar"}, 32, 1, 3),
}


def policy(size):
    """Return SimCLR's ops for images of a size."""
    jitter = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    return [
        {"name": "random_resized_crop", "size": size, "scale": [0.2, 1.0]},
        {"name": "horizontal_flip", "p": 0.5},
        {"name": "color_jitter", **jitter, "p": 0.8},
        {"name": "grayscale", "p": 0.2},
        {"name": "normalize", "mean": [0.5] * 3, "std": [0.25] * 3},
    ]


def train(batches, model, optimizer):
    """Take a SimCLR step on each batch; return the seconds it took."""
    start = time.perf_counter()
    for (a, b), _ in batches:
        nt_xent(model(a), model(b)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - start


def main():
    """Print images/s of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    args = parser.parse_args()
    for name in args.models:
        spec, side, steps, rounds = MODELS[name]
        generator = torch.Generator().manual_seed(0)
        size = (BATCH * steps, 3, side, side)
        pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        data = Images(pixels, torch.zeros(len(pixels)).long(), 1)
        views = [build_ops(policy(side)), build_ops(policy(side))]
        loader = Loader(data, views, batch_size=BATCH, shuffle=True, channels_last=True)
        prepared = list(loader)
        encoder = backbone(spec)
        model = torch.nn.Sequential(encoder, mlp(encoder.dim, 512, 128))
        model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        train(prepared, model, optimizer)
        ratios, speeds = [], []
        for epoch in range(rounds):
            loader.set_epoch(epoch)
            beforehand = train(prepared, model, optimizer)
            ratios.append(beforehand / train(loader, model, optimizer))
            speeds.append(len(pixels) / beforehand)
        speed, ratio = statistics.median(speeds), statistics.median(ratios)
        print(
            f"{name:10} prepared {speed:8.0f} images/s   end to end {ratio:.2f} of it"
        )


if __name__ == "__main__":
    main()
