"""A memory of what each image was projected to, and the clusters of its vectors.

Caron et al. 2020, https://arxiv.org/abs/2006.09882, as DeepCluster v2 uses it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from stable_ssl import distributed, seeding
from stable_ssl.schema import ConfigError
from stable_ssl.vectors import unit

BLOCK = 2**22  # similarities in memory at once: 16 MiB in float32


class ClusterMemory(nn.Module):
    """The newest vectors of each image, some views apart, and clusterings of them.

    All buffers are in the state dict and the same on every rank: `rows` (views, images,
    dim), zeros where an image was not seen yet; `centroids` (clusterings, count, dim);
    and `assignments` (images, clusterings), -1 for an image that has none.

    Args:
        images: of the train data.
        views: of an image that are kept.
        dim: of the vectors.
        clusterings: how many there are; the views take turns at being clustered.
        count: centroids of each.
    """

    def __init__(self, images: int, views: int, dim: int, clusterings: int, count: int):
        super().__init__()
        self.register_buffer("rows", torch.zeros(views, images, dim))
        self.register_buffer("centroids", torch.zeros(clusterings, count, dim))
        self.register_buffer("assignments", torch.full((images, clusterings), -1))

    @torch.no_grad()
    def remember(self, index: Tensor, views: Sequence[Tensor]) -> None:
        """Keep the vectors of some images, in place; synchronises ranks.

        Args:
            index: which images they are, (N,) integers.
            views: (N, dim) each, of norm 1; the first ones are kept.
        """
        kept = torch.stack(list(views[: len(self.rows)]), 1).to(self.rows.dtype)
        index, kept = distributed.gather(index), distributed.gather(kept)
        self.rows.index_copy_(1, index, kept.transpose(0, 1))

    @torch.no_grad()
    def cluster(self, seed: int, epoch: int, iterations: int = 10) -> None:
        """Cluster anew, from rows that (seed, epoch) draws; synchronises the host.

        Raises:
            ConfigError: fewer images were seen than there are centroids.
        """
        for number in range(len(self.centroids)):
            rows = self.rows[number % len(self.rows)]
            seen = rows.any(1).nonzero()[:, 0]
            count = len(self.centroids[number])
            if len(seen) < count:
                raise ConfigError(
                    f"{count} clusters of {len(seen)} images; use fewer of them"
                )
            first = seeding.permutation(len(seen), seed, epoch, number)[:count]
            centroids, nearest = spherical_kmeans(
                rows[seen], first.to(rows.device), iterations
            )
            self.centroids[number] = centroids
            self.assignments[seen, number] = nearest


@torch.no_grad()
def spherical_kmeans(
    rows: Tensor, first: Tensor, iterations: int = 10
) -> tuple[Tensor, Tensor]:
    """Cluster rows by their cosine.

    Dhillon and Modha 2001, https://doi.org/10.1023/A:1007612920971. Sums are products
    of matrices, so that a GPU adds in the same order every time.

    Args:
        rows: (N, D), of norm 1.
        first: which rows the centroids are at first, (K,) integers.
        iterations: of assigning rows and moving centroids to their mean direction; one
            without rows stays.

    Returns:
        Centroids (K, D), and the number of the nearest one of each row, (N,).
    """
    centroids = rows[first]
    for _ in range(iterations):
        sums = torch.zeros_like(centroids)
        counts = centroids.new_zeros(len(centroids), 1)
        for block in _blocks(rows, centroids):
            assigned = one_hot((block @ centroids.T).argmax(1), len(centroids))
            sums += assigned.to(rows.dtype).T @ block
            counts += assigned.sum(0)[:, None]
        centroids = unit(sums.where(counts > 0, centroids))
    nearest = [(x @ centroids.T).argmax(1) for x in _blocks(rows, centroids)]
    return centroids, torch.cat(nearest)


def _blocks(rows: Tensor, centroids: Tensor) -> tuple[Tensor, ...]:
    return rows.split(max(1, BLOCK // len(centroids)))
