"""optim.exact_batch: k micro-batches have the loss and gradient of one batch."""

import json
import math

import pytest
import torch
from torch import nn

from stable_ssl import BaseTrainer, load_config
from stable_ssl.batch import joined
from stable_ssl.config import ConfigError
from stable_ssl.losses import nt_xent
from stable_ssl.methods import method_class
from tests.methods.test_every_method import wide

VIT = "{name: vit, image_size: 8, patch_size: 4, dim: 16, depth: 1, heads: 2}"
FINE = f"++model.backbone={VIT.replace('patch_size: 4', 'patch_size: 2')}"
TRAINED = [
    "optim.epochs=null",
    "optim.steps=3",
    "optim.scheduler.warmup_epochs=0",
    "log.every_n_steps=1",
    "log.eval.untrained=false",
    "log.eval.few_labels=[]",
    "log.eval.knn=null",
    "log.monitor=null",
    "log.pictures=null",
    "log.run=run",
    "data.val=null",
    "data.test=null",
    f"++model.backbone={VIT}",
]
OWN = {  # without batch norm
    "simclr": ["++model.projector_norm=false"],
    "mmcr": ["++model.projector=[80]", "++model.momentum=0.9"],
    "tico": ["++model.projector=[32]"],
    "w_mse": ["++model.projector=[8]", "++model.part=32"],
    "visreg": ["++model.projector=[32]"],
    "lejepa": ["++model.projector=[32]"],
    "vicreg": ["++model.projector=[32]"],
    "dcl": ["++model.projector_norm=false", "++model.weighted=true"],
    "dino": ["++model.head_norm=false", "++model.freeze_epochs=0"],
}
ONE = ["data.batch_size=64"]
MANY = ["data.batch_size=16", "optim.accumulate=4", "optim.exact_batch=true"]


def doubled(kind):
    """Return a trainer in float64, which shows what rounding would hide."""

    class Double(kind):
        def initialize_modules(self):
            super().initialize_modules()
            self.double()

        def forward(self, x):
            return super().forward(x.double())

        def train_step(self, batch):
            super().train_step(wide(batch))

        def optimizer_step(self):
            if self.last_micro_batch and self.step == 0:
                own = self.named_parameters()
                self.gradients = {
                    n: p.grad.clone() for n, p in own if p.grad is not None
                }
            super().optimizer_step()

    Double.__name__ = kind.__name__
    return Double


def make(kind, folder, *overrides):
    name = kind if isinstance(kind, str) else "simclr"
    kind = method_class(kind) if isinstance(kind, str) else kind
    options = [*TRAINED, *OWN.get(name, []), f"log.folder={folder}", *overrides]
    return doubled(kind)(load_config(name, options))


def train(kind, folder, *overrides):
    """Train; return rows, first gradients, weights and the probe's state."""
    torch.set_num_threads(1)
    trainer = make(kind, folder, *overrides)
    run_undrawn(trainer)
    return {
        "rows": read(trainer.run_dir) if trainer.rank == 0 else [],
        "gradients": trainer.gradients,
        "weights": {n: t.clone() for n, t in trainer.state_dict().items()},
        "probe": trainer.evaluation.probe and trainer.evaluation.probe.state_dict(),
    }


def read(run_dir):
    """Return rows without what a clock says."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    clock = ("time", "perf")
    return [
        {k: v for k, v in json.loads(line).items() if k.partition("/")[0] not in clock}
        for line in lines
    ]


def run_undrawn(trainer):
    """Run without a figure at the end, which takes longer than the rest."""
    with pytest.MonkeyPatch.context() as patch:
        curves = "stable_ssl.tools.learning_curves.learning_curves"
        patch.setattr(curves, lambda folder: [])
        trainer.run()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return, by method, a training whose steps are one batch each."""
    folder = tmp_path_factory.mktemp("whole")
    return {method: train(method, folder / method, *ONE) for method in OWN}


def same(a, b, tolerance=1e-10):
    """Check that two trainings are one."""
    assert a["gradients"].keys() == b["gradients"].keys() and a["gradients"]
    for part in ("gradients", "weights"):
        for name, tensor in a[part].items():
            apart = (tensor - b[part][name]).double().norm()
            assert apart <= tolerance * max(1, tensor.double().norm()), (part, name)
    for name, tensor in (a["probe"] or {}).items():
        apart = (tensor - b["probe"][name]).double().abs().max()
        assert apart < 1e-4, name  # it computes in float32
    assert len(a["rows"]) == len(b["rows"])
    for one, other in zip(a["rows"], b["rows"], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            loose = 1e-5 if name == "train/probe_loss" else tolerance
            expected = pytest.approx(one[name], rel=loose)
            assert name == "epoch" or other[name] == expected, name


@pytest.mark.parametrize("method", OWN)
def test_micro_batches_are_one_batch(whole, method, tmp_path):
    many = train(method, tmp_path, *MANY)
    assert len(many["rows"]) == 3 and "train/probe_loss" in many["rows"][0]
    same(whole[method], many)


def test_without_it_they_are_not(whole, tmp_path):
    many = train("simclr", tmp_path, *MANY[:2])
    with pytest.raises(AssertionError):
        same(whole["simclr"], many, 1e-3)


def train_all(folder):
    """Train with every method; the same on every rank but for the rows."""
    return {method: train(method, f"{folder}/{method}", *MANY) for method in OWN}


def test_micro_batches_of_two_processes_are_one_batch(whole, ranks, tmp_path):
    main, other = ranks(2, train_all, str(tmp_path))
    for method, one in whole.items():
        same(one, main[method])
        same({**one, "rows": []}, other[method])


@pytest.mark.parametrize("method", ["mae", "ijepa"])
def test_masks_of_micro_batches_are_those_of_one_batch(method, tmp_path):
    """Their losses are means over images: to accumulate is exact, but for the probe."""
    own = ["log.eval.linear=null"]
    own += ["++model.backbone.class_token=false"] if method == "ijepa" else []
    one = train(method, tmp_path / "one", FINE, *own, *ONE)
    many = train(method, tmp_path / "many", FINE, *own, *MANY[:2])
    same(one, many)


def test_a_last_step_of_fewer_micro_batches(tmp_path):
    """37 batches of 32 are 9 steps of 4 and one of 1."""
    last = ["data.batch_size=32", "optim.accumulate=4", "optim.steps=10"]
    trainer = make("simclr", tmp_path, *last, "optim.exact_batch=true")
    run_undrawn(trainer)
    assert trainer.step == 10 and trainer.micro_batches == 1
    assert math.isfinite(trainer.metrics["train/loss"])


# --- what draws, and what is counted --------------------------------------------------


class Noisy(BaseTrainer):
    """Embed with dropout and batch norm; count the images that were embedded."""

    def initialize_modules(self):
        self.layer = nn.Linear(64, 16)
        self.norm = nn.BatchNorm1d(16)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        return self.layer(x.flatten(1))

    def embed(self, views):
        self.seen += len(views[0])
        a, b = (
            self.norm(nn.functional.dropout(self(view), 0.3, self.training))
            for view in views
        )
        return {"z": (a, b), "labels": self.data[1]}

    def loss_of(self, embeddings):
        a, b = embeddings["z"]
        self.sizes = len(a), len(embeddings["labels"])
        return nt_xent(a, b)


NORM = "optim.per_micro_batch_norm=true"


def test_dropout_is_replayed_and_no_buffer_updated_twice(tmp_path):
    """The gradient is that of the loss of what the first pass drew."""
    expected = {}

    class Checked(Noisy):
        def embedded_again(self, batch):
            self.data = batch
            return self.embed(batch[0])

        def train_step(self, batch):
            if self.micro_batch == 0 and self.step == 0:
                self.start = torch.get_rng_state()
                self.kept = []
            if self.step == 0:
                self.kept.append(batch)
            super().train_step(batch)

        def optimizer_step(self):
            if self.step == 0 and self.last_micro_batch:
                expected["found"] = self.layer.weight.grad.clone()
                expected["after"] = torch.get_rng_state()
                torch.set_rng_state(self.start)
                buffers = [b.clone() for b in self.buffers()]
                parts = [self.embedded_again(batch) for batch in self.kept]
                loss = self.loss_of(joined(parts))
                (expected["grad"],) = torch.autograd.grad(loss, self.layer.weight)
                assert torch.equal(torch.get_rng_state(), expected["after"])
                for buffer, before in zip(self.buffers(), buffers, strict=True):
                    buffer.copy_(before)
            super().optimizer_step()

    trainer = make(Checked, tmp_path, *MANY, NORM, "optim.steps=2")
    run_undrawn(trainer)
    found, grad = expected["found"], expected["grad"]
    torch.testing.assert_close(found, grad, rtol=1e-10, atol=1e-14)
    assert trainer.sizes == (64, 64)
    assert trainer.seen == 2 * 64 and trainer.norm.num_batches_tracked == 2 * 4 * 2


# --- what is refused ------------------------------------------------------------------


class OwnLoss(method_class("simclr")):
    """A train step that takes the loss of its micro-batch."""

    def train_step(self, batch):
        self.backward(self.loss(batch))
        self.optimizer_step()


class Pooled(Noisy):
    """Embeddings that are no row an image."""

    def embed(self, views):
        return torch.cat([self(view) for view in views])


class Restless(Noisy):
    """Draw from a generator of its own."""

    def initialize_modules(self):
        super().initialize_modules()
        self.generator = torch.Generator().manual_seed(0)

    def embed(self, views):
        noise = torch.randn(16, 16, generator=self.generator).double()
        return {"z": [self(view) + noise for view in views], "labels": self.data[1]}


@pytest.mark.parametrize(
    ("kind", "overrides", "words"),
    [
        ("mae", [], r"MAE has a compute_loss of its own"),
        ("simclr", ["++model.projector_norm=true"], r"projector\.1, a BatchNorm1d"),
        (
            OwnLoss,
            ["++model.projector_norm=false"],
            r"OwnLoss\.train_step takes a loss",
        ),
        (Pooled, [NORM], r"shape \(32, 16\) for 16 images"),
        (Restless, [NORM], r"returned other embeddings"),
    ],
)
def test_what_cannot_be_exact_is_refused(kind, overrides, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        make(kind, tmp_path, *MANY, *overrides).run()


def test_one_micro_batch_a_step_has_nothing_to_be_refused(tmp_path, capsys):
    options = [*ONE, "optim.exact_batch=true", "optim.steps=1"]
    make("simclr", tmp_path, *options, "++model.projector_norm=true").run()
    assert "exact_batch=true changes nothing" in capsys.readouterr().out


def test_batch_norm_is_accepted_where_it_is_asked_for(tmp_path):
    trainer = make("simclr", tmp_path, *MANY, NORM, "++model.projector_norm=true")
    run_undrawn(trainer)
    norm = trainer.projector[1]
    assert norm.num_batches_tracked == 3 * 4  # steps, micro-batches


@pytest.mark.filterwarnings("ignore:hardware.precision=float16 on a CPU")
def test_a_loss_that_is_scaled_for_float16(tmp_path):
    kind, losses = method_class("simclr"), []
    for run, options in (("one", ONE), ("many", MANY)):
        own = [*OWN["simclr"], *options, f"log.run={run}", f"log.folder={tmp_path}"]
        own += ["hardware.precision=float16"]
        trainer = kind(load_config("simclr", [*TRAINED, *own]))
        run_undrawn(trainer)
        losses.append(trainer.metrics["train/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.005)
