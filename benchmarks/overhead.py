"""Microseconds that BaseTrainer and its defaults add to a step of the same bare loop.

A tiny model (Linear 32 to 32, batch 8, ten classes, SGD), so that nothing hides the
loop. CPU time of one thread. In each round all cases take turns, so that a noisy
machine slows them alike; each figure is the median of the differences from the bare
loop of the same round.

    python benchmarks/overhead.py
"""

import os
import statistics
import tempfile
import time
import warnings

import torch
from measured import Measured, run
from torch import nn

from stable_ssl import BaseTrainer, load_config
from stable_ssl.loggers.console import Console

STEPS, ROWS = 1000, 50


class TinyTrainer(BaseTrainer):
    """The bare loop's model in the trainer."""

    hands_over = False  # features to the probe

    def initialize_data(self):
        """Serve batches that are there already."""
        self.train_loader, self.num_classes = batches(), 10
        self.loaders = {"val": self.train_loader[:1]}

    def initialize_modules(self):
        """Build the layer."""
        self.layer = nn.Linear(32, 32)

    def forward(self, x):
        """Apply the layer."""
        return self.layer(x)

    def compute_loss(self):
        """Return the mean square, and what it is of."""
        features = self(self.data[0])
        loss = features.square().mean()
        return {"loss": loss, "features": features} if self.hands_over else loss

    def fit(self):
        """Leave the training to the benchmark."""


def batches():
    """Return STEPS batches of 8 samples; noise, for a solved problem has denormals."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 8, 32, generator=generator)
    y = torch.randint(10, (100, 8), generator=generator)
    return list(zip(x, y, strict=True)) * (STEPS // 100)


def bare(layer, optimizer, data):
    """Train with the shortest loop that torch allows."""
    for x, _ in data:
        loss = layer(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


CASES = {  # whether rows are written, a probe trained, and features handed over to it
    "the trainer": (False, False, False),
    "its rows, too": (True, False, False),
    "rows and probe": (True, True, True),
    "rows and probe, which encodes": (True, True, False),
}


def measure(rounds):
    """Yield the cost of a bare step, and what each case adds."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(
            "base",
            [
                f"log.folder={folder}",
                "log.monitor=null",
                "log.eval.every_n_epochs=null",
                "log.checkpoint.every_n_epochs=null",
                f"optim.epochs={10 * rounds * len(CASES)}",
                "optim.lr=1e-5",
                "optim.weight_decay=0",
            ],
        )
        trainer = TinyTrainer(config)
        trainer.records.console = Console(open(os.devnull, "w"))
        trainer.setup()
        online = trainer.evaluation.online
        layer = nn.Linear(32, 32)
        optimizer = torch.optim.SGD(layer.parameters(), lr=1e-5, momentum=0.9)

        def cost(loop, *arguments):
            start = time.process_time()
            loop(*arguments)
            return (time.process_time() - start) / STEPS * 1e6

        references, added = [], {name: [] for name in CASES}
        for _ in range(rounds):
            references.append(cost(bare, layer, optimizer, trainer.train_loader))
            for name, (rows, probe, hands_over) in CASES.items():
                trainer.settings.every_n_steps = ROWS if rows else 2**62
                trainer.evaluation.online = online if probe else {}
                trainer.hands_over = hands_over
                added[name].append(cost(trainer.train_epoch) - references[-1])
        trainer.cleanup()
    yield Measured("a step of a bare loop", statistics.median(references), "us")
    for name, differences in added.items():
        yield Measured(f"added by {name}", statistics.median(differences), "us")


if __name__ == "__main__":
    run(measure, __doc__, rounds=15)
