"""iBOT: what is hidden of a student, and what it learns there from its teacher."""

import pytest
import torch
from torch.nn.functional import fold, unfold

from stable_ssl import IBOT, ConfigError
from stable_ssl.models import Directions

SMALL = "[{name: random_resized_crop, size: 4, scale: [0.1, 0.4]}]"
VIEW = "${data.transforms.view}"
TINY = [
    "data.batch_size=6",
    "model.backbone.dim=8",
    "model.backbone.depth=1",
    "model.backbone.heads=2",
    "model.hidden=8",
    "model.bottleneck=6",
    "model.prototypes=5",
    "++model.mask_share=1",
    f"++data.train.dataset.image_transform=[{VIEW},{VIEW},{SMALL},{SMALL}]",
]


@pytest.fixture
def make(config):
    """Return a maker of a tiny iBOT in float64 that holds a batch."""
    made = []

    def build(*overrides):
        trainer = IBOT(config("ibot", *TINY, *overrides))
        made.append(trainer)
        trainer.setup()
        trainer.double().train()
        views, labels = next(iter(trainer.train_loader))
        trainer.data = [view.double() for view in views], labels
        return trainer

    yield build
    for trainer in made:
        trainer.cleanup()


def changed(trainer):
    """Return the views with other pixels where the large ones are hidden."""
    views, masks = trainer.data[0], trainer.masks(trainer.data[0][:2]).chunk(2)
    assert all(mask.any(1).all() and not mask.all(1).any() for mask in masks)
    others = []
    for view, mask in zip(views, masks, strict=False):
        patches = unfold(view, 2, stride=2).mT
        other = torch.where(mask[..., None], torch.randn_like(patches), patches)
        others.append(fold(other.mT, view.shape[2:], 2, stride=2))
    return [*others, *views[2:]]


def test_the_student_sees_nothing_of_hidden_patches_and_its_teacher_all(make):
    trainer = make()
    seen, again = trainer.embed(trainer.data[0]), trainer.embed(changed(trainer))
    for name in ("student", "patches", "features", "mask"):
        torch.testing.assert_close(again[name], seen[name])
    assert not again["teacher"][0].isclose(seen["teacher"][0]).any()
    assert len(seen["student"]) == len(seen["features"]) == 4
    assert [len(seen[name]) for name in ("teacher", "patches", "mask")] == [2, 2, 2]


def test_views_and_steps_are_hidden_otherwise_and_a_share_of_them(make):
    trainer = make("++data.batch_size=64", "++model.mask_share=0.5")
    large = trainer.data[0][:2]
    first, second = trainer.masks(large).chunk(2)
    assert not first.equal(second) and trainer.masks(large).equal(trainer.masks(large))
    assert 0.3 < torch.cat([first, second]).any(1).double().mean() < 0.7
    trainer.step = 1
    assert not trainer.masks(large)[:64].equal(first)


def test_patches_may_have_a_last_layer_of_their_own(make):
    trainer, shared = make("++model.shared_head=false"), make()
    trainer.compute_loss()["loss"].backward()
    assert trainer.patch_last.weight.grad.abs().sum() > 0
    for run, count in ((trainer, 4), (shared, 2)):  # of the student and its teacher
        assert sum(isinstance(m, Directions) for m in run.modules()) == count
    with torch.no_grad():
        embedded = trainer.embed(trainer.data[0])
        trainer.patch_last.weight.neg_()
        torch.testing.assert_close(
            trainer.embed(trainer.data[0])["patches"][0], -embedded["patches"][0]
        )


def test_last_layers_wait_and_teacher_and_centres_move(make):
    trainer = make("++model.freeze_epochs=1", "++model.shared_head=false")
    before = {n: x.clone() for n, x in trainer.state_dict().items()}
    trainer.train_step(trainer.data)
    trainer.after_train_step()
    moved = {n for n, x in trainer.state_dict().items() if not x.equal(before[n])}
    assert {"center.value", "patch_center.value", "head.mlp.0.weight"} <= moved
    assert "teacher.module.backbone.blocks.0.mlp.fc1.weight" in moved
    assert not {"head.last.weight", "patch_last.weight"} & moved
    assert all(p.grad is None for p in trainer.teacher.parameters())


@pytest.mark.parametrize(
    "backbone, words",
    [
        ("{name: convnet}", "is no VisionTransformer of timm"),
        ("{name: vit, class_token: false}", "it has no class token"),
    ],
)
def test_a_backbone_without_patches_or_class_token_is_refused(config, backbone, words):
    keys = "data.val=null", "data.test=null", "~model.backbone"
    with pytest.raises(ConfigError, match=words):
        IBOT(config("ibot", *keys, f"+model.backbone={backbone}")).run()
