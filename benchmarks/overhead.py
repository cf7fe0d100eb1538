"""Microseconds that BaseTrainer adds to a step, over the same bare loop, in one run.

A tiny model (Linear 32 to 32, batch 8, SGD), so that nothing hides the loop. Rounds of
both alternate, so that a noisy machine slows them alike; the median of the paired
differences is printed.

    python benchmarks/overhead.py
"""

import os
import statistics
import tempfile
import time
import warnings

import torch
from torch import nn

from stable_ssl import BaseTrainer, load_config
from stable_ssl.loggers.console import Console

STEPS, ROUNDS = 2000, 15


class TinyTrainer(BaseTrainer):
    """The bare loop's model in the trainer."""

    def initialize_data(self):
        """Serve batches that are there already."""
        self.loaders, self.num_classes = {}, None
        self.train_loader = batches()

    def initialize_modules(self):
        """Build the layer."""
        self.layer = nn.Linear(32, 32)

    def forward(self, x):
        """Apply the layer."""
        return self.layer(x)

    def compute_loss(self):
        """Return the mean square error."""
        x, y = self.data
        return (self(x) - y).square().mean()

    def fit(self):
        """Leave the training to the benchmark."""


def batches():
    """Return STEPS batches of 8 samples; noise, for a solved problem has denormals."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 100, 8, 32, generator=generator)
    return list(zip(x, y, strict=True)) * (STEPS // 100)


def bare(layer, optimizer, data):
    """Train with the shortest loop that torch allows."""
    for x, y in data:
        loss = (layer(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def main():
    """Print the cost of a bare step, of a trainer's step, and the difference."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(
            "base",
            [
                f"log.folder={folder}",
                "log.monitor=null",
                "log.every_n_steps=50",
                "log.checkpoint.every_n_epochs=null",
                "optim.epochs=100",
                "optim.lr=1e-3",
                "optim.weight_decay=0",
            ],
        )
        trainer = TinyTrainer(config)
        trainer.records.console = Console(open(os.devnull, "w"))
        trainer.setup()
        layer = nn.Linear(32, 32)
        optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3, momentum=0.9)
        differences, references = [], []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            bare(layer, optimizer, trainer.train_loader)
            middle = time.perf_counter()
            trainer.train_epoch()
            end = time.perf_counter()
            references.append((middle - start) / STEPS * 1e6)
            differences.append((end - middle) / STEPS * 1e6 - references[-1])
        trainer.cleanup()
    reference, overhead = statistics.median(references), statistics.median(differences)
    print(f"bare loop     {reference:6.1f} us a step")
    print(f"BaseTrainer   {reference + overhead:6.1f} us a step")
    print(
        f"overhead      {overhead:6.1f} us a step, {1 + overhead / reference:.2f} times"
    )


if __name__ == "__main__":
    main()
