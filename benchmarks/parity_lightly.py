"""Methods of lightly 1.6 in a plain loop, much as its documentation writes them.

Losses, heads, memory banks and schedules are lightly's; the loop, AdamW and
torchvision's transforms are what its examples use. A method is a class with a loss of
two views; a teacher moves before each step, as in the examples. Where ours has neither
small crops nor a second term, as in the benchmark DINO, SwAV and MMCR, there is none
here; and tensors are channels last, as ours are.

Views cost as much as the training. So a trial reads views that were drawn before, once
for all methods of a seed; seconds are measured with a loader that draws them.
"""

import copy
import math
import time

import numpy as np
import torch
from lightly import loss as losses
from lightly.models import modules, utils
from lightly.models.modules import heads
from lightly.models.modules.nn_memory_bank import NNMemoryBankModule
from lightly.utils.scheduler import cosine_schedule
from torch import nn
from torchvision import transforms

HALF = 0.5


class Method(nn.Module):
    """Two views through backbone and projector, and a loss of both projections."""

    def __init__(self, backbone, epochs, steps):
        super().__init__()
        self.backbone, self.epochs, self.steps = backbone, epochs, steps
        self.build(backbone.dim)

    def embed(self, x):
        """Return projections of images (N, C, H, W)."""
        return self.projector(self.backbone(x))

    def loss(self, x0, x1, step):
        """Return the loss of two views."""
        return self.criterion(self.embed(x0), self.embed(x1))

    def after_backward(self, step):
        """Do what follows the backward pass."""


class Momentum(Method):
    """A method with a teacher, a moving average of backbone and projector."""

    start, end = 0.99, 1.0

    def follow(self, projector=None):
        """Make the teacher; of a projector that cannot be copied, with another one."""
        projector = projector or copy.deepcopy(self.projector)
        projector.load_state_dict(self.projector.state_dict())
        self.teacher = nn.Sequential(copy.deepcopy(self.backbone), projector)
        utils.deactivate_requires_grad(self.teacher)

    def move(self, step):
        """Move the teacher."""
        m = cosine_schedule(step, self.steps, self.start, self.end)
        student = nn.Sequential(self.backbone, self.projector)
        utils.update_momentum(student, self.teacher, m=m)

    @torch.no_grad()
    def taught(self, x):
        """Return the teacher's projections."""
        return self.teacher(x)


class SimCLR(Method):
    def build(self, dim):
        self.projector = heads.SimCLRProjectionHead(dim, 256, 64)
        self.criterion = losses.NTXentLoss(temperature=0.2)


class DCL(SimCLR):
    def build(self, dim):
        super().build(dim)
        self.criterion = losses.DCLLoss(temperature=0.2)


class MoCoV2(Momentum):
    end = 0.99

    def build(self, dim):
        self.projector = heads.MoCoProjectionHead(dim, 256, 64)
        self.criteria = nn.ModuleList(  # each with a queue: keys of a view are not
            losses.NTXentLoss(0.2, memory_bank_size=(4096, 64))  # negatives of its own
            for _ in range(2)
        )
        self.follow()

    def loss(self, x0, x1, step):
        self.move(step)
        k0, k1 = self.taught(x0), self.taught(x1)
        first, second = self.criteria
        return HALF * (first(self.embed(x0), k1) + second(self.embed(x1), k0))


class NNCLR(Method):
    def build(self, dim):
        self.projector = heads.NNCLRProjectionHead(dim, 256, 64)
        self.predictor = heads.NNCLRPredictionHead(64, 256, 64)
        self.bank = NNMemoryBankModule(size=(4096, 64))
        self.criterion = losses.NTXentLoss(0.2)

    def loss(self, x0, x1, step):
        z0, z1 = self.embed(x0), self.embed(x1)
        p0, p1 = self.predictor(z0), self.predictor(z1)
        n0 = self.bank(z0.detach(), update=False)
        n1 = self.bank(z1.detach(), update=True)
        return HALF * (self.criterion(n0, p1) + self.criterion(n1, p0))


class BarlowTwins(Method):
    def build(self, dim):
        self.projector = heads.BarlowTwinsProjectionHead(dim, 512, 512)
        self.criterion = losses.BarlowTwinsLoss()


class VICReg(Method):
    def build(self, dim):
        self.projector = heads.VICRegProjectionHead(dim, 512, 512)
        self.criterion = losses.VICRegLoss()


class BYOL(Momentum):
    def build(self, dim):
        self.projector = heads.BYOLProjectionHead(dim, 512, 128)
        self.predictor = heads.BYOLPredictionHead(128, 512, 128)
        self.criterion = losses.NegativeCosineSimilarity()
        self.follow()

    def loss(self, x0, x1, step):
        self.move(step)
        p0, p1 = self.predictor(self.embed(x0)), self.predictor(self.embed(x1))
        first = self.criterion(p0, self.taught(x1))
        return HALF * (first + self.criterion(p1, self.taught(x0)))


class SimSiam(Method):
    def build(self, dim):
        self.projector = heads.SimSiamProjectionHead(dim, 512, 512)
        self.predictor = heads.SimSiamPredictionHead(512, 128, 512)
        self.criterion = losses.NegativeCosineSimilarity()

    def loss(self, x0, x1, step):
        z0, z1 = self.embed(x0), self.embed(x1)
        p0, p1 = self.predictor(z0), self.predictor(z1)
        first = self.criterion(p0, z1.detach())
        return HALF * (first + self.criterion(p1, z0.detach()))


class DINO(Momentum):
    def build(self, dim):
        sizes = {"batch_norm": True, "freeze_last_layer": 1}
        self.projector, projector = (
            heads.DINOProjectionHead(dim, 512, 64, 2048, **sizes) for _ in range(2)
        )
        self.criterion = losses.DINOLoss(
            2048, warmup_teacher_temp=0.04, teacher_temp=0.04
        )
        self.follow(projector)

    def loss(self, x0, x1, step):
        self.move(step)
        taught = [self.taught(x0), self.taught(x1)]
        return self.criterion(taught, [self.embed(x0), self.embed(x1)], epoch=0)

    def after_backward(self, step):
        self.projector.cancel_last_layer_gradients(step * self.epochs // self.steps)


class SwAV(Method):
    def build(self, dim):
        self.projector = heads.SwaVProjectionHead(dim, 256, 64)
        self.prototypes = modules.SwaVPrototypes(
            64, 512, n_steps_frozen_prototypes=self.steps // self.epochs
        )
        self.criterion = losses.SwaVLoss()

    def loss(self, x0, x1, step):
        self.prototypes.normalize()
        z = [nn.functional.normalize(self.embed(x), dim=1) for x in (x0, x1)]
        return self.criterion([self.prototypes(one, step) for one in z], [])


class TiCo(Momentum):
    def build(self, dim):
        self.projector = heads.TiCoProjectionHead(dim, 512, 128)
        self.criterion = losses.TiCoLoss()
        self.follow()

    def loss(self, x0, x1, step):
        self.move(step)
        return self.criterion(self.embed(x0), self.taught(x1))


class MMCR(Method):
    def build(self, dim):
        self.projector = heads.MMCRProjectionHead(dim, 512, 128, use_bias=False)
        self.criterion = losses.MMCRLoss(lmda=0.0)

    def loss(self, x0, x1, step):
        z = torch.stack([self.embed(x0), self.embed(x1)], dim=1)
        z = nn.functional.normalize(z, dim=-1)
        return self.criterion(z[:, :1], z[:, 1:])


class WMSE(Method):
    def build(self, dim):
        self.projector = heads.ProjectionHead(
            [(dim, 512, nn.BatchNorm1d(512), nn.ReLU()), (512, 32, None, None)]
        )
        self.criterion = losses.WMSELoss(embedding_dim=32, w_size=128)

    def loss(self, x0, x1, step):
        return self.criterion(torch.cat([self.embed(x0), self.embed(x1)]))


class VISReg(Method):
    def build(self, dim):
        self.projector = heads.LeJEPAProjectionHead(dim, 256, 32)
        self.criterion = losses.VISRegLoss(lambda_param=0.6, num_slices=256)

    def loss(self, x0, x1, step):
        z = torch.stack([self.embed(x0), self.embed(x1)])
        return self.criterion(local_proj=z[:0], global_proj=z)


def normalize(policy):
    """Return the transform that follows on what is drawn."""
    return transforms.Normalize(policy["normalize"]["mean"], policy["normalize"]["std"])


class TwoViews(torch.utils.data.Dataset):
    """Images of PIL in two views of torchvision's transforms."""

    def __init__(self, images, policy, size):
        colour = [policy["jitter"][k] for k in ("brightness", "contrast")]
        colour += [policy["jitter"][k] for k in ("saturation", "hue")]
        crop = transforms.RandomResizedCrop(size, scale=tuple(policy["crop"]["scale"]))
        jitter = [transforms.ColorJitter(*colour)]
        self.images = images
        self.drawn = transforms.Compose(  # PIL to PIL
            [
                crop,
                transforms.RandomApply(jitter, p=policy["jitter"]["p"]),
                transforms.RandomGrayscale(p=policy["gray"]["p"]),
                transforms.RandomHorizontalFlip(p=policy["flip"]["p"]),
            ]
        )
        self.transform = transforms.Compose(
            [self.drawn, transforms.ToTensor(), normalize(policy)]
        )

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        return self.transform(image), self.transform(image)


def loader(images, policy, batch_size):
    """Return a loader that draws two views of images of PIL."""
    data = TwoViews(images, policy, images[0].size[0])
    return torch.utils.data.DataLoader(data, batch_size, shuffle=True, drop_last=True)


def draw(images, policy, epochs, file):
    """Write two views of each image in each epoch: (epochs, N, 2, 3, H, W), uint8."""
    size = images[0].size[0]
    data = TwoViews(images, policy, size)
    shape = epochs, len(images), 2, 3, size, size
    views = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
    for epoch in range(epochs):
        for i, image in enumerate(images):
            for k in range(2):
                views[epoch, i, k] = np.moveaxis(np.array(data.drawn(image)), 2, 0)
    views.flush()


class Drawn:
    """Batches of the views in a file, as `loader` has them; of one epoch each time."""

    def __init__(self, file, policy, batch_size):
        self.views, self.batch_size = np.load(file, mmap_mode="r"), batch_size
        self.normalize, self.epoch = normalize(policy), 0

    def __len__(self):
        return self.views.shape[1] // self.batch_size

    def __iter__(self):
        views = self.views[self.epoch]
        self.epoch += 1
        for rows in torch.randperm(len(views)).split(self.batch_size)[: len(self)]:
            pixels = torch.from_numpy(views[rows.numpy()])
            yield self.normalize(pixels / 255).unbind(1)


def train(method, backbone, loader, budget):
    """Train a backbone; yield the seconds of each epoch, without the start before it.

    Args:
        method: a class of this file.
        backbone: a module with the attribute `dim`.
        loader: of batches, each two views (N, 3, H, W).
        budget: epochs, lr, weight_decay, warmup_epochs.
    """
    steps = budget["epochs"] * len(loader)
    warmup = budget["warmup_epochs"] * len(loader)
    model = method(backbone, budget["epochs"], steps).train()
    model.to(memory_format=torch.channels_last)
    trained = [p for p in model.parameters() if p.requires_grad]
    rates = {"lr": budget["lr"], "weight_decay": budget["weight_decay"]}
    optimizer = torch.optim.AdamW(trained, **rates)

    def factor(step):
        if step < warmup:
            return step / warmup
        return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    step = 0
    for _ in range(budget["epochs"]):
        begin = time.perf_counter()
        for views in loader:
            x0, x1 = (x.to(memory_format=torch.channels_last) for x in views)
            loss = model.loss(x0, x1, step)
            optimizer.zero_grad()
            loss.backward()
            model.after_backward(step)
            optimizer.step()
            scheduler.step()
            step += 1
        yield time.perf_counter() - begin
