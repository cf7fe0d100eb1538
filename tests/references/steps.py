"""Twenty steps twice: by the real trainer, and as the source of a method has them.

A reference is a class in a file of this folder that is named like its method:

    class SimCLR(Reference):
        source = "Chen et al. 2020, eq. 1; lightly's NTXentLoss"
        overrides = ["model.projector=[8,6]"]

        def build(self, backbone):            # modules are named as the method's
            self.backbone = backbone
            self.projector = nn.Sequential(nn.Linear(backbone.dim, 8, bias=False), ...)

        def loss(self, views, labels): ...    # a scalar, to be minimised
        def after_step(self): ...             # a teacher's moving average, a centre

It starts from the weights of the method and sees the same views, in float64; it is
written from the paper and the authors' code, in plain torch, and uses nothing of
stable_ssl but the backbone. Then losses and weights must stay equal.

What a method does otherwise than its source, on purpose, is a key of `kept`, with the
reason. The reference follows us there if the key is in `self.aligned`, and the source
if it is not. The key, word for word, stands in the docstring of the method's file.
"""

from __future__ import annotations

import copy
import importlib
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from stable_ssl import load_config
from stable_ssl.methods import method_class

STEPS, STEPS_PER_EPOCH, IMAGES = 20, 5, 16
LR, WARMUP, DECAY, MOMENTUM = 0.1, 4, 0.01, 0.9
COMMON = [
    "optim.epochs=null",
    f"optim.steps={STEPS}",
    f"optim.steps_per_epoch={STEPS_PER_EPOCH}",
    "optim.optimizer=sgd",
    f"optim.momentum={MOMENTUM}",
    f"optim.weight_decay={DECAY}",
    f"optim.scheduler.warmup_epochs={WARMUP / STEPS_PER_EPOCH}",
    "model.backbone.width=4",
    "data.num_workers=0",
    "hardware.accelerator=cpu",
    "log.run=run",
    "log.pictures=null",
    "log.eval.linear=null",
    "log.eval.knn=null",
    "log.eval.few_labels=[]",
    "log.monitor=null",
]


class Reference(nn.Module):
    """A method as its source has it; the trainer's part is plain SGD on a cosine.

    Args:
        backbone: the method's, copied, or None where it has another structure.
        aligned: keys of `kept` in which the reference follows the method.
    """

    source: str  # paper and equation, the authors' file, a library's loss
    overrides: list[str] = []  # of the recipe named like the method, and of `COMMON`
    lr = LR  # after the warm-up
    sizes = (8, 8)  # of the views' sides, in pixels
    kept: dict[str, str] = {}  # what is not as in the source: why

    def __init__(self, backbone: nn.Module | None, aligned: frozenset[str]):
        super().__init__()
        self.aligned, self.step = aligned, 0  # steps taken
        self.build(backbone)

    def build(self, backbone: nn.Module | None) -> None:
        """Build modules and buffers, under the names that the method gives them."""
        raise NotImplementedError

    def loss(self, *batch) -> torch.Tensor:
        """Return the loss of `batch()`, a scalar."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Do what follows the optimizer's step number `self.step`, from 0."""

    def before_update(self) -> None:
        """Do what precedes it, the gradients being there."""

    def batch(self, step: int) -> tuple | dict:
        """Draw the batch of a step: views (N, 1, size, size), and labels (N,).

        A method of several loaders has a dict of such pairs, by their names.
        """
        generator = torch.Generator().manual_seed(step)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        image = normal(IMAGES, 1, max(self.sizes), max(self.sizes))
        views = [image[..., :s, :s] + normal(IMAGES, 1, s, s) / 2 for s in self.sizes]
        return views, torch.randint(4, (IMAGES,), generator=generator)

    def optimizer(self) -> torch.optim.Optimizer:
        """Return the optimizer: weight decay on matrices, not on biases and norms."""
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": DECAY},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.SGD(groups, lr=self.lr, momentum=MOMENTUM)

    def set_rates(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the learning rate of step `self.step`: a warm-up, half a cosine."""
        progress = (self.step - WARMUP) / (STEPS - WARMUP)
        decayed = (1 + math.cos(math.pi * progress)) / 2
        factor = self.step / WARMUP if self.step < WARMUP else decayed
        for group in optimizer.param_groups:
            group["lr"] = self.lr * factor

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.step // STEPS_PER_EPOCH


class Differences(NamedTuple):
    """The largest ones between trainer and reference, in absolute value."""

    loss: float  # of the 20 losses
    weights: float  # of any float of the state after 20 steps


def compare(method: str, folder: Path, aligned: frozenset[str]) -> Differences:
    """Take the steps on both sides, from the same weights on the same views.

    Args:
        method: the name of a recipe and of a file of this folder.
        folder: where the run writes.
        aligned: keys of `kept` in which the reference follows the method.
    """
    cls = reference_of(method)
    own = [f"log.folder={folder}", f"optim.lr={cls.lr}"]
    keys = [*COMMON, *own, *cls.overrides]
    trainer = doubled(method)(load_config(method, [f"++{key}" for key in keys]))
    trainer.setup()
    try:
        torch.manual_seed(0)  # of what the method does not have
        backbone = copy.deepcopy(getattr(trainer, "backbone", None))
        reference = cls(backbone, aligned).double().train()
        share(trainer, reference)
        batches = [reference.batch(step) for step in range(STEPS)]
        theirs = steps_of(reference, batches)
        ours = trainer_steps(trainer, batches)
        loss = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        own = state(trainer)
        weights = max(
            (own[name] - tensor).abs().max().item()
            for name, tensor in state(reference).items()
            if name in own and tensor.is_floating_point()
        )
    finally:
        trainer.cleanup()
    return Differences(loss, weights)


def reference_of(method: str) -> type[Reference]:
    """Return the one subclass of `Reference` that a file of this folder defines."""
    module = importlib.import_module(f"tests.references.{method}")
    (found,) = (
        cls
        for cls in vars(module).values()
        if isinstance(cls, type) and cls.__module__ == module.__name__
        if issubclass(cls, Reference)
    )
    return found


def methods() -> list[str]:
    """Return the methods that have a reference."""
    files = (path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    return sorted(name for name in files if name not in ("steps", "test_references"))


def doubled(method: str) -> type:
    """Return the method's class in float64, keeping its losses."""

    class Double(method_class(method)):
        def initialize_modules(self):
            super().initialize_modules()
            self.double()
            self.found = []

        def loss(self, batch):
            loss = super().loss(batch)
            self.found.append(loss.item())
            return loss

    return Double


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and buffers by name; a teacher's copy is the teacher."""
    return {n.replace(".module.", "."): x for n, x in module.state_dict().items()}


@torch.no_grad()
def share(trainer: nn.Module, reference: Reference) -> None:
    """Give the reference the method's weights; all but kept differences must pair."""
    own, theirs = state(trainer), state(reference)
    apart = own.keys() ^ theirs.keys()
    if apart and set(reference.kept) == reference.aligned:
        raise AssertionError(f"method and reference have not both {sorted(apart)}")
    for name in own.keys() & theirs.keys():
        assert own[name].shape == theirs[name].shape, name
        theirs[name].copy_(own[name])


def trainer_steps(trainer: nn.Module, batches: list) -> list[float]:
    """Return the losses of the trainer's steps, its hooks and schedules included."""
    trainer.train()
    for batch in batches:
        trainer.epoch = trainer.step // STEPS_PER_EPOCH
        trainer.train_micro_batch(copy.deepcopy(batch))
    return trainer.found


def steps_of(reference: Reference, batches: list) -> list[float]:
    """Return the losses of the reference's steps."""
    optimizer, losses = reference.optimizer(), []
    for reference.step, batch in enumerate(batches):
        named = isinstance(batch, dict)  # of several loaders
        loss = reference.loss(**batch) if named else reference.loss(*batch)
        optimizer.zero_grad()
        loss.backward()
        reference.before_update()
        reference.set_rates(optimizer)
        optimizer.step()
        with torch.no_grad():
            reference.after_step()
        losses.append(loss.item())
    return losses
