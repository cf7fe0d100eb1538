import math

import numpy
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from stable_ssl.methods.byol import BYOL

SMALL = ["++model.projector=[32,16]", "++model.predictor=24", "optim.epochs=null"]


@pytest.fixture
def ready(config):
    """Return a BYOL in float64 before its first step, with a batch."""
    trainer = BYOL(config("byol", *SMALL, "optim.steps=4"))
    trainer.setup()
    trainer.double().train()
    views, labels = next(iter(trainer.train_loader))
    trainer.data = [view.double() for view in views], labels
    yield trainer
    trainer.cleanup()


def test_the_loss_is_eq_2_of_both_orders_not_divided_by_their_number(ready):  # 28
    (a, b), _ = ready.data
    torch.nn.init.normal_(ready.teacher.module[1][0].weight)  # unlike the student's
    with torch.no_grad():
        targets = [normalize(ready.teacher.module(view)) for view in (b, a)]
    predictions = [ready.predictor(ready.projector(ready.backbone(v))) for v in (a, b)]
    terms = zip(predictions, targets, strict=True)
    expected = sum((normalize(q) - z).square().sum(1).mean() for q, z in terms)
    loss = ready.compute_loss()["loss"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    trained = [p for p in ready.parameters() if p.requires_grad]
    grads = (torch.autograd.grad(x, trained) for x in (loss, expected))
    for found, reference in zip(*grads, strict=True):  # the targets are constants
        torch.testing.assert_close(found, reference, rtol=1e-9, atol=1e-12)


def test_the_teacher_is_a_copy_of_backbone_and_projector_alone(ready):
    assert not any(p.requires_grad for p in ready.teacher.parameters())
    student = [*ready.backbone.state_dict().values()]
    student += ready.projector.state_dict().values()
    for own, other in zip(ready.teacher.state_dict().values(), student, strict=True):
        assert own.equal(other)


def test_the_features_are_those_of_the_students_two_whole_views(ready):
    features = ready.compute_loss()["features"]
    for found, view in zip(features, ready.data[0], strict=True):
        assert torch.equal(found, ready.backbone(view))


def test_the_teacher_moves_by_tau_of_the_step_once_a_step(config):  # fault 26
    class Watched(BYOL):
        moves = 0

        def after_train_step(self):
            before = [p.clone() for p in self.teacher.parameters()]
            super().after_train_step()
            tau = 1 - (1 - 0.9) * (math.cos(math.pi * self.moves / 4) + 1) / 2
            self.moves += 1
            student = [*self.backbone.parameters(), *self.projector.parameters()]
            after = self.teacher.parameters()
            for t, s, new in zip(before, student, after, strict=True):
                torch.testing.assert_close(new, tau * t + (1 - tau) * s)

    options = ["optim.steps=4", "optim.accumulate=2", "++model.momentum=0.9"]
    bare = ["log.monitor=null", "log.eval.knn=null", "log.eval.linear=null"]
    trainer = Watched(config("byol", *SMALL, *options, *bare))
    trainer.setup()
    trainer.train_epoch()
    trainer.cleanup()
    assert trainer.moves == trainer.step == 4


def test_a_folder_of_images_with_augmentations_of_ones_own(config, tmp_path):
    pixels = numpy.random.default_rng(0)
    for i in range(30):
        folder = tmp_path / "images" / f"class_{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        size = (20 + i % 2, 24, 3)
        image = pixels.integers(0, 255, size).astype("uint8")
        Image.fromarray(image).save(folder / f"{i}.png")
    resize = "{name: resize, size: 16},{name: center_crop, size: 16}"
    negative = "{name: solarize, threshold: 0.0, p: 1.0}"
    trainer = BYOL(
        config(
            "byol_folder",
            *("data.num_workers=0", "data.batch_size=9", "data.eval_batch_size=9"),
            *("data.transforms.size=16", "data.transforms.resize=18"),
            f"data.transforms.view_a=[{resize}]",
            f"data.transforms.view_b=[{resize},{negative}]",
            *("hardware.precision=float32", "++model.backbone={name: convnet}"),
            *("optim.epochs=2", *SMALL[:2], f"data.root={tmp_path / 'images'}"),
        )
    )
    trainer.setup()
    trainer.train_epoch()
    trainer.train_epoch()
    trainer.test()
    trainer.cleanup()
    lengths = {name: len(x.dataset) for name, x in trainer.loaders.items()}
    assert lengths == {"train": 18, "val": 9, "test": 3, "bank": 18}
    a, b = trainer.data[0]
    torch.testing.assert_close(b, 1 - a)
    assert (trainer.run_dir / "ckpts" / "best.ckpt").exists()
    assert "val/knn_acc1" in trainer.metrics and "test/knn_acc1" in trainer.metrics
