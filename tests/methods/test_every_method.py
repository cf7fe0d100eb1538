"""What every method promises: it trains, resumes exactly, and N ranks are one."""

import inspect
import math
from functools import partial

import pytest
import torch
from torch import nn

from stable_ssl import BaseTrainer, load_config, seeding
from stable_ssl.checkpoint import equal, load
from stable_ssl.methods import METHODS, method_class
from stable_ssl.models import EMA

TINY = [
    "data.batch_size=32",
    "optim.epochs=null",
    "optim.scheduler.warmup_epochs=0",
    "log.every_n_steps=2",
    "log.eval.every_n_epochs=null",
    "log.eval.untrained=false",
    "log.eval.few_labels=[]",
    "log.monitor=null",
    "log.run=run",
    "log.pictures=null",
]
BARE = ["log.eval.linear=null", "log.eval.knn=null"]
OWN = {  # overrides of a method: what it would hold still, or leave out, at first
    "dino": ["++model.freeze_epochs=0"],
    "dinov2": ["++model.freeze_epochs=0"],
    "ibot": ["++model.freeze_epochs=0"],
    "w_mse": ["++model.part=16", "++model.projector=[32,8]"],  # as small as a batch
    "swav": ["++model.freeze_epochs=0", "++model.queue_epoch=0"],
}


FEW = ("simclr", "byol", "dino", "swav", "nnclr", "mae", "mean_teacher", "multitask")
SOME = [m if m in FEW else pytest.param(m, marks=pytest.mark.slow) for m in METHODS]


def make(method, folder, *overrides, base=None):
    options = [*TINY, *OWN.get(method, []), f"log.folder={folder}", *overrides]
    return (base or method_class)(method)(load_config(method, options))


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.state_dict().items()}


@pytest.mark.parametrize("method", METHODS)
def test_three_steps_move_all_that_trains_and_nothing_frozen(method, tmp_path):
    trainer = make(method, tmp_path, "optim.steps=3", *BARE)
    trainer.setup()
    before = {name: p.detach().clone() for name, p in trainer.named_parameters()}
    trainer.fit()
    followers = [m for m in trainer.modules() if isinstance(m, EMA)]
    taught = {id(p) for teacher in followers for p in teacher.parameters()}
    for name, parameter in trainer.named_parameters():
        moves = parameter.requires_grad or id(parameter) in taught
        assert torch.equal(parameter, before[name]) != moves, name
    trainer.cleanup()


@pytest.mark.parametrize("method", SOME)
def test_a_batch_may_have_entries_after_the_labels(method, tmp_path):
    trainer = make(method, tmp_path, "optim.steps=1", *BARE)
    trainer.setup()
    batch = next(iter(trainer.train_loader))
    if isinstance(batch, dict):
        trainer.data = {name: (*part, part[1]) for name, part in batch.items()}
    else:
        trainer.data = (*batch, batch[1])
    trainer.compute_loss()
    trainer.cleanup()


class Killed(Exception):
    """Stands for the end of a process."""


def killed(step):
    """Return a maker of the method's class that dies in the step after `step`."""

    def base(method):
        class Dying(method_class(method)):
            def optimizer_step(self):
                if self.step == step:
                    raise Killed
                super().optimizer_step()

        return Dying

    return base


SLOW = [
    pytest.param(method, marks=pytest.mark.slow)
    for method in ("deepcluster_v2", "moco_v2", "nnclr", "ressl", "tico")
]


@pytest.mark.parametrize("method", ["dino", "swav", *SLOW])
def test_a_loss_computed_in_an_evaluation_changes_nothing(method, tmp_path):
    class Curious(method_class(method)):
        def after_train_step(self):
            super().after_train_step()
            self.seen = self.data

        def before_eval_epoch(self):
            self.data = self.seen
            self.log({"val/loss": self.compute_loss()["loss"]})

    steps = "optim.steps=4", "log.eval.every_n_steps=2", "log.eval.test_at_end=false"
    plain = make(method, tmp_path, *steps, "log.run=plain")
    curious = make(method, tmp_path, *steps, base=lambda _: Curious)
    plain.run()
    curious.run()
    assert "val/loss" in curious.metrics
    assert equal(weights(plain), weights(curious))


@pytest.mark.parametrize("method", SOME)
def test_resume_is_exact(method, tmp_path, rows):
    options = ["optim.steps=8", "log.checkpoint.every_n_steps=3", "optim.accumulate=2"]
    options += ["log.eval.every_n_steps=4", "log.eval.knn=null"]
    whole = make(method, tmp_path, *options, "log.run=whole")
    whole.run()
    with pytest.raises(Killed):
        make(method, tmp_path, *options, base=killed(5)).run()
    resumed = make(method, tmp_path, *options)
    resumed.run()
    assert "resumed at epoch 0, step 3" in (resumed.run_dir / "console.log").read_text()
    assert rows(whole.run_dir) == rows(resumed.run_dir)
    states = (load(run.run_dir / "ckpts" / "last.ckpt") for run in (whole, resumed))
    a, b = ({k: v for k, v in s.items() if k in KEPT} for s in states)
    assert equal(a, b)


KEPT = {"modules", "optimizers", "schedulers", "scaler", "probe", "ranks"}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_observers_do_not_disturb(method, tmp_path):
    watched = make(
        method, tmp_path, "optim.steps=3", "log.eval.every_n_steps=1", "log.run=watched"
    )
    watched.run()
    options = ["data.val=null", "data.test=null", "log.every_n_steps=1000"]
    alone = make(method, tmp_path, "optim.steps=3", *options, *BARE)
    alone.run()
    assert equal(weights(watched), weights(alone))


@pytest.mark.parametrize("method", SOME)
def test_half_precision(method, tmp_path):
    options = ["optim.steps=2", "log.every_n_steps=1", *BARE]
    exact = make(method, tmp_path, *options)
    exact.run()
    half = make(
        method, tmp_path, *options, "hardware.precision=bfloat16", "log.run=half"
    )
    half.run()
    a, b = (t.metrics["train/loss"] for t in (exact, half))
    assert math.isfinite(b) and a == pytest.approx(b, rel=0.1, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_compiled_once(method, tmp_path, monkeypatch):
    """No number of a step or epoch is compiled in: the graphs of 6 epochs do for 12."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch.compiler.reset()
    counters.clear()

    class Counting(method_class(method)):
        def after_train_epoch(self):
            graphs.append(counters["stats"]["unique_graphs"])

    graphs = []
    options = ["optim.steps=24", "optim.steps_per_epoch=2", "hardware.compile=true"]
    options += ["optim.lr=1e-3"]
    make(method, tmp_path, *options, *BARE, base=lambda method: Counting).run()
    assert graphs[5] == graphs[11] > 0


class Drawing(BaseTrainer):
    """A method of a user's, with keys of its own; it keeps what it draws."""

    def initialize_modules(self):
        self.layer = torch.nn.Linear(64, 8)
        self.draws = torch.zeros(17)

    def forward(self, x):
        return self.layer(x.flatten(1))

    def step_key(self):
        return seeding.fold_in(super().step_key(), 7)

    def compute_loss(self):
        x = self.data[0][0].flatten(1)
        each = seeding.uniform(self.row_keys(len(x)), (16,))
        self.draws = torch.cat([seeding.uniform(self.step_key()[None]), each[-1]])
        return (self(x) * each[:, :8]).square().mean() * (1 + self.draws[0])

    def optimizer_step(self):
        self.drawn = [*getattr(self, "drawn", []), self.draws.clone()]
        super().optimizer_step()


@pytest.mark.slow
@pytest.mark.parametrize("base", [method_class, lambda _: Drawing], ids=["mae", "own"])
def test_a_compiled_loss_draws_what_an_eager_one_does(base, tmp_path, rows):
    """By torch's real compiler, and anew in every micro-batch."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    options = ["optim.steps=6", "optim.accumulate=2", "log.every_n_steps=1", *BARE]
    options += ["model.backbone.depth=1"] if base is method_class else []
    eager = make("mae", tmp_path, *options, "log.run=eager", base=base)
    graphs = []

    class Counting(base("mae")):
        def after_train_step(self):
            graphs.append(counters["stats"]["unique_graphs"])

    options.append("hardware.compile=true")
    compiled = make("mae", tmp_path, *options, base=lambda _: Counting)
    for trainer in (eager, compiled):
        trainer.run()
    assert graphs[0] == graphs[-1] > 0
    for a, b in zip(rows(eager.run_dir), rows(compiled.run_dir), strict=True):
        assert b == pytest.approx(a, rel=1e-4)
    for a, b in zip(*(getattr(t, "drawn", []) for t in (eager, compiled)), strict=True):
        assert torch.equal(a, b)


# --- ranks ----------------------------------------------------------------------------


def wide(batch):
    """Return a batch, however nested, whose views are float64."""
    if isinstance(batch, torch.Tensor):
        return batch.double() if batch.is_floating_point() else batch
    if isinstance(batch, dict):
        return {name: wide(one) for name, one in batch.items()}
    return type(batch)(wide(one) for one in batch)


def recording(method):
    """Return the method's class, which keeps its first gradient."""

    class Recording(method_class(method)):
        def optimizer_step(self):
            if self.step == 0:
                own = self.named_parameters()
                self.gradients = {n: p.grad for n, p in own if p.grad is not None}
            super().optimizer_step()

    return Recording


def doubled(method):
    """Return it in float64, which shows what rounding would hide."""

    class Double(recording(method)):
        def initialize_modules(self):
            super().initialize_modules()
            self.double()

        def forward(self, x):
            return super().forward(x.double())  # of what a hook of an epoch embeds

        def before_train_step(self):
            self.data = wide(self.data)

    return Double


def smooth(method):
    """Return it without maxima, which turn a rounding into a jump of the gradient.

    Where the two largest values of a pool differ by an ulp, another order of the sums
    before them sends the gradient elsewhere: two pools of 32,768 moved .03 % of it.
    """

    class Smooth(recording(method)):
        def initialize_modules(self):
            super().initialize_modules()
            for module in [*self.modules()]:
                for name, child in module.named_children():
                    if isinstance(child, nn.MaxPool2d):
                        setattr(module, name, nn.AvgPool2d(child.kernel_size))
                    elif isinstance(child, nn.ReLU):
                        setattr(module, name, nn.SiLU())

    return Smooth


def train(folder, base=doubled, methods=METHODS):
    """Take two steps with methods: first gradient, losses and state of each."""
    found = {}
    for method in methods:
        options = ["optim.steps=2", "log.every_n_steps=1", *BARE]
        options += ["data.val=null", "data.test=null"]
        trainer = make(method, f"{folder}/{method}", *options, base=base)
        trainer.run()
        found[method] = (
            trainer.metrics["train/loss"],
            trainer.gradients,
            trainer.state_dict(),
        )
    return found


def compare(gradients, several, tolerance, method, floor=1e-3):
    """Check each tensor's gradient; one below `floor` of all counts as that much."""
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    for name, g in gradients.items():
        apart = (several[name] - g).norm()
        assert apart <= tolerance * max(g.norm(), floor * norm), (method, name)


LOOSE = {  # what rounding does to a gradient, where it may be more
    "deepcluster_v2": 1e-2,  # an image moves between two clusters
    "mmcr": 1e-3,  # directions of small singular values turn
    "visreg": 1e-3,  # two samples change places along a direction
}


@pytest.mark.slow
def test_in_float32_the_first_gradient_is_that_of_one_process(ranks, tmp_path):
    one, apart = train(tmp_path / "one", smooth), {}
    for rank in ranks(2, train, str(tmp_path / "several"), smooth):
        for method, (_, gradients, _) in one.items():
            bound = LOOSE.get(method, 1e-5)
            try:  # a gradient that is zero but for rounding is some ulps of all
                compare(gradients, rank[method][1], bound, method, floor=1e-2)
            except AssertionError as error:
                apart[method] = str(error).partition("assert ")[2].splitlines()[0]
    assert not apart


# a bias before a batch norm has no gradient but what rounding leaves
ROUNDED = {("msn", "backbone.norm.bias"): 1e-8}


@pytest.mark.parametrize(
    ("n", "methods"),
    [
        (2, FEW),
        pytest.param(2, [m for m in METHODS if m not in FEW], marks=pytest.mark.slow),
        pytest.param(4, [*METHODS], marks=pytest.mark.slow),
    ],
    ids=["2-few", "2-others", "4-all"],
)
def test_ranks_are_one_process(ranks, tmp_path, n, methods):
    one = train(tmp_path / "one", methods=methods)
    for rank in ranks(n, train, str(tmp_path / "several"), doubled, methods):
        for method, (loss, gradients, state) in one.items():
            again, several, modules = rank[method]
            assert again == pytest.approx(loss, rel=1e-10), method
            assert several.keys() == gradients.keys(), method
            compare(gradients, several, 1e-10, method)
            for name, tensor in state.items():
                apart = (modules[name] - tensor).double().norm()
                bound = ROUNDED.get((method, name), 1e-9)
                assert apart <= bound * max(tensor.double().norm(), 1), (method, name)


@pytest.mark.parametrize("name", METHODS)
def test_an_overridden_method_takes_what_the_base_takes(name):
    kind = method_class(name)
    for attribute, own in vars(kind).items():
        base = getattr(BaseTrainer, attribute, None)
        if inspect.isfunction(own) and inspect.isfunction(base):
            expected = [*inspect.signature(base).parameters.values()]
            found = [*inspect.signature(own).parameters.values()]
            assert len(found) == len(expected), attribute
            for a, b in zip(found, expected, strict=True):
                assert (a.kind, a.default) == (b.kind, b.default), (attribute, a)
