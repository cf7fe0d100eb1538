"""Ops of other libraries: one image at a time, keyed, before those by name."""

import random

import numpy
import pytest
import torch
from torchvision.transforms import v2

from stable_ssl.config import ConfigError
from stable_ssl.data import Loader, build_dataset
from stable_ssl.data.build import build_views

CROP = {
    "_target_": "torchvision.transforms.v2.RandomResizedCrop",
    "size": [24, 24],
    "antialias": True,
}
JITTER = {
    "_target_": "torchvision.transforms.RandomApply",
    "transforms": [
        {"_target_": "torchvision.transforms.ColorJitter", "brightness": 0.8}
    ],
    "p": 0.8,
}
FLIP = {"name": "horizontal_flip"}
NOISE = {"name": "noise", "std": 0.1}


class OwnRandom:
    """A transform that draws from every global generator."""

    def __call__(self, image):
        drawn = random.random() + numpy.random.rand() + torch.rand(()).item()
        return torch.full((3, 24, 24), drawn / 3)


def loader(photos, ops, **options):
    dataset = build_dataset({"name": "image_folder"}, str(photos), False)
    settings = {"batch_size": 6, "seed": 3, "shuffle": True, **options}
    return Loader(dataset, build_views([ops, ops]), **settings)


@pytest.mark.parametrize(
    "ops",
    [
        [CROP, JITTER, FLIP, NOISE],
        [CROP],
        [{"_target_": f"{__name__}.OwnRandom"}, FLIP],
    ],
    ids=["mixed", "alone", "own"],
)
def test_views_do_not_depend_on_workers_batch_or_resume(photos, in_order, ops):
    state = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1]
    expected = in_order(loader(photos, ops), 1)
    for options in ({"batch_size": 24}, {"num_workers": 2}, {"num_workers": 1}):
        assert in_order(loader(photos, ops, **options), 1) == expected
    assert in_order(loader(photos, ops), 2) != expected
    rest = in_order(loader(photos, ops, num_workers=2), 1, start=2)
    assert len(rest) == 12 and set(rest) < set(expected)
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()
    assert (state[2] == numpy.random.get_state()[1]).all()


def test_the_two_views_of_an_image_differ(photos):
    (a, b), _ = next(iter(loader(photos, [CROP])))
    assert (a - b).abs().flatten(1).amax(1).min() > 0.01


def test_a_transform_of_torchvision_draws_as_it_would_alone(photos):
    """Its result is that of the bare transform under the same seeds."""
    from stable_ssl import seeding

    dataset = build_dataset({"name": "image_folder"}, str(photos), False)
    bare = v2.RandomResizedCrop([24, 24], antialias=True)
    x, _ = next(iter(Loader(dataset, build_views([CROP]), batch_size=2, seed=3)))
    for i in range(2):
        key = seeding.sample_keys(3, 0, torch.tensor(i))
        with seeding.keyed(seeding.fold_in(key, 0)):
            expected = v2.functional.pil_to_tensor(bare(dataset[i][0]))
        assert torch.equal((x[i] * 255).round().byte(), expected)


def test_images_in_memory_reach_them_as_pil():
    digits = build_dataset({"name": "digits", "subset": "val"}, ".", False)
    ops = [{"_target_": "torchvision.transforms.RandomRotation", "degrees": 90}]
    x, _ = next(iter(Loader(digits, build_views(ops), batch_size=5)))
    assert x.shape == (5, 1, 8, 8) and x.dtype == torch.float32 and x.max() <= 1


def test_arrays_and_float_tensors_come_back_as_they_are(photos):
    as_array = {"_target_": "hydra.utils.get_method", "path": "numpy.asarray"}
    ops = [
        {"_target_": "torchvision.transforms.Resize", "size": [20, 30]},
        as_array,
    ]
    x, _ = next(iter(loader(photos, ops)))
    assert x[0].shape == (6, 3, 20, 30)
    wide = [
        {"_target_": "torchvision.transforms.Resize", "size": [20, 30]},
        {"_target_": "torchvision.transforms.ToTensor"},
        {"_target_": "torchvision.transforms.Normalize", "mean": [9.0], "std": [0.1]},
    ]
    (x, _), _ = next(iter(loader(photos, wide)))
    assert x.max() < -70  # not wrapped into bytes


def test_albumentations(photos, in_order):
    pytest.importorskip("albumentations", reason="albumentations: extra 'peers'")
    ops = [
        {"_target_": "albumentations.RandomResizedCrop", "size": [24, 24]},
        {"_target_": "albumentations.ColorJitter", "p": 0.8},
        FLIP,
    ]
    expected = in_order(loader(photos, ops), 1)
    assert in_order(loader(photos, ops, num_workers=2, batch_size=5), 1) == expected
    assert in_order(loader(photos, ops), 2) != expected
    (a, b), _ = next(iter(loader(photos, ops)))
    assert (a - b).abs().flatten(1).amax(1).min() > 0.01


@pytest.mark.parametrize(
    ("ops", "words"),
    [
        ([FLIP, CROP], "by _target_ .* come before those by name"),
        ([{"_target_": "torchvision.transforms.Nothing"}], "Nothing"),
        ([{**CROP, "sise": 3}], "sise"),
        ([{"_target_": "builtins.int"}], "expected a mapping"),
    ],
)
def test_wrong_ops_are_refused_in_words(photos, ops, words):
    with pytest.raises(ConfigError, match=words):
        loader(photos, ops)
