"""Promise 5: a run goes on with another number of processes, in mid-epoch, as one."""

import pytest
import torch

from stable_ssl import checkpoint, load_config, seeding
from stable_ssl.config import ConfigError
from stable_ssl.methods import method_class
from tests.conftest import Tiny
from tests.test_exact_batch import read, run_undrawn

STEPS = [  # two epochs of four steps; rows are begun and ended by others
    "data.batch_size=256",
    "optim.epochs=2",
    "optim.scheduler.warmup_epochs=0",
    "log.every_n_steps=3",
    "log.checkpoint.every_n_steps=2",
    "log.eval.every_n_epochs=1",
    "log.eval.untrained=false",
    "log.eval.few_labels=[]",
    "log.pictures=null",
    "log.run=run",
]
SMALL = {
    "simclr": ["++model.backbone.width=8"],
    "dino": ["++model.backbone.width=8", "++model.freeze_epochs=1"],
    "mae": ["++model.backbone.depth=1"],
}
STAGES = (2, 2), (1, 6), (4, None)  # processes, and the step after which they stop
LOOSE = ("probe_loss", "acc1", "acc5")  # of a probe in float32


class Stopped(Exception):
    """Stands for the end of a job."""


def stopping(kind, last):
    """Return a trainer in float64 that ends after a step."""

    class Double(kind):
        def initialize_modules(self):
            super().initialize_modules()
            self.double()
            layers = getattr(self, "backbone", self)
            layers.register_forward_pre_hook(lambda _, x: (x[0].double(),))

        def before_train_step(self):
            views, *rest = self.data
            images = isinstance(views, torch.Tensor)
            views = views.double() if images else [view.double() for view in views]
            self.data = (views, *rest)
            if self.step == last:
                raise Stopped

    Double.__name__ = kind.__name__
    return Double


def train(kind, folder, last, *overrides):
    """Train up to a step; return rows, weights and the probe's."""
    torch.set_num_threads(1)
    name = kind if isinstance(kind, str) else "base"
    kind = method_class(kind) if isinstance(kind, str) else kind
    options = [*STEPS, *SMALL.get(name, []), f"log.folder={folder}", *overrides]
    trainer = stopping(kind, last)(load_config(name, options))
    try:
        run_undrawn(trainer)
    except Stopped:
        assert last is not None
    probe = trainer.evaluation.probe
    return {
        "step": trainer.step,
        "rows": read(trainer.run_dir) if trainer.rank == 0 else [],
        "weights": {n: t.clone() for n, t in trainer.state_dict().items()},
        "probe": {} if probe is None else dict(probe.state_dict()),
        "said": (trainer.run_dir / "console.log").read_text()
        if not trainer.rank
        else "",
    }


def apart(a, b):
    return max(((a[n] - b[n]).double().abs().max().item() for n in a), default=0)


def in_stages(ranks, stages, kind, folder, *overrides):
    """Train with as many processes as each stage says; return the last one's."""
    for processes, last in stages:
        arguments = kind, str(folder), last, *overrides
        if processes == 1:
            found = train(*arguments)
        else:
            found, *_ = ranks(processes, train, *arguments)
    return found


@pytest.mark.parametrize(
    ("method", "stages"),
    [
        ("simclr", ((2, 2), (1, None))),
        pytest.param("simclr", STAGES, marks=pytest.mark.slow),
        pytest.param("dino", STAGES, marks=pytest.mark.slow),
        pytest.param("mae", STAGES, marks=pytest.mark.slow),
    ],
    ids=["simclr-2-1", "simclr-2-1-4", "dino-2-1-4", "mae-2-1-4"],
)
def test_other_processes_go_on_as_one_throughout(ranks, tmp_path, method, stages):
    one = train(method, tmp_path / "one", None)
    last = in_stages(ranks, stages, method, tmp_path / "elastic")
    assert one["step"] == last["step"] == 8
    *_, (before, _), (now, _) = stages
    assert f"saved by {before} processes, resumed by {now}" in last["said"]
    assert "otherwise than one" not in one["said"]
    assert apart(one["weights"], last["weights"]) < 1e-8
    assert apart(one["probe"], last["probe"]) < 1e-4
    assert len(one["rows"]) == len(last["rows"]) > 5
    for a, b in zip(one["rows"], last["rows"], strict=True):
        assert a.keys() == b.keys()
        for name in a:
            tolerance = 1e-4 if name.endswith(LOOSE) else 1e-8
            assert b[name] == pytest.approx(a[name], abs=tolerance), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["data.batch_size=64", "optim.accumulate=4"],
        ["data.batch_size=64", "optim.accumulate=4", "optim.exact_batch=true"],
    ],
    ids=["accumulated", "exact"],
)
def test_accumulated_steps_go_on_as_one_throughout(ranks, tmp_path, overrides):
    vit = "{name: vit, image_size: 8, patch_size: 4, dim: 16, depth: 1, heads: 2}"
    own = [f"++model.backbone={vit}", "++model.backbone.width=null", *overrides]
    own += ["++model.projector_norm=false"]
    own += ["log.eval.linear=null", "optim.steps=8", "optim.epochs=null"]
    own += ["log.monitor=null"]
    one = train("simclr", tmp_path / "one", None, *own)
    last = in_stages(ranks, STAGES, "simclr", tmp_path / "elastic", *own)
    assert one["step"] == last["step"] == 8
    assert apart(one["weights"], last["weights"]) < 1e-8


# --- what is not elastic, and said ----------------------------------------------------


class Dropping(Tiny):
    """Dropout as a module."""

    def initialize_modules(self):
        super().initialize_modules()
        self.drop = torch.nn.Dropout(0.1)

    def forward(self, x):
        return super().forward(self.drop(x))


class DroppingByFunction(Tiny):
    """Dropout that no module tells of."""

    def forward(self, x):
        return super().forward(torch.nn.functional.dropout(x, 0.1, self.training))


class Keyed(Tiny):
    """The same drops from the keys of rows."""

    def forward(self, x):
        if self.training:
            kept = seeding.uniform(self.row_keys(len(x)), tuple(x.shape[1:])) > 0.1
            x = x * kept / 0.9
        return super().forward(x)


def said_by(kind, make, capsys):
    """Return the lines that a run says of what it draws."""
    kind(make("base", "optim.epochs=1")).run()
    return [line for line in capsys.readouterr().out.splitlines() if "than one" in line]


def test_what_draws_from_the_global_generators_is_said(config, capsys):
    (line,) = said_by(Dropping, config, capsys)
    assert line.startswith("random    1 module, as drop, a Dropout: N processes draw")


def test_what_no_module_tells_of_is_said_with_the_first_row(config, capsys):
    (line,) = said_by(DroppingByFunction, config, capsys)
    assert "step 3: something draws from the global generators" in line


@pytest.mark.parametrize("kind", [Tiny, Keyed])
def test_nothing_is_said_of_what_draws_alike(kind, config, capsys):
    assert not said_by(kind, config, capsys)


def test_modules_of_other_libraries_that_drop():
    timm = pytest.importorskip("timm")
    from torchvision.models import swin_t

    from stable_ssl.models import freeze
    from stable_ssl.models.randomness import drawing_modules

    def kinds(module):
        return {type(m).__name__ for _, m in drawing_modules(module)}

    vit = {"depth": 2, "embed_dim": 12, "num_heads": 2, "num_classes": 0}
    plain = timm.models.VisionTransformer(**vit)
    assert not kinds(plain)
    dropping = timm.models.VisionTransformer(
        **vit, drop_path_rate=0.1, attn_drop_rate=0.1, patch_drop_rate=0.5
    )
    assert kinds(dropping) == {"DropPath", "Dropout", "PatchDropout"}
    assert not kinds(freeze(dropping)) and not kinds(plain.eval())
    assert kinds(swin_t()) == {"StochasticDepth"}
    assert kinds(torch.nn.LSTM(2, 2, 2, dropout=0.1)) == {"LSTM"}
    assert not kinds(torch.nn.PairwiseDistance(2.0))


def test_a_batch_size_of_each_process_does_not_go_on_with_others(tmp_path):
    own = ["data.batch_size=null", "data.batch_size_per_gpu=128", "log.eval.knn=null"]
    own += ["log.monitor=null", "log.eval.linear=null"]
    train(Tiny, tmp_path, 2, *own)
    (path,) = tmp_path.rglob("e000_s000002.ckpt")
    state = checkpoint.load(path)
    state["ranks"] *= 2
    checkpoint.save(path, state)
    words = r"batch_size_per_gpu=128 made batches of 256 in the 2 .* go on with 2"
    with pytest.raises(ConfigError, match=words):
        train(Tiny, tmp_path, None, *own)


class OnlyMine(Tiny):
    """Keep what differs between ranks."""

    def after_train_step(self):
        self.mine = self.rank


class Random(OnlyMine):
    """Show what each rank would draw."""

    def before_train_epoch(self):
        self.drawn = torch.rand(()).item()


def draws(folder, last):
    """Return the next draw of this rank, and what was said."""
    torch.set_num_threads(1)
    own = ["log.eval.linear=null", "log.eval.knn=null", "log.monitor=null"]
    kind = stopping(Random, last)
    trainer = kind(load_config("base", [*STEPS, f"log.folder={folder}", *own]))
    try:
        run_undrawn(trainer)
    except Stopped:
        pass
    return trainer.drawn, (trainer.run_dir / "console.log").read_text()


@pytest.mark.slow
def test_more_processes_draw_each_for_itself_and_what_differed_is_said(ranks, tmp_path):
    ranks(2, draws, str(tmp_path), 2)
    found = ranks(4, draws, str(tmp_path), None)
    assert len({drawn for drawn, _ in found}) == 4
    assert "self.mine differed between the processes" in found[0][1]
