"""SimCLR on remote-sensing tiles: TIFF files of 16 bits and 12 bands, a folder a class.

python runs/tutorials/tiles.py data.root=tiles
"""

import stable_ssl
from stable_ssl import SimCLR, seeding


@stable_ssl.data.register_op("drop_bands")
def drop_bands(x, keys, p=0.2):  # x (N, bands, H, W) in [0, 1]
    kept = seeding.uniform(keys, (x.shape[1],)) >= p
    return x * kept[:, :, None, None]


if __name__ == "__main__":
    stable_ssl.launch(SimCLR, config_name="tiles")
