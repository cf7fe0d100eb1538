"""DINOv2: hidden patches alone are compared; registers and small crops are none."""

import pytest
import torch

from stable_ssl import DINOv2, losses
from stable_ssl.models import patch_tokens

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
    f"++data.train.dataset.image_transform=[{VIEW},{VIEW},{SMALL},{SMALL}]",
]


@pytest.fixture
def make(config):
    """Return a maker of a tiny DINOv2 in float64 that holds a batch."""
    made = []

    def build(*overrides):
        drop = overrides[:1] == ("~model.backbone",)
        tiny = [key for key in TINY if not (drop and key.startswith("model.backbone"))]
        trainer = DINOv2(config("dinov2", *tiny, *overrides))
        made.append(trainer)
        trainer.setup()
        trainer.double().train()
        views, labels = next(iter(trainer.train_loader))
        trainer.data = [view.double() for view in views], labels
        return trainer

    yield build
    for trainer in made:
        trainer.cleanup()


def test_logits_of_patches_are_those_of_the_hidden_ones(make):
    trainer = make()
    views = trainer.data[0]
    mask, places, hidden = trainer.masks(views[:2])
    embedded = trainer.embed(views)
    assert embedded["patches"][0].shape == (6, 8, 5)  # half of 16 patches at most
    tokens = patch_tokens(trainer.teacher.module[0], torch.cat(views[:2]))
    assert tokens.shape[1] == 1 + 2 + 16
    expected = trainer.patch_head(tokens[:, 3:][mask])  # still the teacher's weights
    found = torch.cat(embedded["teacher_patches"])[torch.cat(embedded["hidden"])]
    torch.testing.assert_close(found, expected)
    assert hidden.sum() == mask.sum() > 0 and (places < 16).all()


def test_the_loss_is_the_weighted_sum_of_three(make):
    trainer = make("++model.patch_weight=0.5", "++model.koleo_weight=0.3")
    found = trainer.compute_loss()
    class_loss, patch_loss, koleo = (
        found[name] for name in ("class_loss", "patch_loss", "koleo")
    )
    torch.testing.assert_close(
        found["loss"], class_loss + 0.5 * patch_loss + 0.3 * koleo
    )
    first, second = found["features"][:2]  # small crops are not kept apart
    torch.testing.assert_close(koleo, losses.koleo(first) + losses.koleo(second))


def test_both_last_layers_wait(make):
    trainer = make("++model.freeze_epochs=1")
    last = trainer.head.last.weight, trainer.patch_head.last.weight
    for trainer.epoch, moves in ((0, False), (1, True)):
        before = [weight.clone() for weight in last]
        trainer.train_step(trainer.data)
        trainer.after_train_step()
        for weight, earlier in zip(last, before, strict=True):
            assert weight.equal(earlier) != moves


def test_accumulated_micro_batches_are_one_batch(config):
    """Neighbours and prototypes' shares are those of the whole step."""
    found = []
    for rows, count in ((12, 1), (4, 3)):
        size = f"data.batch_size={rows}", f"optim.accumulate={count}"
        keys = "optim.epochs=null", "optim.steps=2", "++optim.exact_batch=true"
        run = f"log.run=of_{rows}", "log.eval.linear=null", "log.eval.knn=null"
        keys = *keys, "optim.optimizer=sgd", "optim.lr=0.01"
        keys = [*TINY[1:], *keys, *size, *run, "log.monitor=null"]
        trainer = DINOv2(config("dinov2", *keys))
        trainer.run()
        found.append(trainer.state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-3, atol=1e-4)


def test_a_vit_of_timm_with_registers(make):
    spec = (
        "{name: vit_small_patch14_reg4_dinov2, img_size: 28, patch_size: 4, depth: 1,"
        " dynamic_img_size: true}"
    )
    trainer = make(
        "~model.backbone",
        f"+model.backbone={spec}",
        "data.transforms.crop.size=28",
        f"++data.train.dataset.image_transform=[{VIEW},{VIEW}]",
    )
    assert trainer.compute_loss()["loss"].isfinite()
    assert trainer.embed(trainer.data[0])["patches"][0].shape == (6, 24, 5)
