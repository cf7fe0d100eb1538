"""SimCLR on small volumes (1, D, H, W), float32 of any range.

python runs/tutorials/volume.py data.root=folder_of_arrays
"""

from torch import nn

import stable_ssl
from stable_ssl import losses, seeding


@stable_ssl.data.register_op("flip_axes")  # of a batch, each volume by its key
def flip_axes(x, keys):
    flips = seeding.uniform(keys, (3,)) < 0.5
    for axis, flip in enumerate(flips.unbind(1), 2):
        x = x.flip(axis).where(flip[:, None, None, None, None], x)
    return x


@stable_ssl.data.register_op("intensity")
def intensity(x, keys, amount):
    scale = seeding.uniform(keys, (1, 1, 1, 1), 1 - amount, 1 + amount)
    return x * scale


class SimVolume(stable_ssl.BaseTrainer):
    views = 2

    def initialize_modules(self):
        self.encoder = nn.Sequential(
            nn.Conv3d(1, 16, 3, stride=2), nn.ReLU(), nn.Conv3d(16, 32, 3), nn.ReLU()
        )

    def forward(self, x):  # (N, 1, D, H, W) -> (N, features)
        return self.encoder(x).mean((2, 3, 4))

    def compute_loss(self):
        (a, b), *_ = self.data
        return losses.nt_xent(self(a), self(b), temperature=0.2)


if __name__ == "__main__":
    stable_ssl.launch(SimVolume, config_name="volume")
