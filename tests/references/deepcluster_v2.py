"""DeepCluster v2 by the authors' script; the first centroids are our draw."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from stable_ssl import seeding
from tests.references.steps import STEPS_PER_EPOCH, Reference

NO_BIAS = "no bias before a batch norm"
BY_IMAGE = "a memory by image"
IMAGES, K, HEADS = 1197, 6, 3


class DeepClusterV2(Reference):
    """Caron et al. 2020, https://arxiv.org/abs/2006.09882."""

    source = "the authors' `main_deepclusterv2.py` and `resnet50.py`"
    overrides = [
        "data.train.dataset.image_transform="
        f"[{','.join(3 * ['${data.transforms.view}'])}]",
        "model.projector=[8,6]",
        f"model.images={IMAGES}",
        f"model.clusterings={HEADS}",
        f"model.prototypes={K}",
        "model.iterations=4",
        "model.temperature=0.2",
        "hardware.seed=3",
    ]
    sizes = (8, 8, 4)
    kept = {
        NO_BIAS: "the norm cancels it; only its running mean tells",
        BY_IMAGE: "so a batch may have any images; the authors' is in the order of the"
        " last epoch, and forgets an image that this one left out",
    }

    def build(self, backbone):
        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(backbone.dim, 8, bias=NO_BIAS not in self.aligned),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 6),
        )
        self.memory = nn.Module()
        self.memory.register_buffer("rows", torch.zeros(2, IMAGES, 6))
        self.memory.register_buffer("centroids", torch.zeros(HEADS, K, 6))
        self.memory.register_buffer("assignments", torch.zeros(IMAGES, HEADS).long())

    def project(self, views):
        """Return the embeddings (3 N, 6) of three crops."""
        features = [self.backbone(torch.cat(same)) for same in (views[:2], views[2:])]
        return normalize(self.projector(torch.cat(features)), dim=1)

    @torch.no_grad()
    def remember(self, step, z):
        for rows, crop in zip(self.memory.rows, z.chunk(3), strict=False):
            rows[self.index(step)] = crop

    @torch.no_grad()
    def begin_epoch(self):
        if self.step == 0:
            for step in range(STEPS_PER_EPOCH):
                self.remember(step, self.project(self.batch(step)[0]))
        self.memory.assignments.fill_(-1)
        for head in range(HEADS):
            rows = self.memory.rows[head % 2]
            seen = [i for i in range(IMAGES) if rows[i].any()]
            order = seeding.permutation(len(seen), 3, self.epoch, head)
            centroids = rows[seen][order[:K]]
            for _ in range(4):
                nearest = (rows[seen] @ centroids.T).argmax(1)
                for k in range(K):
                    if (nearest == k).any():
                        centroids[k] = rows[seen][nearest == k].mean(0)
                centroids = normalize(centroids, dim=1)
            self.memory.centroids[head] = centroids
            nearest = (rows[seen] @ centroids.T).argmax(1)
            self.memory.assignments[seen, head] = nearest
        if BY_IMAGE not in self.aligned:
            self.memory.rows.zero_()  # all of it is written anew

    def loss(self, views, labels):
        if self.step % STEPS_PER_EPOCH == 0:
            self.begin_epoch()
        z = self.project(views)
        total = 0.0
        for head in range(HEADS):
            scores = z @ self.memory.centroids[head].clone().T / 0.2
            targets = self.memory.assignments[self.index(self.step), head].repeat(3)
            total = total + cross_entropy(scores, targets, ignore_index=-1)
        self.remember(self.step, z)
        return total / HEADS
