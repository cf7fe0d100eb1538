"""Features are made once, and looking leaves no trace."""

import pytest
import torch
from torch import nn

from stable_ssl.evaluation.suite import undisturbed


def test_modes_are_restored_one_by_one():
    """A frozen norm inside a training model is frozen still."""
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(nn.Dropout(), nn.ReLU()))
    model.train()
    model[0].eval()
    with undisturbed(model):
        assert not any(m.training for m in model.modules())
        assert not torch.is_grad_enabled()
        torch.rand(3)
    assert [m.training for m in model] == [False, True]
    assert model[1][0].training


def test_a_loss_that_encodes_its_views_pays_nothing_for_the_probe(config):
    from stable_ssl import SimCLR

    calls = []

    class Counting(SimCLR):
        def forward(self, x):
            calls.append(torch.is_grad_enabled())
            return super().forward(x)

    trainer = Counting(
        config(
            "simclr",
            "optim.epochs=1",
            "data.val=null",
            "data.test=null",
            "log.monitor=null",
        )
    )
    trainer.setup()
    calls.clear()
    trainer.train_epoch()
    trainer.cleanup()
    assert calls == [True] * 9  # both views at once


def test_a_loss_that_encodes_no_whole_view_pays_one_call(tiny, config):
    class Joint(tiny):
        def compute_loss(self):
            views, labels = self.data
            logits = self(torch.cat(views))
            return nn.functional.cross_entropy(logits, labels.repeat(2))

    trainer = Joint(config("base", "optim.epochs=1", "log.every_n_steps=1"))
    trainer.run()
    assert trainer.metrics["train/probe_loss"] < 3


@pytest.mark.parametrize("linear", ["null", "{}"])
def test_an_evaluation_encodes_a_view_once(config, linear):
    from stable_ssl import Supervised

    calls = []

    class Counting(Supervised):
        def encode(self, x):
            calls.append(x)
            return super().encode(x)

    trainer = Counting(config("supervised", f"log.eval={{linear: {linear}}}"))
    trainer.setup()
    for loader in trainer.loaders.values():  # views of one batch are one object
        calls.clear()
        evaluation = trainer.evaluation
        with evaluation.collecting(evaluation.due("val", 0, False)):
            batch = trainer.data = next(iter(loader))
            trainer.split = "val"
            trainer.eval_step(batch)
            evaluation.see(batch, loader)
        assert len(calls) == 1
    trainer.cleanup()


def test_a_probe_without_data_to_measure_features_on_is_none(tiny, config):
    """Such a run has loaders of its own; its checkpoints hold no probe."""

    class Bare(tiny):
        def initialize_data(self):
            super().initialize_data()
            self.loaders = {}

    trainer = Bare(config("base", "log.monitor=null", "optim.epochs=1"))
    trainer.run()
    assert trainer.evaluation.probe is None
    assert list((trainer.run_dir / "ckpts").glob("e*.ckpt"))
