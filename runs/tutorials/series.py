"""SimCLR on time series (channels, samples): own data, own augmentations, own network.

python runs/tutorials/series.py data.root=folder_of_arrays
"""

import torch
from torch import nn

import stable_ssl
from stable_ssl import losses, seeding


@stable_ssl.data.register_op("jitter")  # of a batch (N, C, T), each row by its key
def jitter(x, keys, std):
    return x + std * seeding.normal(keys, tuple(x.shape[1:]))


@stable_ssl.data.register_op("window", per_sample=True)  # of a sample (C, T), by torch
def window(x, length):
    start = int(torch.randint(x.shape[1] - length + 1, ()))
    return x[:, start : start + length]


class SimSeries(stable_ssl.BaseTrainer):
    views = 2

    def initialize_modules(self):
        self.encoder = nn.Sequential(
            nn.Conv1d(2, 32, 7, stride=2), nn.ReLU(), nn.Conv1d(32, 64, 5), nn.ReLU()
        )

    def forward(self, x):  # (N, C, T) -> (N, D)
        return self.encoder(x).mean(2)

    def compute_loss(self):
        (a, b), *_ = self.data
        return losses.nt_xent(self(a), self(b), temperature=0.2)


if __name__ == "__main__":
    stable_ssl.launch(SimSeries, config_name="series")
