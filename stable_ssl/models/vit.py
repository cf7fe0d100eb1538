"""ViT: a vision transformer whose patches can be left out.

Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929; fixed positions and the
treatment of visible patches as in MAE, He et al. 2022, https://arxiv.org/abs/2111.06377.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_ssl.config import ConfigError

POOLS = ("token", "mean")


def positions(
    grid: int, dim: int, rows: int | None = None, columns: int | None = None
) -> Tensor:
    """Return fixed sine-cosine codes of a grid of patches, (L, dim) float32.

    Row by row; half of a code is the row's and half the column's, each of dim / 4
    wavelengths from 2 pi to 10,000 x 2 pi patches: Vaswani et al. 2017,
    https://arxiv.org/abs/1706.03762, section 3.5, in two dimensions.

    Args:
        grid: patches along a side of the training image.
        dim: a multiple of 4.
        rows: patches of the image at hand along its height; null: grid. Fewer are
            stretched to the same extent, as a resized image is.
        columns: likewise, along its width.

    Raises:
        ConfigError: dim is not a multiple of 4.
    """
    if dim % 4:
        raise ConfigError(f"positions of dim={dim}; use a multiple of 4")
    rate = 10_000 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    codes = []
    for n in (rows or grid, columns or grid):
        centre = (torch.arange(n, dtype=torch.float64) + 0.5) * grid / n - 0.5
        angle = centre[:, None] * rate
        codes.append(torch.cat([angle.sin(), angle.cos()], 1))
    row, column = codes
    row = row[:, None].expand(-1, len(column), -1)
    column = column[None].expand(len(row), -1, -1)
    return torch.cat([row, column], 2).flatten(0, 1).float()


def take(x: Tensor, index: Tensor) -> Tensor:
    """Return the tokens of x (N, L, D) at index (N, k) int64, (N, k, D)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


class Block(nn.Module):
    """Attention, then a perceptron, each added to its input and normalised before.

    Args:
        dim: D of the tokens (N, L, D).
        heads: of the attention; divides dim.
        mlp_ratio: hidden width of the perceptron, in dims.

    Raises:
        ConfigError: heads does not divide dim.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4):
        super().__init__()
        if dim % heads:
            raise ConfigError(f"dim={dim} is not divisible by heads={heads}")
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N, L, D) to (N, L, D)."""
        x = x + self._attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor) -> Tensor:
        n, length, dim = x.shape
        qkv = self.qkv(x).view(n, length, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(n, length, dim))


class Blocks(nn.Sequential):
    """`depth` blocks and a norm, (N, L, D) -> (N, L, D): an encoder, or a decoder.

    Args:
        dim: D of the tokens.
        depth: number of blocks.
        heads: as for `Block`.
        mlp_ratio: likewise.
    """

    def __init__(self, dim: int, depth: int, heads: int, mlp_ratio: float = 4):
        super().__init__(*(Block(dim, heads, mlp_ratio) for _ in range(depth)))
        self.add_module("norm", nn.LayerNorm(dim, eps=1e-6))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)


class ViT(nn.Module):
    """Patches with fixed positions, blocks, and one feature vector of `.dim` an image.

    Images may have another size than in training, a multiple of the patch.

    Args:
        image_size: side of the training images, pixels.
        patch_size: side of a patch, pixels; divides image_size.
        dim: of tokens and features, a multiple of 4 and of heads.
        depth: number of blocks.
        heads: of each attention.
        mlp_ratio: hidden width of the perceptrons, in dims.
        channels: C of the images.
        class_token: put a learnt token before the patches.
        pool: what the features are, token or mean (of the patches); null: the class
            token where there is one.

    Raises:
        ConfigError: sizes that do not divide, an unknown pool, or a token that is not
            there.
    """

    def __init__(
        self,
        image_size: int = 32,
        patch_size: int = 4,
        dim: int = 192,
        depth: int = 6,
        heads: int = 3,
        mlp_ratio: float = 4,
        channels: int = 3,
        class_token: bool = True,
        pool: str | None = None,
    ):
        super().__init__()
        if image_size % patch_size:
            raise ConfigError(
                f"image_size={image_size} is not divisible by patch_size={patch_size}"
            )
        pool = pool or ("token" if class_token else "mean")
        if pool not in POOLS or (pool == "token" and not class_token):
            raise ConfigError(
                f"pool={pool} with class_token={class_token}; use mean, or token with"
                " class_token: true"
            )
        self.dim, self.patch_size, self.pool = dim, patch_size, pool
        self.grid = image_size // patch_size
        self.project = nn.Conv2d(channels, dim, patch_size, patch_size)
        nn.init.xavier_uniform_(self.project.weight.view(dim, -1))
        nn.init.zeros_(self.project.bias)
        self.class_token = None
        if class_token:
            self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.register_buffer("positions", positions(self.grid, dim), persistent=False)
        self.blocks = Blocks(dim, depth, heads, mlp_ratio)
        self.head = nn.Identity()  # of features, a classifier's place

    @property
    def patches(self) -> int:
        """L of a training image; the class token is none."""
        return self.grid**2

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Map images to features (N, D); the arguments are those of `tokens`."""
        tokens = self.tokens(x, keep)
        first = 0 if self.class_token is None else 1
        token = self.pool == "token"
        return self.head(tokens[:, 0] if token else tokens[:, first:].mean(1))

    def tokens(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return what the blocks make of an image's patches, or of some of them.

        Args:
            x: images (N, C, H, W).
            keep: which patches the blocks see, (N, k) int64; None: all L, in order.

        Returns:
            (N, 1 + k, D), the class token first; (N, k, D) without one.
        """
        tokens = self.embed(x)
        if keep is not None:
            tokens = take(tokens, keep)
        if self.class_token is not None:
            first = self.class_token.expand(x.shape[0], -1, -1)  # traced, unlike len
            tokens = torch.cat([first.to(tokens.dtype), tokens], 1)
        return self.blocks(tokens)

    def embed(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to patches with positions, (N, L, D), row by row."""
        self._check(x)
        patches = self.project(x)
        rows, columns = patches.shape[2:]
        where = self.positions
        if (rows, columns) != (self.grid, self.grid):
            other = positions(self.grid, self.dim, rows, columns)
            where = other.to(where, non_blocking=True)
        return patches.flatten(2).transpose(1, 2) + where

    def patchify(self, x: Tensor) -> Tensor:
        """Cut images (N, C, H, W) into patches (N, L, p p C), row by row."""
        self._check(x)
        n, c, h, w = x.shape
        p = self.patch_size
        x = x.reshape(n, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1)
        return x.reshape(n, -1, p * p * c)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Return the square images (N, C, H, W) of patches (N, L, p p C)."""
        n, length, _ = patches.shape
        p, side = self.patch_size, math.isqrt(length)
        x = patches.reshape(n, side, side, p, p, -1).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(n, -1, side * p, side * p)

    def _check(self, x: Tensor) -> None:
        p = self.patch_size
        if x.ndim != 4 or x.shape[2] % p or x.shape[3] % p:
            raise ValueError(
                f"images of shape {tuple(x.shape)} do not divide into patches of {p};"
                f" use (N, C, H, W) with sides that are multiples of {p}"
            )
