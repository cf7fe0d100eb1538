"""Exact resume: a killed run, started again, ends as the one that was never killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from omegaconf import OmegaConf

from stable_ssl import BaseTrainer
from stable_ssl.checkpoint import equal, load
from stable_ssl.methods import SimCLR
from stable_ssl.secrets import masked


def final(run_dir):
    """Return all that must be equal at the end of a run, from its last checkpoint."""
    state = load(run_dir / "ckpts" / "last.ckpt")
    return {
        k: state[k] for k in state if k not in ("config", "rows", "metrics", "logged")
    }


class Killed(Exception):
    """Stands for the end of a process."""


def killed_at(cls, step):
    """Return the trainer, dying in the middle of the step after `step`."""

    def optimizer_step(self):
        if self.step == step:
            raise Killed
        super(dying, self).optimizer_step()

    dying = type(cls.__name__, (cls,), {"optimizer_step": optimizer_step})
    return dying


OPTIONS = [
    "optim.epochs=3",
    "log.checkpoint.every_n_steps=4",
    "log.every_n_steps=3",
    "log.eval.every_n_steps=7",
    "++optim.grad_max_norm=1",
]
SMALL = "++model.backbone.width=8"


def test_resume_is_exact(config, rows):
    """Before and at a checkpoint, at the end of an epoch, and late in others."""
    whole = SimCLR(config("simclr", "log.run=whole", SMALL, *OPTIONS))
    whole.run()
    for step in (3, 4, 9, 14, 26):
        options = [*OPTIONS, SMALL, f"log.run=killed_at_{step}"]
        with pytest.raises(Killed):
            killed_at(SimCLR, step)(config("simclr", *options)).run()
        resumed = SimCLR(config("simclr", *options))
        resumed.run()
        assert equal(final(whole.run_dir), final(resumed.run_dir)), step
        assert rows(whole.run_dir) == rows(resumed.run_dir), step
        log = (resumed.run_dir / "console.log").read_text()
        assert ("resumed at epoch" in log) == (step >= 4)


def test_resume_under_accumulation_and_dropout(tiny, config, rows):
    class Dropping(tiny):
        def forward(self, x):
            return super().forward(torch.nn.functional.dropout(x, 0.5, self.training))

    options = [*OPTIONS, "optim.accumulate=4", "data.batch_size=64"]
    whole = Dropping(config("base", "log.run=whole", *options))
    whole.run()
    with pytest.raises(Killed):
        killed_at(Dropping, 6)(config("base", *options)).run()
    resumed = Dropping(config("base", *options))
    resumed.run()
    assert equal(final(whole.run_dir), final(resumed.run_dir))
    assert rows(whole.run_dir) == rows(resumed.run_dir)


@pytest.mark.parametrize(
    ("accumulate", "step", "steps"),
    [
        (2, 4, 10),  # 9 batches are 4 steps of 2 and one of 1
        (2, 5, 10),  # the last of an epoch
        (2, 10, 10),  # and of the training
        (4, 3, 7),  # which ends in the middle of an epoch
        (9, 1, 2),  # an epoch is one step
    ],
)
def test_resume_at_the_end_of_an_epoch_that_accumulation_does_not_divide(
    tiny, config, rows, monkeypatch, accumulate, step, steps
):
    """The resumed run does what the epoch has left: hooks, validation, checkpoint."""

    class Counting(tiny):
        def initialize_modules(self):
            super().initialize_modules()
            self.register_buffer("seen", torch.zeros(()))

        def after_train_epoch(self):
            views, _ = self.data
            self.seen += 1 + views[0].sum()

    class Signalled(Counting):
        def after_train_step(self):
            if self.step == step:
                os.kill(os.getpid(), signal.SIGTERM)

    class Dying(Counting):
        def before_train_step(self):
            if self.step == step:
                raise Killed

        def after_train_epoch(self):
            self.before_train_step()
            super().after_train_epoch()

    monkeypatch.setattr(
        "stable_ssl.tools.learning_curves.learning_curves", lambda folder: []
    )
    Signalled.__name__ = Dying.__name__ = "Counting"
    options = [
        *(
            "optim.epochs=null",
            f"optim.steps={steps}",
            f"optim.accumulate={accumulate}",
        ),
        *("log.every_n_steps=1", f"log.checkpoint.every_n_steps={step}"),
        *("log.eval.linear=null", "log.eval.knn=null", "log.monitor=val/acc1"),
    ]
    whole = Counting(config("base", "log.run=whole", *options))
    whole.run()
    for stopped in (Signalled, Dying):
        own = [*options, f"log.run=stopped_{stopped is Dying}"]
        with pytest.raises((Killed, SystemExit)):
            stopped(config("base", *own)).run()
        resumed = Counting(config("base", *own))
        resumed.run()
        assert whole.step == resumed.step == steps
        assert equal(final(whole.run_dir), final(resumed.run_dir))
        assert rows(whole.run_dir) == rows(resumed.run_dir)


def test_a_run_killed_before_its_last_checkpoint_was_named(tiny, config, monkeypatch):
    """A restart has nothing to train, and gives the names that the last save owed."""
    keys = ["log.checkpoint.every_n_steps=4", "log.eval.every_n_steps=4"]

    class Dying(tiny):
        def save_checkpoint(self):
            with monkeypatch.context() as patch:
                if self.epoch == 2:
                    patch.setattr("stable_ssl.checkpoint.add_name", die)
                super().save_checkpoint()

    def die(path, name):
        raise Killed

    with pytest.raises(Killed):
        Dying(config("base", *keys)).run()
    run = tiny(config("base", *keys))
    run.run()
    last, best = (load(run.run_dir / "ckpts" / f"{n}.ckpt") for n in ("last", "best"))
    assert (last["step"], last["epoch"]) == (18, 2)
    assert f"e{best['epoch']:03d}_s{best['step']:06d}.ckpt" == last["best"][0][1]


def test_a_finished_run_started_again_changes_nothing(tiny, config, rows):
    first = tiny(config())
    first.run()
    before = rows(first.run_dir)
    again = tiny(config())
    assert again.run() == first.metrics["val/knn_acc1"]
    assert rows(first.run_dir) == before


def test_a_training_may_be_made_longer(tiny, config):
    """In the middle of an epoch, too: the batches that come are those of a long run."""
    constant = ["optim.epochs=null", "optim.scheduler.name=constant"]
    long = tiny(config("base", "log.run=long", "optim.steps=22", *constant))
    long.run()
    tiny(config("base", "optim.steps=13", *constant)).run()
    longer = tiny(config("base", "optim.steps=22", *constant))
    longer.run()
    assert longer.step == 22
    assert equal(final(long.run_dir)["modules"], final(longer.run_dir)["modules"])


def test_a_run_may_go_on_from_another_ones_state(tiny, config):
    first = tiny(config())
    first.run()
    path = first.run_dir / "ckpts" / "e001_s000009.ckpt"
    second = tiny(config("base", "log.run=second", f"log.resume={path}"))
    second.run()
    assert equal(final(first.run_dir)["modules"], final(second.run_dir)["modules"])


def test_a_fresh_run_does_not_overwrite_an_old_one(tiny, config):
    tiny(config()).run()
    from stable_ssl import ConfigError

    with pytest.raises(ConfigError, match="log.resume=null.*holds a run already"):
        tiny(config("base", "log.resume=null")).run()


def test_a_checkpoint_of_another_model_is_refused(tiny, config):
    from stable_ssl import ConfigError

    tiny(config()).run()

    class Wider(tiny):
        def initialize_modules(self):
            self.layer = torch.nn.Linear(64, 12)
            self.more = torch.nn.Linear(1, 1)

    with pytest.raises(ConfigError, match="another model.*more.weight.*layer.weight"):
        Wider(config()).run()


def test_a_run_does_not_go_on_under_other_settings(tiny, config):
    from stable_ssl import ConfigError

    tiny(config()).run()
    for other in ("optim.lr=0.2", "hardware.seed=1", "data.batch_size=64"):
        name, _, value = other.partition("=")
        with pytest.raises(ConfigError, match=f"was trained with {name}=.*{value}"):
            tiny(config("base", other)).run()


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("optim.nesterov", True),
        ("optim.scheduler.min_lr", 0.01),
        ("model.temperature", 0.5),
        ("data.decode", False),
        ("log.eval.linear.weight_decay", 0.5),
    ],
)
def test_a_key_that_is_newer_than_the_checkpoint_had_its_default(config, key, other):
    from stable_ssl import ConfigError, MoCoV2

    def begun(*overrides):
        trainer = MoCoV2(config("moco_v2", "log.run=one", *overrides))
        trainer.setup()
        return trainer

    trainer = begun()
    *path, name = key.split(".")
    trainer.config = OmegaConf.create(OmegaConf.to_container(trainer.config))
    del OmegaConf.select(trainer.config, ".".join(path))[name]
    trainer.save_checkpoint()
    trainer.cleanup()
    again = begun()
    again.cleanup()
    assert again.resumed_state["config"] == masked(trainer.config)
    with pytest.raises(ConfigError, match=f"trained with {key}=.*, not {other};"):
        begun(f"++{key}={other}")


def test_a_refused_command_leaves_the_status_of_a_finished_run(tiny, config):
    from stable_ssl import ConfigError

    trainer = tiny(config())
    trainer.run()
    with pytest.raises(ConfigError):
        tiny(config("base", "optim.lr=0.2")).run()
    status = json.loads((trainer.run_dir / "status.json").read_text())
    assert status["status"] == "finished"


def test_a_probe_that_was_never_trained_is_not_evaluated(tiny, config):
    from stable_ssl import ConfigError

    trained = tiny(config("base", "log.eval.linear=null"))
    trained.run()
    path = trained.run_dir / "ckpts" / "last.ckpt"
    with pytest.raises(ConfigError, match="no linear probe; set log.eval.linear=null"):
        tiny(config("base", "log.run=x", "mode=test", f"log.load_from={path}")).run()


def test_load_from_takes_what_fits_and_names_the_rest(tiny, config):
    first = tiny(config())
    first.run()
    path = first.run_dir / "ckpts" / "last.ckpt"

    class More(tiny):
        def initialize_modules(self):
            super().initialize_modules()
            self.more = torch.nn.Linear(1, 1)

    second = More(config("base", "log.run=second", f"log.load_from={path}"))
    second.setup()
    assert torch.equal(second.layer.weight, load(path)["modules"]["layer.weight"])
    assert second.step == 0
    assert (
        "2 missing: more.weight, more.bias"
        in (second.run_dir / "console.log").read_text()
    )
    second.cleanup()


def test_a_run_that_is_resumed_does_not_load_weights_again(tiny, config):
    first = tiny(config("base", "hardware.seed=1"))
    first.run()
    path = f"log.load_from={first.run_dir / 'ckpts' / 'last.ckpt'}"
    tiny(config("base", "log.run=second", path, "optim.epochs=1")).run()
    again = tiny(config("base", "log.run=second", path))
    again.setup()
    own = load(again.run_dir / "ckpts" / "last.ckpt")["modules"]["layer.weight"]
    assert again.step == 9 and torch.equal(again.layer.weight, own)
    assert not torch.equal(own, first.layer.weight)
    assert (again.run_dir / "console.log").read_text().count("weights of") == 1
    again.cleanup()


def test_weights_of_which_none_fits_are_refused(tiny, config):
    from stable_ssl import ConfigError

    first = tiny(config())
    first.run()

    class Other(tiny):
        def initialize_modules(self):
            self.other = torch.nn.Linear(64, 10)

        def forward(self, x):
            return self.other(x.flatten(1))

    path = first.run_dir / "ckpts" / "last.ckpt"
    with pytest.raises(ConfigError, match="no tensor of this model: 2 missing: other"):
        Other(config("base", "log.run=second", f"log.load_from={path}")).setup()


def test_a_process_killed_by_the_kernel_resumes(main, tmp_path, rows):
    """SIGKILL to a real process, mid-run; the same command line goes on."""
    command = [
        sys.executable,
        str(main),
        "optim.epochs=3",
        "log.checkpoint.every_n_steps=2",
        "log.every_n_steps=2",
        "log.eval.untrained=false",
        "log.eval.few_labels=[]",
        "log.pictures=null",
    ]
    runs = {}
    for name in ("whole", "killed"):
        runs[name] = tmp_path / "runs" / "simclr" / name
        line = [*command, f"log.folder={tmp_path}", f"log.run={name}"]
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
        if name == "killed":
            metrics = runs[name] / "metrics.jsonl"
            while not metrics.exists() or metrics.read_bytes().count(b"\n") < 8:
                assert process.poll() is None
                time.sleep(0.02)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            assert json.loads((runs[name] / "status.json").read_text()) == {
                "status": "running",
                "reason": "",
                "format": 1,
            }
            process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
        assert process.wait(timeout=240) == 0
    assert equal(final(runs["whole"]), final(runs["killed"]))
    assert rows(runs["whole"]) == rows(runs["killed"])
    assert "resumed at" in (runs["killed"] / "console.log").read_text()


def test_checkpoints_by_the_clock(tiny, config, monkeypatch):
    """Of steps that take 20 s each."""
    saved = []

    class Watched(tiny):
        def save_checkpoint(self):
            saved.append(self.step)
            super().save_checkpoint()

    keys = ["log.checkpoint.every_n_minutes=1", "log.checkpoint.every_n_epochs=null"]
    trainer = Watched(config("base", *keys))
    clock = "stable_ssl.trainer.time.monotonic"
    monkeypatch.setattr(clock, lambda: 20.0 * trainer.step)
    trainer.run()
    assert saved == [4, 8, 12, 16, 18]


def test_a_run_without_last_leaves_its_best_alone(tiny, config):
    trainer = tiny(
        config("base", "log.checkpoint.last=false", "log.monitor=val/knn_acc1")
    )
    value = trainer.run()
    names = sorted(p.name for p in (trainer.run_dir / "ckpts").iterdir())
    assert names[0] == "best.ckpt" and len(names) == 2
    again = tiny(
        config("base", "log.checkpoint.last=false", "log.monitor=val/knn_acc1")
    )
    assert again.run() == value
    assert sorted(p.name for p in (trainer.run_dir / "ckpts").iterdir()) == names


def test_a_module_with_state_of_its_own_goes_on(tiny, config):
    class Counting(torch.nn.Module):
        count = 0

        def get_extra_state(self):
            return {"count": self.count}

        def set_extra_state(self, state):
            self.count = state["count"]

    class Counted(tiny):
        def initialize_modules(self):
            super().initialize_modules()
            self.counter = Counting()

        def after_train_step(self):
            self.counter.count += 1

    Counted(config("base", "optim.epochs=1")).run()
    longer = Counted(config())
    longer.run()
    assert longer.counter.count == longer.step == 18


def last(trainer):
    return f"log.resume={trainer.run_dir / 'ckpts' / 'last.ckpt'}"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lr=0.2", "trained with optim.lr=0.1, not 0.2.*log.load_from"),
        ("log.eval.linear.lr=0.5", "trained with log.eval.linear.lr="),
        ("optim.epochs=1", "is of step 18, beyond the 9 of optim.epochs=1"),
    ],
)
def test_another_ones_state_goes_on_as_it_was_trained(tiny, config, override, words):
    from stable_ssl import ConfigError

    first = tiny(config())
    first.run()
    for start in (["log.run=second", last(first)], []):
        with pytest.raises(ConfigError, match=words):
            tiny(config("base", override, *start)).setup()


def test_another_length_is_said(tiny, config):
    tiny(config("base", "optim.epochs=1")).run()
    longer = tiny(config())
    longer.run()
    text = (longer.run_dir / "console.log").read_text()
    assert "optim.epochs=1 optim.steps=None until step 9, optim.epochs=2" in text


def test_an_epoch_of_another_length_is_refused(tiny, config):
    from stable_ssl import ConfigError

    class Half(tiny):
        def initialize_data(self):
            super().initialize_data()
            self.train_loader.sampler.size //= 2

    tiny(config("base", "optim.epochs=1")).run()
    with pytest.raises(
        ConfigError, match="an epoch was 9 batches, 128 images a step, and"
    ):
        Half(config()).setup()


def test_a_stream_may_go_on_for_more_steps(tiny, config, monkeypatch):
    from torch.utils.data import IterableDataset

    from stable_ssl.data.datasets import BUILDERS, digits

    class Stream(IterableDataset):
        num_classes = 10

        def __iter__(self):
            data = digits(subset="train")
            yield from (data[i] for i in range(200))

    monkeypatch.setitem(BUILDERS, "stream", lambda subset=None, root=None: Stream())
    node = "{dataset: {name: stream, image_transform: []}, num_workers: 1}"
    words = [f"++data.train={node}", "optim.epochs=null", "log.eval.knn=null"]
    words += ["log.monitor=null", "optim.scheduler.name=constant", "data.batch_size=50"]
    words += ["log.eval.linear=null"]
    tiny(config("base", *words, "optim.steps=5")).run()
    longer = tiny(config("base", *words, "optim.steps=10"))
    longer.run()
    whole = tiny(config("base", *words, "optim.steps=10", "log.run=whole"))
    whole.run()
    assert longer.step == 10
    assert equal(final(longer.run_dir)["modules"], final(whole.run_dir)["modules"])


def test_an_epoch_is_compared_by_what_is_known(config):
    from stable_ssl import ConfigError
    from stable_ssl.checkpoint import length_changed

    optim = {"epochs": 2, "steps": None}
    old = {"format": 3, "lengths": [4, 1], "config": {"optim": optim}, "step": 4}
    assert length_changed(old, optim, 8, (4, None)) == ""
    with pytest.raises(ConfigError, match="was 4 batches, .* and is 5 batches, 64 im"):
        length_changed(old, optim, 8, (5, 64))
    new = {**old, "format": 4, "lengths": [4, 16]}
    with pytest.raises(ConfigError, match="16 images .* an unknown number of images"):
        length_changed(new, optim, 8, (4, None))


def test_data_may_move(tiny, config):
    from stable_ssl.checkpoint import refuse_other_settings
    from stable_ssl.config import ConfigError

    saved, now = masked(config()), masked(config())
    now["data"]["train"]["dataset"]["root"] = "/scratch/7"
    now["data"]["train"]["num_workers"] = 3
    refuse_other_settings(saved, now)
    now["data"]["train"]["dataset"]["subset"] = "val"
    with pytest.raises(ConfigError, match="data.train.dataset.subset=train, not val"):
        refuse_other_settings(saved, now)


@pytest.mark.parametrize("schedule", ["cosine", "null"])
@pytest.mark.parametrize("step", [9, 13, 20])
def test_layers_unfrozen_during_the_training(config, rows, step, schedule):
    class Unfrozen(BaseTrainer):
        predicts = True

        def initialize_modules(self):
            self.body, self.head = torch.nn.Linear(64, 64), torch.nn.Linear(64, 10)
            self.body.requires_grad_(False)

        def forward(self, x):
            return self.head(self.body(x.flatten(1)).relu())

        def compute_loss(self):
            (view, _), labels = self.data
            return torch.nn.functional.cross_entropy(self(view), labels)

        def before_train_epoch(self):
            if self.epoch == 1 and not self.body.weight.requires_grad:
                self.body.requires_grad_(True)
                group = {"params": list(self.body.parameters()), "lr": 0.01}
                self.optimizer.add_param_group(group)

    options = [*OPTIONS, f"optim.scheduler={{name: {schedule}}}"]
    if schedule == "null":
        options[-1] = "optim.scheduler=null"
    whole = Unfrozen(config("base", "log.run=whole", *options))
    whole.run()
    with pytest.raises(Killed):
        killed_at(Unfrozen, step)(config("base", *options)).run()
    resumed = Unfrozen(config("base", *options))
    resumed.run()
    sizes = [len(group["params"]) for group in resumed.optimizer.param_groups]
    assert sizes == [1, 1, 2]  # the head's matrix and bias, the body
    assert equal(final(whole.run_dir), final(resumed.run_dir))
    assert rows(whole.run_dir) == rows(resumed.run_dir)


@pytest.mark.parametrize("number", [2, 99])
def test_a_checkpoint_of_another_format_is_refused(tiny, config, number):
    from stable_ssl import ConfigError
    from stable_ssl.checkpoint import save

    first = tiny(config())
    first.run()
    path = first.run_dir / "ckpts" / "e002_s000018.ckpt"
    save(path, {**load(path), "format": number})
    with pytest.raises(ConfigError, match=f"has format {number}, and this version"):
        tiny(config()).run()
