"""Images/s of two processes over one, and the share of it spent on one another.

SimCLR on CIFAR-shaped noise, the same batch for each process, one thread each, views
made beforehand. Three timings in one run: a process alone; two at once that know
nothing of each other; two that train one model (gradients, batch statistics and
features exchanged). What exchange and waiting cost is the difference of the last two.

    python benchmarks/ranks.py
"""

import argparse
import statistics
import time

import torch

from stable_ssl import distributed
from stable_ssl.distributed.config import Hardware
from stable_ssl.losses import nt_xent
from stable_ssl.models import backbone, mlp
from stable_ssl.models.norm import convert_sync_batchnorm

BATCH = 128  # images of a process
HARDWARE = Hardware(gpus=0, accelerator="cpu")
MODELS = {
    "convnet": ({"name": "convnet"}, 10),
    "resnet18": ({"name": "resnet18", "stem": "cifar"}, 2),
}


def speed(name, together):
    """Return the images/s of this process."""
    spec, steps = MODELS[name]
    torch.manual_seed(0)
    views = [torch.randn(BATCH, 3, 32, 32) for _ in range(2)]
    views = [view.to(memory_format=torch.channels_last) for view in views]
    encoder = backbone(spec)
    model = torch.nn.Sequential(encoder, mlp(encoder.dim, 512, 128))
    model.to(memory_format=torch.channels_last)

    def loss():
        return nt_xent(*(model(view) for view in views))

    if together:
        convert_sync_batchnorm(model, torch.device("cpu"))
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)

    def train(steps):
        for _ in range(steps):
            loss().backward()
            if together:
                distributed.average_gradients(parameters)
            optimizer.step()
            optimizer.zero_grad()

    train(1)
    start = time.perf_counter()
    train(steps)
    return BATCH * steps / (time.perf_counter() - start)


def rank(name, rounds):
    """Time both ways by turns; return rank 0's images/s of each, by round."""
    torch.set_num_threads(1)
    apart, joined = [], []
    for _ in range(rounds):
        distributed.start(HARDWARE)
        joined.append(speed(name, together=True))
        distributed.barrier()
        distributed.stop()
        apart.append(speed(name, together=False))
    return apart, joined


def main():
    """Print a line a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.models:
        alone = statistics.median(speed(name, False) for _ in range(args.rounds))
        apart, joined = distributed.spawn(rank, 2, (name, args.rounds))
        shares = [1 - j / a for j, a in zip(joined, apart, strict=True)]
        print(
            f"{name:10} one process {alone:6.0f} images/s   two, apart"
            f" {2 * statistics.median(apart) / alone:.2f} of it   two, as one"
            f" {2 * statistics.median(joined) / alone:.2f}   spent on one another"
            f" {statistics.median(shares):.0%}"
        )


if __name__ == "__main__":
    main()
