"""Distillation: the teacher stays, and its student learns its features."""

import pytest
import torch

from stable_ssl import ConfigError, Distillation, SimCLR

VIT = "{{name: vit, image_size: 8, patch_size: {}, dim: {}, depth: 1, heads: 2}}".format
TINY = ["data.batch_size=6", "model.hidden=8"]
VITS = [
    "~model.backbone",
    "~model.teacher",
    f"+model.backbone={VIT(2, 8)}",
    f"+model.teacher={VIT(4, 12)}",
    "model.patch_weight=1",
]


@pytest.fixture
def make(config):
    """Return a maker of a tiny distillation in float64 that holds a batch."""
    made = []

    def build(*overrides):
        trainer = Distillation(config("distillation", *TINY, *overrides))
        made.append(trainer)
        trainer.setup()
        trainer.double().train()
        views, labels = next(iter(trainer.train_loader))
        trainer.data = views.double(), labels
        return trainer

    yield build
    for trainer in made:
        trainer.cleanup()


def test_the_teacher_keeps_weights_and_running_statistics(make):
    trainer = make()
    before = {n: x.clone() for n, x in trainer.teacher.state_dict().items()}
    trainer.train_step(trainer.data)
    for name, tensor in trainer.teacher.state_dict().items():
        assert tensor.equal(before[name]), name
    assert not any(module.training for module in trainer.teacher.modules())
    held = {id(p) for g in trainer.optimizer.param_groups for p in g["params"]}
    assert not held & {id(p) for p in trainer.teacher.parameters()}


def test_patches_of_another_grid_are_compared_at_the_teachers(make):
    trainer = make(*VITS)
    found = trainer.compute_loss()
    assert found["loss"] == found["image_loss"] + found["patch_loss"]
    found["loss"].backward()
    assert trainer.patch_projector[0].weight.grad.abs().sum() > 0


def test_a_student_that_is_its_teacher_has_nothing_to_learn(make):
    trainer = make(*VITS[:3], f"+model.teacher={VIT(2, 8)}", "model.patch_weight=1")
    trainer.teacher.load_state_dict(trainer.backbone.state_dict())
    trainer.projector = trainer.patch_projector = torch.nn.Identity()
    found = trainer.compute_loss()
    assert found["image_loss"].abs() < 1e-12 and found["patch_loss"].abs() < 1e-12


def test_weights_of_a_run_are_the_teachers(config, make):
    run = SimCLR(config("simclr", "++model.backbone.width=4", "optim.epochs=1"))
    run.run()
    path = run.run_dir / "ckpts" / "last.ckpt"
    keys = "model.teacher.width=4", f"model.teacher.weights={path}", "log.run=student"
    trainer = make(*keys)
    expected = run.backbone.state_dict()
    for name, tensor in trainer.teacher.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], check_dtype=False)


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["model.teacher.name=null"], "model.teacher is not set; give the network"),
        (["model.patch_weight=1"], "Sequential is no VisionTransformer of timm"),
        (["model.teacher.name=resnt18"], "model.teacher.name=resnt18 is none of"),
        (["++model.teacher.provider=hub"], "model.teacher.provider=hub, expected"),
    ],
)
def test_no_teacher_or_one_without_patches_is_refused(make, overrides, words):
    with pytest.raises(ConfigError, match=words):
        make(*overrides)
