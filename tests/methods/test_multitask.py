"""Several heads: each reads its data, its loss is weighted, wrong ones are refused."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from stable_ssl import ConfigError, MultiTask

SMALL = ["++model.backbone.width=4", "++data.train.rotation.batch_size=12"]


@pytest.fixture
def make(config):
    """Return a maker of a small trainer that holds a batch."""
    made = []

    def build(recipe, *overrides):
        trainer = MultiTask(config(recipe, *SMALL, *overrides))
        made.append(trainer)
        trainer.setup()
        trainer.data = next(iter(trainer.train_loader))
        return trainer

    yield build
    for trainer in made:
        trainer.cleanup()


def test_the_loss_is_the_weighted_sum_and_each_is_logged(make):
    trainer = make("multitask", "model.heads.rotation.scale=0.3")
    (x, y), (turned, quarters) = trainer.data["images"], trainer.data["rotation"]
    assert len(x) == 20 and len(turned) == 48 and quarters.max() == 3
    trainer.train()
    found = trainer.compute_loss()
    heads, encode = trainer.heads, trainer.backbone
    supervised = cross_entropy(heads.supervised(encode(x)), y)
    rotation = cross_entropy(heads.rotation(encode(turned)), quarters)
    torch.testing.assert_close(found["supervised"], supervised)
    torch.testing.assert_close(found["rotation"], rotation)
    torch.testing.assert_close(found["loss"], supervised + 0.3 * rotation)


def test_the_loss_of_a_head_is_its_own(make):
    spec = "{_target_: torch.nn.CrossEntropyLoss, reduction: sum}"
    trainer = make("multitask", f"++model.heads.rotation.loss={spec}")
    turned, quarters = trainer.data["rotation"]
    logits = trainer.heads.rotation(trainer.backbone(turned))
    expected = cross_entropy(logits, quarters, reduction="sum")
    torch.testing.assert_close(trainer.compute_loss()["rotation"], expected)


def test_a_run_logs_each_loss_and_scores_the_head_of_the_classes(make):
    trainer = make("multitask", "optim.epochs=1", "log.every_n_steps=1")
    trainer.fit()
    names = {"train/supervised", "train/rotation", "train/loss", "val/acc1"}
    assert names <= trainer.metrics.keys()
    x = torch.rand(3, 1, 8, 8)
    logits = trainer.heads.supervised(trainer.backbone(x))
    torch.testing.assert_close(trainer.predict(x), logits)
    assert logits.shape == (3, 10) and trainer.encode(x).shape[1] != 10


def test_heads_may_share_a_loader_which_is_then_encoded_once(make):
    more = "++model.heads.parity={data: images, out_features: 10}"
    trainer = make("multitask", more)
    calls = []
    trainer.backbone.register_forward_hook(lambda m, x, y: calls.append(len(y)))
    assert "parity" in trainer.compute_loss() and calls == [20, 48]


def test_a_schedule_is_a_function_of_the_step(make):
    ramp = "++model.heads.rotation.schedule={name: constant, warmup_epochs: 1}"
    trainer = make("multitask", ramp, "++model.heads.rotation.scale=2.0")
    seen, epoch = [], trainer.steps_per_epoch
    trainer.after_train_step = lambda: seen.append(float(trainer.scales["rotation"]))
    trainer.fit()
    expected = [2 * min(step / epoch, 1) for step in range(2 * epoch)]
    assert seen == pytest.approx(expected) and seen[0] == 0 and seen[-1] == 2
    assert not math.isclose(seen[1], seen[2])


def test_rotation_alone_sees_no_label_and_is_judged_by_its_features(make):
    trainer = make("rotation", "optim.epochs=1", "++data.train.images.batch_size=24")
    assert trainer.compute_loss().keys() == {"loss", "rotation", "features"}
    assert not trainer.predicts and trainer(torch.rand(2, 1, 8, 8)).shape[1] > 10
    for _, labels in trainer.train_loader.loaders["images"]:
        assert labels.max() > 3  # the probe's are the digits', not the quarters'
    trainer.fit()
    assert {"val/acc1", "val/knn_acc1"} <= trainer.metrics.keys()


def test_one_loader_without_a_name_serves_the_heads(make, config):
    collate = "++data.train.collate_fn={_target_: stable_ssl.data.RotationCollate}"
    one = ["data=digits", "data.labelled=null", collate]
    view = "data.train.dataset.image_transform=${data.transforms.view}"
    trainer = MultiTask(config("rotation", *one, view, "log.eval={linear: null}"))
    trainer.setup()
    trainer.data = next(iter(trainer.train_loader))
    assert trainer.compute_loss()["loss"].isfinite()
    trainer.cleanup()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.predict=rotate", "predict=rotate; model.heads has supervised, rot"),
        ("++model.heads.rotation.data=rotations", "did you mean 'rotation'"),
        ("++model.heads.rotation._target_=torch.nn.Nosuch", "heads.rotation: .*Nosuch"),
        ("++model.heads.rotation.loss={_target_: torch.nosuch}", "torch.nosuch"),
        (
            "++model.heads.rotation.schedule={warmup: 1}",
            "heads.rotation: .*argument 'warmup'",
        ),
        (
            "++model.heads.rotation.schedule={name: cosine, min_lr: 2}",
            "heads.rotation: .*schedule.min_lr=2 is above the value 1",
        ),
    ],
)
def test_wrong_heads_are_refused_in_words(config, override, words):
    with pytest.raises(ConfigError, match=words):
        MultiTask(config("multitask", override)).run()
