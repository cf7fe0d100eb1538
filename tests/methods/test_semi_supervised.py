"""FixMatch and Mean Teacher: the losses of the papers, put together by hand."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from stable_ssl import ConfigError, FixMatch, MeanTeacher
from stable_ssl.methods.mean_teacher import ramp

SMALL = ["++model.backbone.width=4", "data.batch_size=32"]


@pytest.fixture
def make(config):
    """Return a maker of a small trainer in float64 that holds a batch."""
    made = []

    def build(cls, recipe, *overrides):
        trainer = cls(config(recipe, *SMALL, *overrides))
        made.append(trainer)
        trainer.setup()
        trainer.double()
        data = next(iter(trainer.train_loader))
        (x, y), (views, z) = data["labelled"], data["unlabelled"]
        trainer.data = {
            "labelled": (x.double(), y),
            "unlabelled": ([view.double() for view in views], z),
        }
        trainer.train()
        return trainer

    yield build
    for trainer in made:
        trainer.cleanup()


def test_fixmatch_teaches_the_strong_view_what_the_weak_is_sure_of(make):
    trainer = make(FixMatch, "fixmatch", "++model.weight=0.5", "model.threshold=0.13")
    (x, y), ((weak, strong), _) = trainer.data.values()
    found = trainer.compute_loss()
    logits = trainer(torch.cat([x, weak, strong]))  # one batch for the batch norms
    p = logits[20:52].softmax(1)
    losses = [
        cross_entropy(s[None], q.argmax()[None]) if q.max() >= 0.13 else s.new_zeros(())
        for q, s in zip(p, logits[52:], strict=True)
    ]
    sure = sum(q.max() >= 0.13 for q in p)
    assert 0 < sure < 32 and found["mask_rate"] == sure / 32
    supervised, unlabelled = cross_entropy(logits[:20], y), sum(losses) / 32
    torch.testing.assert_close(found["pseudo_label"], unlabelled)
    torch.testing.assert_close(found["loss"], supervised + 0.5 * unlabelled)


def test_mean_teacher_compares_two_views_of_student_and_teacher(make):
    trainer = make(MeanTeacher, "mean_teacher", "model.weight=8")
    trainer.teacher.module[1].weight.mul_(3)
    trainer.teacher.train()
    (x, y), ((shown, view), _) = trainer.data.values()
    found = trainer.compute_loss()
    logits, teacher = trainer(torch.cat([x, view])), trainer.teacher
    target = teacher(torch.cat([x, shown]))[20:].softmax(1)
    apart = (logits[20:].softmax(1) - target).square().sum() / (32 * 10)
    expected = cross_entropy(logits[:20], y) + 8 * apart
    torch.testing.assert_close(found["loss"], expected)
    assert apart > 1e-4 and not target.requires_grad


def test_the_weight_climbs_and_stays(make):
    assert [ramp(step, 10) for step in (0, 10, 11)] == [math.exp(-5), 1, 1]
    assert ramp(5, 10) == math.exp(-5 / 4) and ramp(0, 0) == 1
    trainer = make(MeanTeacher, "mean_teacher", "model.weight=8")
    trainer.step = trainer.steps_per_epoch * 5  # half of the ramp's 10 epochs
    trainer.config.model.ramp_epochs = 10
    trainer.optimizer_step = lambda: None
    trainer.train_step(trainer.data)
    assert float(trainer.weight) == pytest.approx(8 * math.exp(-5 / 4))


@pytest.mark.parametrize(
    ("cls", "recipe", "part"),
    [(FixMatch, "fixmatch", "average"), (MeanTeacher, "mean_teacher", "teacher")],
)
def test_metrics_see_the_moving_average(make, cls, recipe, part):
    trainer, x = make(cls, recipe).eval(), torch.rand(4, 1, 8, 8).double()
    average = getattr(trainer, part).module
    with torch.no_grad():
        average[1].weight.zero_()
    assert torch.equal(trainer.predict(x), average[1].bias.expand(4, 10))
    torch.testing.assert_close(trainer(x), trainer.classifier(trainer.backbone(x)))
    assert not trainer(x).isclose(trainer.predict(x)).all()


@pytest.mark.parametrize("recipe", ["fixmatch", "mean_teacher"])
@pytest.mark.parametrize("wrong", ["one view", "one loader"])
def test_other_loaders_are_refused(config, recipe, wrong):
    cls = {"fixmatch": FixMatch, "mean_teacher": MeanTeacher}[recipe]
    one = "data.train.unlabelled.dataset.image_transform=${data.transforms.weak}"
    override = one if wrong == "one view" else "data.train.unlabelled=null"
    with pytest.raises(ConfigError, match=f"{cls.__name__} needs .*'unlabelled': 2"):
        cls(config(recipe, override)).setup()


def test_the_average_has_the_networks_statistics(make):
    trainer = make(FixMatch, "fixmatch")
    trainer.train_micro_batch(trainer.data)
    average, student = trainer.average.module, trainer.student
    for own, followed in zip(student.buffers(), average.buffers(), strict=True):
        assert own.equal(followed)
    pairs = zip(student.parameters(), average.parameters(), strict=True)
    assert not all(own.equal(followed) for own, followed in pairs)


def test_the_teachers_momentum_steps_as_the_ramp_ends(make):
    trainer = make(MeanTeacher, "mean_teacher", "model.ramp_epochs=1")
    weight, teacher = trainer.classifier.weight, trainer.teacher.module[1].weight
    for steps_more, alpha in ((0, 0.95), (1, 0.99)):
        trainer.step = trainer.steps_per_epoch + steps_more
        with torch.no_grad():
            weight.add_(1)
        before = teacher.clone()
        trainer.after_train_step()  # of step number `trainer.step - 1`
        torch.testing.assert_close(
            teacher.detach(), alpha * before + (1 - alpha) * weight.detach()
        )
