"""Ops of one's own by name: keyed, on data of every kind, their arguments checked."""

import random

import numpy
import pytest
import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

from stable_ssl import seeding
from stable_ssl.augment import OPS, External, Op
from stable_ssl.config import ConfigError
from stable_ssl.data import Loader, register_op
from stable_ssl.data.build import build_views
from stable_ssl.data.datasets import Images
from stable_ssl.data.images.decode import Decode


def first_tensor(x):
    return first_tensor(x["a"]) if isinstance(x, dict) else x


def scaled(x, keys, low=0.5, high=1.0):
    """Scale each row by a number of its own."""
    if isinstance(x, dict):
        return {name: scaled(value, keys, low, high) for name, value in x.items()}
    by = low + (high - low) * seeding.uniform(keys)
    return x * by.view(-1, *[1] * (x.ndim - 1))


def jittered(entry, std=0.1):
    """Add what every global generator draws."""
    if isinstance(entry, dict):
        return {name: jittered(value, std) for name, value in entry.items()}
    drawn = random.random() + numpy.random.rand() + torch.rand(()).item()
    return torch.as_tensor(numpy.asarray(entry)).float() / 255 + std * drawn


def required(x, keys, width):
    return x


def takes_any(x, keys, **options):
    return x


def keyless(x):
    return x


class Doubled(Op):
    def apply(self, x):
        return (2 * x).clamp(max=1)


@pytest.fixture(scope="module", autouse=True)
def registered():
    """Register the ops above for this file alone: others go through all of them."""
    before = dict(OPS)
    register_op("test_scaled")(scaled)
    register_op("test_jittered", per_sample=True)(jittered)
    register_op("test_required")(required)
    register_op("test_any")(takes_any)
    register_op("test_keyless")(keyless)
    register_op("test_doubled")(Doubled)
    yield
    OPS.clear()
    OPS.update(before)


CHANCE = numpy.random.default_rng(0)
KINDS = {
    "images": CHANCE.integers(0, 256, (12, 3, 8, 8), "uint8"),
    "series": CHANCE.random((12, 2, 50), "float32"),
    "volumes": CHANCE.random((12, 1, 4, 5, 6), "float32"),
    "videos": CHANCE.integers(0, 256, (12, 4, 3, 8, 8), "uint8"),
    "tokens": CHANCE.integers(0, 1000, (12, 16)),
    "dicts": [{"a": CHANCE.random(5), "b": CHANCE.random((2, 3))} for _ in range(12)],
}


class Samples(Dataset):
    def __init__(self, entries):
        self.entries = entries

    def __len__(self):
        return len(self.entries)

    def __getitem__(self, index):
        return self.entries[index], index


def loader(kind, ops, views=2, **options):
    options = {"batch_size": 4, "seed": 3, "shuffle": True, **options}
    entries = KINDS[kind] if isinstance(kind, str) else kind
    return Loader(Samples(entries), build_views([ops] * views), **options)


def by_sample(some, epoch=1, start=0):
    """Return {number of a sample: the bits of its views}."""
    some.set_epoch(epoch, start)
    found = {}
    for views, labels in some:
        leaves = [
            leaf
            for view in views
            for leaf in (view.values() if isinstance(view, dict) else [view])
        ]
        for row, label in enumerate(labels.tolist()):
            found[label] = b"".join(leaf[row].numpy().tobytes() for leaf in leaves)
    some.close()
    return found


BATCHED, SAMPLED = {"name": "test_scaled"}, {"name": "test_jittered"}


@pytest.mark.parametrize("ops", [[BATCHED], [SAMPLED], [SAMPLED, BATCHED]])
@pytest.mark.parametrize("kind", KINDS)
def test_views_are_keyed_on_data_of_every_kind(kind, ops):
    """One sample has the same views with any workers and batch, and after a resume."""
    state = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1]
    expected = by_sample(loader(kind, ops))
    assert len(expected) == 12
    for options in ({"batch_size": 5}, {"batch_size": 12}, {"num_workers": 2}):
        assert by_sample(loader(kind, ops, **options)) == expected
    rest = by_sample(loader(kind, ops), start=2)
    assert len(rest) == 4 and rest.items() <= expected.items()
    other = by_sample(loader(kind, ops), epoch=2)
    assert all(other[i] != expected[i] for i in expected)
    assert all(v[: len(v) // 2] != v[len(v) // 2 :] for v in expected.values())
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()
    assert (state[2] == numpy.random.get_state()[1]).all()


def one_batch(kind, ops, **options):
    ((x, _),) = loader(kind, ops, 1, batch_size=12, shuffle=False, **options)
    return x


def test_a_batched_op_gets_what_the_dataset_returns_and_the_keys():
    keys = seeding.fold_in(seeding.sample_keys(3, 0, torch.arange(12), 0), 0)
    by = 0.2 + 0.1 * seeding.uniform(keys)
    op = {**BATCHED, "low": 0.2, "high": 0.3}
    images = one_batch("images", [op])
    right = torch.from_numpy(KINDS["images"]) / 255 * by.view(-1, 1, 1, 1)
    assert images.dtype == torch.float32 and torch.allclose(images, right)
    tokens = one_batch("tokens", [op])
    assert torch.allclose(tokens, torch.from_numpy(KINDS["tokens"]) * by[:, None])
    dicts = one_batch("dicts", [op])
    right = torch.stack([torch.from_numpy(x["b"]) for x in KINDS["dicts"]])
    assert torch.allclose(dicts["b"], right * by.view(-1, 1, 1))


def test_arguments_reach_an_op_of_one_sample():
    plain = torch.from_numpy(KINDS["series"]) / 255
    assert torch.allclose(one_batch("series", [{**SAMPLED, "std": 0.0}]), plain)


@pytest.mark.parametrize("workers", [0, 2])
def test_beside_the_ops_of_the_library(workers):
    crop = {"name": "random_resized_crop", "size": 6}
    views = one_batch(
        "images",
        [{**SAMPLED, "std": 0.0}, crop, {"name": "test_doubled"}, BATCHED],
        num_workers=workers,
    )
    assert views.shape == (12, 3, 6, 6) and 0 < views.max() <= 1


@pytest.mark.parametrize(
    "first", [BATCHED, {"name": "normalize", "mean": 9, "std": 0.1}]
)
@pytest.mark.parametrize("workers", [0, 1])
def test_values_beyond_bytes_before_a_crop_stay_what_they_are(first, workers):
    """A worker rounds to bytes only what ops cannot have moved out of [0, 1]."""
    first = {**first, "low": -3, "high": -2} if first is BATCHED else first
    crop = {"name": "center_crop", "size": 8}
    views = one_batch("images", [first, crop], num_workers=workers)
    right = one_batch("images", [first])
    assert torch.allclose(views, right) and views.min() < -1


# --- wrong use ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "words"),
    [
        ({**BATCHED, "lo": 1}, "test_scaled takes no 'lo'.*it takes low, high"),
        ({**SAMPLED, "entry": 1}, "test_jittered takes no 'entry'.*it takes std"),
        ({**BATCHED, "keys": 1}, "test_scaled takes no 'keys'"),
        ({"name": "test_required"}, "test_required: missing .*width.*it takes width"),
        ({"name": "test_keyless"}, "test_keyless: too many positional"),
        ({"name": "test_scald"}, "no augmentation 'test_scald'; did you mean 'test_sc"),
        ({"name": "test_doubled", "by": 2}, "test_doubled takes no 'by'"),
    ],
)
def test_arguments_are_checked_before_anything_is_read(op, words):
    with pytest.raises(ConfigError, match=f"^image_transform: {words}"):
        build_views([op])


def test_any_argument_where_the_function_takes_any():
    assert build_views([{"name": "test_any", "width": 3}])


def test_an_op_of_one_sample_comes_before_those_of_a_batch():
    with pytest.raises(ConfigError, match="one image at a time .* move them first"):
        loader("images", [BATCHED, SAMPLED])


def test_a_name_is_registered_once():
    with pytest.raises(ConfigError, match="an op named 'test_scaled' is registered"):
        register_op("test_scaled")(lambda x, keys: x)
    with pytest.raises(ConfigError, match="an op named 'hue' is registered already"):
        register_op("hue", per_sample=True)(lambda x: x)


def test_a_notebook_may_register_again_as_another_kind():
    """The last time counts, as whatever it is then."""
    for per_sample in (True, False):

        def again(x, keys=None):
            return x

        register_op("test_again", per_sample=per_sample)(again)
        ((op,),) = build_views([{"name": "test_again"}])
        assert isinstance(op, Op) is not per_sample
    del OPS["test_again"]


@pytest.mark.parametrize("kind", ["volumes", "videos", "tokens", "dicts"])
def test_ops_for_images_refuse_data_of_other_kinds(kind):
    flip = [{"name": "horizontal_flip", "p": 0.0}]
    with pytest.raises(ConfigError, match=r"Samples\[0\] is a .*"):
        one_batch(kind, flip)


@pytest.mark.parametrize("name", ["grayscale", "test_doubled"])
def test_what_is_no_image_has_no_ops_for_images(name):
    decode = Decode(images=False)
    with pytest.raises(ConfigError, match="data.decode=false .* remove one of them"):
        loader("images", [{"name": name}], decode=decode)
    x = one_batch("images", [BATCHED], decode=decode)
    assert x.dtype == torch.float32 and x.max() > 100  # bytes, as they are


# --- what an op may do to what it is given --------------------------------------------


def grow(x):
    x += 1
    return x


def grow_all(x, keys):
    return x.add_(1)


class Fixed(Dataset):
    """One tensor or array, handed out itself."""

    def __init__(self, entry):
        self.entry = entry

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.entry, 0


@pytest.mark.parametrize("entry", [torch.zeros(2, 6), numpy.zeros((2, 6), "float32")])
@pytest.mark.parametrize("per_sample", [True, False])
def test_an_op_in_place_changes_its_own_view_alone(entry, per_sample):
    register_op("test_grow", per_sample)(grow if per_sample else grow_all)
    try:
        views = build_views([[{"name": "test_grow"}]] * 2)
    finally:
        del OPS["test_grow"]
    for _ in range(2):
        (((a, b), _),) = Loader(Fixed(entry), views, batch_size=4)
        assert (a == 1).all() and (b == 1).all() and not entry.any()


@pytest.mark.parametrize("held", [True, False])
def test_ops_of_torchvision_see_pictures_whatever_the_dataset_returns(held):
    """Flips of arrays, of tensors with channels last, and of images that are held."""
    pixels = numpy.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype="uint8")
    right = torch.from_numpy(pixels[:, ::-1].copy()).permute(2, 0, 1) / 255
    kinds = [
        pixels,
        torch.from_numpy(pixels),
        pixels / 255,
        pixels.astype("uint16") * 257,
    ]
    views = [[External(v2.RandomHorizontalFlip(1.0))]]
    for entry in kinds:
        dataset = Fixed(entry)
        if held:
            images = torch.stack([Decode()(entry, "an image")] * 4)
            dataset = Images(images, torch.zeros(4, dtype=torch.int64), 1)
        ((x, _),) = Loader(dataset, views, batch_size=4)
        assert (x[0] - right).abs().max() < 1e-6
    with pytest.raises(ConfigError, match="set data.range"):
        list(Loader(Fixed(pixels.astype("float32")), views, batch_size=4))
