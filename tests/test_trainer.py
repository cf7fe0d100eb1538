"""The life of a run: order, hooks, steps, accumulation, evaluation, precision."""

import json
from contextlib import contextmanager

import pytest
import torch
from omegaconf import OmegaConf

from stable_ssl import BaseTrainer, ConfigError, Diverged, load_config
from stable_ssl.checkpoint import load
from stable_ssl.data import Loader
from stable_ssl.loggers.run_folder import RunFolder
from stable_ssl.methods import method_class

HOOKS = [
    f"{when}_{what}"
    for what in ("train_epoch", "train_step", "eval_epoch", "eval_step")
    for when in ("before", "after")
]
SETUP = [
    "seed_everything",
    "initialize_data",
    "initialize_modules",
    "initialize_optimizer",
    "initialize_scheduler",
    "load_checkpoint",
]


def recorded(cls, names):
    """Return a subclass that notes the calls of these methods, and the notes."""
    calls = []

    def noting(name):
        def method(self, *args, **kwargs):
            calls.append(name)
            return getattr(super(noted, self), name)(*args, **kwargs)

        return method

    noted = type("Noted", (cls,), {name: noting(name) for name in names})
    return noted, calls


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- order ----------------------------------------------------------------------------


def test_the_order_of_a_run_is_the_contract(tiny, config):
    names = [*SETUP, "train_step", "eval_step", *HOOKS]
    cls, calls = recorded(tiny, names)
    cls(config("base", "optim.epochs=1", "optim.steps_per_epoch=2")).run()
    step = ["before_train_step", "train_step", "after_train_step"]
    val = ["before_eval_step", "eval_step", "after_eval_step"]
    split = ["before_eval_epoch", *val, "after_eval_epoch"]
    assert calls == [
        *SETUP,
        "before_train_epoch",
        *step,
        *step,
        "after_train_epoch",
        *split,  # val
        *split,  # test
    ]


@pytest.mark.parametrize("name", ["initialize_modules", "forward", "compute_loss"])
def test_a_missing_method_is_named(tiny, name):
    cls = type("Incomplete", (tiny,), {name: getattr(BaseTrainer, name)})
    with pytest.raises(ConfigError, match=f"Incomplete must define {name}"):
        cls()


@pytest.mark.parametrize("method", ["simclr", "supervised"])
def test_hooks_without_super_change_nothing(method, config, rows):
    cls = method_class(method)
    plain = cls(config(method, "log.run=plain"))
    plain.run()
    empty = {name: lambda self: None for name in HOOKS}
    hooked = type("Hooked", (cls,), empty)(config(method, "log.run=hooked"))
    hooked.run()
    assert same(weights(plain), weights(hooked))
    assert rows(plain.run_dir) == rows(hooked.run_dir)


@pytest.mark.parametrize("method", ["simclr", "supervised"])
def test_observers_do_not_disturb(method, config):
    looked = ["log.eval.spectrum=true", "log.eval.offline.in_fit=true"]
    watched = method_class(method)(config(method, "log.run=watched", *looked))
    watched.run()
    alone = method_class(method)(
        config(
            method,
            "log.run=alone",
            "data.val=null",
            "data.test=null",
            "log.monitor=null",
            "log.eval.linear=null",
            "log.eval.knn=null",
            "log.every_n_steps=1000",
        )
    )
    alone.run()
    assert same(weights(watched), weights(alone))


def test_data_steps_and_metrics_of_ones_own(tiny, config):
    class Own(tiny):
        def initialize_data(self):
            x = torch.randn(24, 1, 8, 8)
            y = (x.flatten(1)[:, 0] > 0).long()
            self.train_loader = Batches(zip(x.split(8), y.split(8), strict=True))
            self.loaders = {"train": self.train_loader, "val": self.train_loader}
            self.num_classes = 2

        def initialize_optimizer(self):
            torch.nn.init.zeros_(self.layer.weight)
            self.optimizer = torch.optim.SGD(self.parameters(), lr=0.5)

        def train_step(self, batch):
            self.compute_loss().backward()
            self.layer.weight.grad.sign_()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1

        def after_eval_step(self):
            margin = self(self.data[0])[:, :2].diff().abs().mean()
            self.log({f"{self.split}/margin": margin})

    class Batches(list):
        def set_epoch(self, epoch, start=0):
            orders.append((epoch, start))

    orders = []
    off = ["log.eval.linear=null", "log.eval.knn=null", "log.pictures=null"]
    off += ["log.monitor=null", "optim.scheduler.name=null"]
    trainer = Own(config("base", *off))
    trainer.run()
    assert (trainer.step, orders) == (6, [(0, 0), (1, 0)])
    steps = trainer.layer.weight / 0.5
    assert torch.equal(steps, steps.round()) and 0 < steps.abs().max() <= 6
    assert trainer.metrics["val/margin"] > 0 and "val/acc1" in trainer.metrics


def test_a_run_is_its_seeds(tiny, config, rows):
    found = []
    for run, seed in (("a", 1), ("b", 1), ("c", 2)):
        trainer = tiny(config("base", f"log.run={run}", f"hardware.seed={seed}"))
        trainer.run()
        found.append((rows(trainer.run_dir), trainer.layer.weight))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][1], found[2][1])


# --- steps ----------------------------------------------------------------------------


def test_keys_of_rows_are_those_of_one_batch_on_one_process(tiny, config):
    trainer = tiny(config())
    trainer.setup()
    whole, of_step = trainer.row_keys(8), trainer.step_key()
    parts, trainer.world_size = [], 2
    for trainer.micro_batch in range(2):
        for trainer.rank in range(2):
            parts.append(trainer.row_keys(2))
            assert torch.equal(trainer.step_key(), of_step)
    assert torch.equal(torch.cat(parts), whole)
    trainer.step, trainer.micro_batch = 1, 0
    keys = torch.cat([whole, trainer.row_keys(8)])
    assert len(keys.unique()) == 16
    trainer.rank, trainer.world_size = 0, 1
    trainer.cleanup()


def test_accumulation(tiny, config):
    """10 micro-batches, accumulate 4: 3 steps, the last divided by 2, nothing left."""
    groups, batches = [], []

    class Checked(tiny):
        def train_step(self, batch):
            batches.append(batch)
            super().train_step(batch)

        def optimizer_step(self):
            losses = []
            for self.data in batches:
                losses.append(self.compute_loss())
            mean = sum(losses) / len(losses)
            (expected,) = torch.autograd.grad(mean, self.layer.weight)
            torch.testing.assert_close(self.layer.weight.grad, expected)
            groups.append(len(batches))
            batches.clear()
            super().optimizer_step()

    trainer = Checked(
        config("base", "optim.accumulate=4", "optim.epochs=1", "data.batch_size=119")
    )
    trainer.run()
    assert groups == [4, 4, 2]
    assert trainer.step == 3
    assert trainer.layer.weight.grad is None


def test_hooks_count_optimizer_steps(tiny, config):
    """A teacher's moving average lives in after_train_step: once a step."""
    cls, calls = recorded(tiny, ["before_train_step", "after_train_step"])
    cls(
        config("base", "optim.accumulate=4", "optim.epochs=1", "data.batch_size=119")
    ).run()
    assert calls == ["before_train_step", "after_train_step"] * 3


@pytest.mark.parametrize("steps", [1, 9, 13])
def test_optim_steps_is_exact(tiny, config, steps, rows):
    cls, calls = recorded(tiny, ["train_step"])
    trainer = cls(config("base", "optim.epochs=null", f"optim.steps={steps}"))
    trainer.run()
    assert len(calls) == trainer.step == steps
    assert rows(trainer.run_dir)[-1]["step"] == steps


def test_the_schedule_ends_at_min_lr(tiny, config, rows):
    trainer = tiny(config("base", "optim.scheduler.min_lr=0.01", "log.every_n_steps=1"))
    trainer.run()
    lrs = [row["train/lr"] for row in rows(trainer.run_dir) if "train/lr" in row]
    assert lrs[0] == pytest.approx(0.1)
    assert lrs == sorted(lrs, reverse=True)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_without_a_schedule_the_rate_stays(tiny, config, rows):
    trainer = tiny(config("base", "optim.scheduler.name=null"))
    trainer.run()
    assert trainer.scheduler is None
    assert {r["train/lr"] for r in rows(trainer.run_dir) if "train/lr" in r} == {0.1}


def test_no_step_between_two_rows_waits_for_the_device(config):
    class Reads(torch.utils._python_dispatch.TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    keys = ["log.every_n_steps=1000", "log.eval.linear.optimizer=sgd"]
    trainer = method_class("simclr")(config("simclr", *keys))
    trainer.setup()
    counts = []

    def count():
        counts.append(reads.count)

    trainer.before_train_step, trainer.after_train_step = count, count
    with Reads() as reads:
        trainer.train_epoch()
    trainer.cleanup()
    assert len(counts) == 18 and counts[-1] == counts[0]
    assert reads.count > counts[-1]  # the row and the evaluation do read


def test_clipping_bounds_the_gradient(tiny, config, rows):
    trainer = tiny(config("base", "++optim.grad_max_norm=0.01", "log.every_n_steps=1"))
    norms = []
    step = torch.optim.SGD.step

    def watched(self, closure=None):
        parameters = self.param_groups[0]["params"] + self.param_groups[-1]["params"]
        norms.append(
            torch.stack([p.grad.norm() for p in set(parameters)]).norm().item()
        )
        return step(self, closure)

    torch.optim.SGD.step = watched
    try:
        trainer.run()
    finally:
        torch.optim.SGD.step = step
    assert max(norms) <= 0.01 * 1.001
    assert rows(trainer.run_dir)[0]["train/grad_norm"] > 0.01


def test_a_dict_of_losses_is_logged(tiny, config, rows):
    class Parts(tiny):
        def compute_loss(self):
            loss = super().compute_loss()
            self.log({"train/extra": 2.0})
            return {"loss": loss, "half": loss / 2}

    trainer = Parts(config())
    trainer.run()
    row = rows(trainer.run_dir)[0]
    assert row["train/half"] == pytest.approx(row["train/loss"] / 2)
    assert row["train/extra"] == 2.0


@pytest.mark.parametrize(
    ("value", "words"), [(torch.zeros(2), r"\[2\]"), (1.0, "float"), (None, "NoneType")]
)
def test_a_loss_that_is_no_scalar_is_refused(tiny, config, value, words):
    cls = type("Wrong", (tiny,), {"compute_loss": lambda self: value})
    with pytest.raises(ValueError, match=f"compute_loss returned.*{words}.*scalar"):
        cls(config()).run()


# --- ends -----------------------------------------------------------------------------


def status(trainer):
    return json.loads((trainer.run_dir / "status.json").read_text())


def test_a_finished_run_leaves_its_folder(tiny, config):
    trainer = tiny(config())
    assert trainer.run() == trainer.metrics["val/knn_acc1"]
    assert status(trainer) == {"status": "finished", "reason": "", "format": 1}
    for name in (
        "config.yaml",
        "config_tree.txt",
        "overrides.yaml",
        "environment.json",
        "console.log",
        "ckpts/last.ckpt",
        "ckpts/best.ckpt",
        "figures/learning_curves.pdf",
        "figures/learning_curves.png",
    ):
        assert (trainer.run_dir / name).stat().st_size > 0, name
    assert sorted(p.name for p in (trainer.run_dir / "ckpts").glob("e*"))[-1] == (
        "e002_s000018.ckpt"
    )


def test_files_of_ones_own_stand_in_the_folder_of_experiment_and_run(
    tiny, config, tmp_path
):
    class Writing(tiny):
        def after_train_epoch(self):
            (self.run_dir / "mine.txt").write_text("mine")

    keys = ["log.experiment=mine", "log.run=first", "log.tags=[a,b]"]
    Writing(config("base", *keys)).run()
    folder = tmp_path / "runs" / "mine" / "first"
    assert (folder / "mine.txt").read_text() == "mine"
    assert OmegaConf.load(folder / "config.yaml").log.tags == ["a", "b"]


def test_a_diverging_run_says_so_and_keeps_its_last_good_checkpoint(tiny, config):
    class Diverging(tiny):
        def compute_loss(self):
            return super().compute_loss() * (float("nan") if self.step >= 10 else 1)

    trainer = Diverging(config())
    with pytest.raises(Diverged, match="train/loss is nan by step 12.*optim.lr"):
        trainer.run()
    assert status(trainer)["status"] == "diverged"
    state = torch.load(trainer.run_dir / "ckpts" / "last.ckpt", weights_only=True)
    assert state["step"] == 9
    assert all(tensor.isfinite().all() for tensor in state["modules"].values())


def test_a_weight_that_is_not_finite_is_not_saved(tiny, config):
    class Spoiled(tiny):
        def after_train_step(self):
            if self.step == 18:
                self.layer.bias.data[0] = float("nan")

    trainer = Spoiled(config("base", "data.val=null", "log.monitor=null"))
    with pytest.raises(Diverged, match="norm of the weights is nan by step 18"):
        trainer.run()
    state = torch.load(trainer.run_dir / "ckpts" / "last.ckpt", weights_only=True)
    assert state["step"] == 9


def test_an_unfinished_row_does_not_hide_divergence_from_a_checkpoint(tiny, config):
    class Diverging(tiny):
        def compute_loss(self):
            return super().compute_loss() * (float("inf") if self.step >= 10 else 1)

    trainer = Diverging(
        config("base", "log.every_n_steps=1000", "log.checkpoint.every_n_steps=2")
    )
    with pytest.raises(Diverged):
        trainer.run()
    assert max(p.name for p in (trainer.run_dir / "ckpts").glob("e*")) == (
        "e001_s000010.ckpt"
    )


@pytest.mark.parametrize("error", [KeyError("my mistake"), SystemExit("my mistake")])
def test_a_failing_run_says_why(tiny, config, error):
    class Broken(tiny):
        def after_train_epoch(self):
            raise error

    trainer = Broken(config())
    with pytest.raises(type(error)):
        trainer.run()
    assert status(trainer)["status"] == "failed"
    assert status(trainer)["reason"] == f"{type(error).__name__}: {error}"


def test_fast_dev_run_keeps_nothing(tiny, config, tmp_path):
    cls, calls = recorded(tiny, ["train_step", "eval_step"])
    cls(config("base", "fast_dev_run=true")).run()
    assert calls == ["train_step", "eval_step", "eval_step"]
    assert list(tmp_path.iterdir()) == []


# --- evaluation -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["validate", "test"])
def test_evaluation_only(tiny, config, mode, rows):
    trained = tiny(config("base", "log.eval.linear=null"))
    trained.run()
    path = trained.run_dir / "ckpts" / "last.ckpt"
    evaluation = ["log.run=eval", f"mode={mode}", f"log.load_from={path}"]
    again = tiny(config("base", "log.eval.linear=null", *evaluation))
    again.run()
    split = "val" if mode == "validate" else "test"
    (row,) = rows(again.run_dir)
    assert (row["epoch"], row["step"]) == (2, 18)
    assert row[f"{split}/acc1"] == trained.metrics[f"{split}/acc1"] > 0.4
    assert row[f"{split}/knn_acc1"] == trained.metrics[f"{split}/knn_acc1"]
    assert not (again.run_dir / "ckpts").exists()


def test_evaluating_without_weights_is_refused(tiny, config):
    with pytest.raises(ConfigError, match="mode=test needs weights.*log.load_from"):
        tiny(config("base", "mode=test")).run()


def test_accuracy_compares_forward_with_the_labels(tiny, config):
    trainer = tiny(config("base", "log.eval.linear=null"))
    trainer.run()
    trainer.eval()
    right = total = 0
    for x, labels in trainer.loaders["test"]:
        right += (trainer(x).argmax(1) == labels).sum().item()
        total += len(labels)
    assert total == 400
    assert trainer.metrics["test/acc1"] == right / total


@pytest.mark.parametrize(("every", "steps"), [("0.5", [4, 8, 9]), ("3", [3, 6, 9])])
def test_evaluation_within_an_epoch(tiny, config, rows, every, steps):
    """In steps, or as a share of an epoch; here 9 steps, and 0.5 of them is 4."""
    options = [f"log.eval.every_n_steps={every}", "optim.epochs=1"]
    trainer = tiny(config("base", *options))
    trainer.run()
    found = [r["step"] for r in rows(trainer.run_dir) if "val/acc1" in r]
    assert found == steps


def test_evaluation_every_few_epochs_and_at_the_end(tiny, config, rows):
    trainer = tiny(config("base", "log.eval.every_n_epochs=2", "optim.epochs=5"))
    trainer.run()
    found = [r["epoch"] for r in rows(trainer.run_dir) if "val/acc1" in r]
    assert found == [2, 4, 5]


def test_batches_of_an_evaluation_have_their_own_size(tiny, config):
    sizes = {}

    class Watched(tiny):
        def before_eval_step(self):
            sizes.setdefault(self.split, []).append(len(self.data[1]))

    Watched(config("base", "data.eval_batch_size=90")).run()
    assert sizes == {"val": [90, 90, 20] * 2, "test": [90, 90, 90, 90, 40]}


@pytest.mark.parametrize("steps", [0, 1])
def test_batches_seen_before_the_training_leave_no_row(tiny, config, rows, steps):
    seen = []

    class Watched(tiny):
        def before_eval_step(self):
            seen.append((self.step, self.split))

    sanity = f"log.eval.sanity_steps={steps}"
    trainer = Watched(config("base", sanity, "data.eval_batch_size=90"))
    trainer.run()
    assert [place for place in seen if place[0] == 0] == [(0, "val")] * steps
    assert all(row["step"] > 0 for row in rows(trainer.run_dir))


def test_hooks_of_an_evaluation_may_log(tiny, config, rows):
    class Logging(tiny):
        def after_eval_step(self):
            self.log({f"{self.split}/size": len(self.data[1])})

    trainer = Logging(config())
    trainer.run()
    assert [r["val/size"] for r in rows(trainer.run_dir) if "val/size" in r] == [
        200,
        200,
    ]


@pytest.mark.parametrize(
    ("hook", "name", "words"),
    [
        ("after_eval_step", "acc1", "val/acc1"),
        ("after_eval_epoch", "val/knn_acc1", "val/knn_acc1"),
        ("after_train_step", "probe_loss", "train/probe_loss"),
        ("before_train_step", "lr", "train/lr"),
        ("before_train_step", "train/grad_norm", "train/grad_norm"),
    ],
)
def test_figures_of_the_librarys_own_keep_their_names(tiny, config, hook, name, words):
    logs = {hook: lambda self: self.log({name: 0.5})}
    with pytest.raises(ConfigError, match=f"log.{words}.: the library reports"):
        type("Logs", (tiny,), logs)(config("base")).run()


def test_a_monitor_of_the_training_ranks_by_the_last_row(tiny, config, rows):
    keys = ["log.monitor=train/loss", "log.monitor_mode=min", "log.every_n_steps=9"]
    trainer = tiny(config("base", *keys))
    trainer.run()
    losses = [row["train/loss"] for row in rows(trainer.run_dir) if "train/loss" in row]
    best = load(trainer.run_dir / "ckpts" / "best.ckpt")
    assert best["metrics"]["train/loss"] == min(losses)


def test_a_monitor_that_is_never_reported_is_refused(tiny, config):
    trainer = tiny(config("base", "log.monitor=val/nosuch"))
    with pytest.raises(ConfigError, match="val/nosuch.*val/acc1"):
        trainer.run()


def test_a_name_without_a_slash_is_below_its_split(tiny, config, rows):
    class Logging(tiny):
        def compute_loss(self):
            self.log({"mine": 2.0, "train/full": 3.0, "step": 7.0})
            return super().compute_loss()

        def after_eval_epoch(self):
            self.log({"mine": 4.0, "epoch": 99.0})

    trainer = Logging(config("base", "log.every_n_steps=1"))
    trainer.run()
    first, *_ = rows(trainer.run_dir)
    assert (first["step"], first["train/step"]) == (1, 7.0)
    assert (first["train/mine"], first["train/full"]) == (2.0, 3.0)
    assert trainer.metrics["val/mine"] == trainer.metrics["test/mine"] == 4.0
    seen = [row["epoch"] for row in rows(trainer.run_dir) if "val/mine" in row]
    assert seen == [1, 2] and trainer.metrics["val/epoch"] == 99.0


def test_features_are_not_scored_as_logits(config):
    """Their width may happen to be the number of classes."""
    options = ["data.num_classes=128", "log.eval.linear=null"]
    trainer = method_class("simclr")(config("simclr", "optim.epochs=1", *options))
    trainer.run()
    assert "val/acc1" not in trainer.metrics
    assert "val/knn_acc1" in trainer.metrics


def test_without_validation_the_last_checkpoint_is_kept(tiny, config):
    trainer = tiny(config("base", "data.val=null", "log.monitor=null"))
    trainer.run()
    assert (trainer.run_dir / "ckpts" / "last.ckpt").exists()
    assert not (trainer.run_dir / "ckpts" / "best.ckpt").exists()


def test_the_probe_learns_and_leaves_the_method_alone(config, rows):
    trainer = method_class("simclr")(config("simclr", "log.every_n_steps=1"))
    trainer.run()
    losses = [r["train/probe_loss"] for r in rows(trainer.run_dir) if "train/lr" in r]
    assert losses[-1] < 0.8 * losses[0]
    assert not any("probe" in name or "linear" in name for name in trainer.state_dict())


# --- precision ------------------------------------------------------------------------


def test_bfloat16_on_the_cpu(config):
    trainer = method_class("simclr")(config("simclr", "hardware.precision=bfloat16"))
    trainer.run()
    assert all(p.dtype == torch.float32 for p in trainer.parameters())
    assert trainer.metrics["test/knn_acc1"] > 0.8


def test_float16_scales_the_loss(tiny, config):
    """On the linear trainer: a CPU convolves float16 a hundred times slower."""

    class Watched(tiny):
        def average_gradients(self):
            self.scaled = self.layer.weight.grad.norm()
            super().average_gradients()
            self.unscaled = self.layer.weight.grad.norm()

    trainer = Watched(config("base", "hardware.precision=float16"))
    trainer.run()
    assert trainer.scaler.is_enabled()
    assert trainer.scaled > 1000 > 10 > trainer.unscaled  # for who reads it
    assert trainer.metrics["test/knn_acc1"] > 0.8


# --- in a notebook --------------------------------------------------------------------


def test_a_run_needs_no_command_line(tmp_path):
    from stable_ssl import SimCLR

    config = load_config("simclr", [f"log.folder={tmp_path}", "optim.epochs=1"])
    assert SimCLR(config).run() > 0.5


def test_a_loader_that_ends_before_its_length_is_refused(tiny, config):
    class Short(tiny):
        def initialize_data(self):
            super().initialize_data()
            inner = self.train_loader

            class Promising:
                dataset, batch_size = inner.dataset, inner.batch_size

                def __len__(self):
                    return len(inner) + 2

                def __iter__(self):
                    return iter(inner)

            self.train_loader = Promising()

    with pytest.raises(ConfigError, match="ended after 9 batches of the 11"):
        Short(config()).run()


def test_a_run_leaves_torchs_settings_as_they_were(tiny, config):
    before = torch.get_num_threads()
    tiny(config("base", f"hardware.threads={before + 1}", "optim.epochs=1")).run()
    assert torch.get_num_threads() == before


def test_data_of_unknown_classes_are_said_to_be_unmeasured(tiny, config):
    class Unknown(tiny):
        predicts = False

        def initialize_data(self):
            super().initialize_data()
            self.num_classes = None

    trainer = Unknown(config("base", "log.monitor=null", "optim.epochs=1"))
    trainer.run()
    said = (trainer.run_dir / "console.log").read_text()
    assert "no probe, no kNN; set data.num_classes" in said


class TestStop:
    """`self.stop`, and `log.early_stopping`."""

    def test_the_run_ends_as_with_its_last_step(self, tiny, config, rows):
        class Stops(tiny):
            def after_train_step(self):
                if self.step == 5:
                    self.stop("enough")

        trainer = Stops(config("base", "log.eval.every_n_epochs=1"))
        trainer.run()
        assert trainer.step == 5
        found = rows(trainer.run_dir)
        assert [r["step"] for r in found if "train/loss" in r] == [3, 5]
        assert {r["step"] for r in found if "val/acc1" in r} == {5}
        assert {r["step"] for r in found if "test/acc1" in r} == {5}
        assert status(trainer)["status"] == "finished"
        assert status(trainer)["reason"] == "stopped at step 5: enough"

    def test_started_again_it_trains_no_further(self, tiny, config, rows):
        class Stops(tiny):
            def after_train_step(self):
                if self.step == 5:
                    self.stop("enough")

        first = Stops(config())
        first.run()
        before = rows(first.run_dir)
        again = tiny(config())
        again.run()
        assert again.step == 5 and rows(first.run_dir) == before
        constant = "optim.scheduler.name=constant"
        Stops(config("base", constant, "log.run=x")).run()
        longer = tiny(config("base", constant, "log.run=x", "optim.epochs=3"))
        longer.run()
        assert longer.step == 27

    @pytest.mark.parametrize("stop_at", [None, 11])
    def test_patience_ends_a_run_that_gets_no_better(self, tiny, config, rows, stop_at):
        values = {1: 0.1, 2: 0.5, 3: 0.4, 4: 0.5, 5: 0.9}

        class Judged(tiny):
            def before_train_step(self):
                if self.step == stop_at and self.rank == 0 and not self.resumed:
                    raise KeyError("killed")

            def after_eval_epoch(self):
                epoch = self.step // self.steps_per_epoch
                self.log({f"{self.split}/judged": values[epoch]})

        words = ["optim.epochs=5", "log.monitor=val/judged", "log.eval.linear=null"]
        words += [
            "log.early_stopping.patience=2",
            "log.checkpoint.every_n_steps=5",
        ]
        trainer = Judged(config("base", *words))
        trainer.resumed = False
        if stop_at:
            with pytest.raises(KeyError):
                trainer.run()
            trainer = Judged(config("base", *words))
            trainer.resumed = True
        trainer.run()
        assert trainer.step == 36  # epochs 3 and 4 were no better than 2
        status = json.loads((trainer.run_dir / "status.json").read_text())
        assert "val/judged has not been better than 0.5 for 2" in status["reason"]

    def test_a_metric_that_is_not_reported_is_named(self, tiny, config):
        words = ["log.early_stopping={patience: 2, monitor: val/knn_acc9}"]
        said = "log.early_stopping.monitor=val/knn_acc9 is never.*'val/knn_acc"
        with pytest.raises(ConfigError, match=said):
            tiny(config("base", *words)).setup()


def test_ranks_wait_for_a_row_and_for_nobody_at_the_end(tiny, config, monkeypatch):
    patient, seen = [], []

    @contextmanager
    def patience():
        patient.append(True)
        yield
        patient.pop()

    def write(self, row):
        assert patient
        seen.append("row")

    monkeypatch.setattr("stable_ssl.distributed.patient", patience)
    monkeypatch.setattr("stable_ssl.distributed.unwatch", lambda: seen.append("off"))
    monkeypatch.setattr(RunFolder, "write", write)
    close = Loader.close
    monkeypatch.setattr(Loader, "close", lambda self: seen.append("end") or close(self))
    tiny(config("base", "optim.epochs=1")).run()
    assert "row" in seen and seen.index("off") < seen.index("end")


@pytest.mark.parametrize(
    ("side", "asked", "threads", "said"),
    [
        (8, None, 1, "CPU, 1 thread a process: batches of 8,192 values are small"),
        (48, None, 3, "CPU, 3 threads a process"),
        (8, 2, 2, "CPU, 2 threads a process"),
    ],
)
def test_small_batches_are_computed_by_one_thread(
    side, asked, threads, said, tiny, config, capsys
):
    class Seen(tiny):
        def initialize_modules(self):
            self.threads = torch.get_num_threads()
            super().initialize_modules()

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    resize = f"[{{name: resize, size: {side}}}]"
    keys = [f"data.train.dataset.image_transform={resize}", "data.batch_size=128"]
    keys += ["data.val=null", "data.test=null", "log.monitor=null"]
    made = config("base", *keys, *([f"hardware.threads={asked}"] if asked else []))
    trainer = Seen(made)
    try:
        trainer.setup()
    finally:
        trainer.cleanup()
        torch.set_num_threads(before)
    assert trainer.threads == threads
    assert f"machine   {said}\n" in capsys.readouterr().out
