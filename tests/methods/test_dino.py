"""DINO: what the student learns from its teacher, and what holds the two apart."""

import numpy
import pytest
import torch
from PIL import Image

from stable_ssl import DINO, ConfigError
from stable_ssl.checkpoint import load

SMALL = "[{name: random_resized_crop, size: 4, scale: [0.1, 0.4]}]"
VIEW = "${data.transforms.view}"
TINY = [
    "data.batch_size=6",
    "++model.backbone.width=4",
    "model.hidden=8",
    "model.bottleneck=6",
    "model.prototypes=5",
    "model.warmup_temperature=0.04",
    "model.teacher_temperature=0.07",
    f"data.train.dataset.image_transform=[{VIEW},{VIEW},{SMALL},{SMALL}]",
]


@pytest.fixture
def make(config):
    """Return a maker of a tiny DINO in float64 that holds a batch of four views."""
    made = []

    def build(*overrides):
        trainer = DINO(config("dino", *TINY, *overrides))
        made.append(trainer)
        trainer.setup()
        trainer.double().train()
        feed(trainer)
        return trainer

    yield build
    for trainer in made:
        trainer.cleanup()


def feed(trainer):
    views, labels = next(iter(trainer.train_loader))
    trainer.data = [view.double() for view in views], labels


def step(trainer):
    trainer.train_step(trainer.data)
    trainer.after_train_step()


def apart(trainer):
    """Move the teacher and its centre away from where they begin."""
    with torch.no_grad():
        for parameter in trainer.teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        trainer.center.value.copy_(torch.randn(5))


def test_the_loss_is_that_of_the_paper_over_all_pairs_of_views(make):
    trainer = make()
    apart(trainer)
    views = trainer.data[0]
    assert [view.shape[-1] for view in views] == [8, 8, 4, 4]
    joined = [trainer.backbone(torch.cat(same)) for same in (views[:2], views[2:])]
    student = (trainer.head(torch.cat(joined)) / 0.1).chunk(4)
    teacher = trainer.teacher.module(torch.cat(views[:2])).chunk(2)
    terms = []
    for i, t in enumerate(teacher):
        code = ((t - trainer.center.value) / 0.04).softmax(1)
        for j, s in enumerate(student):
            if j != i:
                terms.append(-(code * s.log_softmax(1)).sum(1).mean())
    assert len(terms) == 2 * 3
    torch.testing.assert_close(
        trainer.compute_loss()["loss"], torch.stack(terms).mean()
    )


def test_no_gradient_reaches_the_teacher(make):
    trainer = make()
    trainer.compute_loss()["loss"].backward()
    assert all(p.grad is None for p in trainer.teacher.parameters())
    assert all(p.grad.abs().sum() > 0 for p in trainer.student.parameters())


def test_the_student_without_its_last_layer_learns_first(make):  # fault 22
    trainer = make("++model.freeze_epochs=2", "optim.weight_decay=0.1")
    last, gradients = trainer.head.last.weight, []
    take = trainer.optimizer.step

    def watched(*args, **kwargs):
        gradients.append(last.grad is None)
        return take(*args, **kwargs)

    trainer.optimizer.step = watched
    for trainer.epoch in (0, 1, 2):
        before, deeper = last.clone(), trainer.head.mlp[0].weight.clone()
        step(trainer)
        assert not trainer.head.mlp[0].weight.equal(deeper)
        assert last.equal(before) == (trainer.epoch < 2)
    assert gradients == [True, True, False]
    assert not any(p.requires_grad for p in trainer.teacher.parameters())


def test_a_single_view_is_refused(config):  # fault 24
    one = f"data.train.dataset.image_transform={VIEW}"
    with pytest.raises(ConfigError, match="views: 1, and DINO needs 2 or more"):
        DINO(config("dino", *TINY[:-1], one)).run()


def test_the_centre_follows_the_mean_of_a_steps_micro_batches(make):  # fault 25
    trainer = make("optim.accumulate=2", "++model.center_momentum=0.7")
    apart(trainer)
    before, means = trainer.center.value.clone(), []
    for trainer.micro_batch in (0, 1):
        trainer.micro_batches = 2
        feed(trainer)
        means.append(trainer.teacher.module(torch.cat(trainer.data[0][:2])).mean(0))
        trainer.train_step(trainer.data)
        assert trainer.center.value.equal(before)  # as long as the step lasts
    trainer.after_train_step()
    expected = 0.7 * before + 0.3 * (means[0] + means[1]) / 2
    torch.testing.assert_close(trainer.center.value, expected)


def test_the_centre_is_in_the_checkpoint(config):  # fault 25
    trainer = DINO(config("dino", *TINY, "optim.epochs=null", "optim.steps=2"))
    trainer.run()
    kept = load(trainer.run_dir / "ckpts" / "last.ckpt")["modules"]
    assert (
        kept["center.value"].equal(trainer.center.value)
        and trainer.center.value.abs().sum() > 0
    )


def test_the_teachers_temperature_climbs_by_epochs(make):
    trainer = make("model.warmup_epochs=4")
    found = []
    for trainer.epoch in range(6):
        found.append(trainer.teacher_temperature())
    assert found == pytest.approx([0.04, 0.05, 0.06, 0.07, 0.07, 0.07])
    assert make("model.warmup_epochs=0").teacher_temperature() == 0.07


def test_a_vit_sees_small_crops(make):
    vit = [
        "width=null",
        "name=vit",
        "image_size=8",
        "patch_size=2",
        "dim=8",
        "depth=1",
        "heads=2",
    ]
    trainer = make(*(f"++model.backbone.{option}" for option in vit))
    assert trainer.compute_loss()["loss"].isfinite()


def test_multi_crop_of_a_folder(config, tmp_path):
    pixels = numpy.random.default_rng(0)
    for i in range(20):
        folder = tmp_path / "images" / f"class_{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        image = pixels.integers(0, 255, (40 + i % 3, 48, 3)).astype("uint8")
        Image.fromarray(image).save(folder / f"{i}.jpg")
    trainer = DINO(
        config(
            "dino_folder",
            *("data.num_workers=0", "data.batch_size=6", "data.eval_batch_size=6"),
            *("data.transforms.size=32", "data.transforms.resize=36"),
            "data.transforms.local.0.size=16",
            *("hardware.precision=float32", f"data.root={tmp_path / 'images'}"),
            "model.backbone={name: vit, image_size: 32, patch_size: 8, dim: 8,"
            " depth: 1, heads: 2}",
            *("model.hidden=8", "model.bottleneck=6", "model.prototypes=5"),
            *("optim.epochs=1", "optim.scheduler.warmup_epochs=0", "log.run=folder"),
        )
    )
    trainer.setup()
    trainer.train_epoch()
    sides = [view.shape[-1] for view in trainer.data[0]]
    trainer.cleanup()
    assert sides == [32, 32] + 8 * [16]
    assert trainer.metrics["train/loss"] > 0 and "val/knn_acc1" in trainer.metrics
