"""Data that would make a silent wrong number: refused, or warned of."""

import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from stable_ssl.augment import build_ops
from stable_ssl.config import ConfigError, load_config
from stable_ssl.data.build import build_loaders
from stable_ssl.data.check import check_sizes
from stable_ssl.data.combined import take_skipped
from stable_ssl.data.datasets import BUILDERS, Images, build_dataset
from stable_ssl.data.loading.loader import Loader
from stable_ssl.setup_checks import warn_of_ranks

FOLDER = "{name: image_folder, root: %s, subset: null, image_transform: %s}"
SMALL = "[{name: random_resized_crop, size: 8}]"


def loaders(root, train, val, *overrides):
    splits = {"train": train, "val": val}
    nodes = [f"++data.{s}.dataset={FOLDER % (r, SMALL)}" for s, r in splits.items()]
    config = ["data.test=null", f"data.root={root}", "data.batch_size=4", *overrides]
    return build_loaders(load_config("base", [*nodes, *config]), torch.device("cpu"))


@pytest.fixture
def folders(tmp_path):
    from PIL import Image

    def image(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(path)

    for i in range(6):
        for name in ("ant", "bee"):
            image(tmp_path / "both" / name / f"{i}.png")
        image(tmp_path / "bees" / "bee" / f"{i}.png")
    return tmp_path


def test_a_class_with_two_numbers_is_refused(folders):
    with pytest.raises(ConfigError, match="class bee is number 0 in data.val and 1 in"):
        loaders(folders, "both", "bees")


def test_images_of_train_in_val_are_warned_of(folders):
    with pytest.warns(UserWarning, match="12 of the 12 images of data.val are in"):
        loaders(folders, "both", "both")
    shares = ["++data.train.dataset.val_size=0.5", "++data.val.dataset.val_size=0.5"]
    own = ["data.train.dataset.subset=train", "data.val.dataset.subset=val"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaders(folders, "both", "both", *shares, *own)


def test_compiling_for_a_cpu_is_warned_of_once():
    message = "data.compile=true on a CPU.* 1.1 times as long"
    with pytest.warns(UserWarning, match=message) as caught:
        build_loaders(load_config("base", ["data.compile=true"]), torch.device("cpu"))
    assert len(caught) == 1


def test_images_of_other_channels_are_refused(folders):
    node = f"++data.train.dataset={FOLDER % ('both', SMALL)}"
    config = load_config("base", [node, f"data.root={folders}", "data.batch_size=4"])
    with pytest.raises(ConfigError, match="data.val has images of 1 channels, data.tr"):
        build_loaders(config, torch.device("cpu"))


def test_a_damaged_first_image_is_skipped(folders):
    for path in sorted((folders / "both" / "ant").iterdir())[:2]:
        path.write_bytes(b"no image")
    found = loaders(folders, "both", "both", "data.on_error=skip", "data.in_memory=0")
    assert found["train"].channels == 3


class Samples:
    """A dataset of one's own that returns the same sample always."""

    def __init__(self, sample, subset=None):
        self.sample = sample

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.sample


IMAGE = torch.zeros(3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (None, r"Samples\[0\] is a NoneType; a dataset returns \(image, label\), a"),
        ("a.png", r"Samples\[0\] is a str; a dataset returns \(image, label\)"),
        (
            {"a": IMAGE, "b": 1},
            r"is a dict of a, b; .*data.fields: {image",
        ),
        ((IMAGE.long(), 1), r"Tensor of int64 from 0 to 0 of shape \(3, 8, 8\)"),
        (
            (IMAGE.double() - 1, 1),
            r"float64 from -1 to -1 .* set data.range",
        ),
        (
            (np.zeros((8, 8, 8)), 1),
            r"ndarray of float64 .* set data.layout: chw or hwc",
        ),
    ],
)
def test_a_sample_of_another_form_is_refused_in_words(sample, words):
    with pytest.raises(ConfigError, match=words):
        _ = Loader(Samples(sample), [build_ops([])], batch_size=4).channels


@pytest.mark.parametrize("workers", [0, 1])
def test_what_follows_image_and_label_follows_in_the_batch(workers):
    sample = IMAGE, {"digit": 1}, {"row": 2.5}, "a.png"
    loader = Loader(Samples(sample), [build_ops([])], batch_size=4, num_workers=workers)
    x, labels, meta, names = next(iter(loader))
    assert x.shape == (4, 3, 8, 8)
    assert labels["digit"].tolist() == [1] * 4
    assert meta["row"].tolist() == [2.5] * 4
    assert list(names) == ["a.png"] * 4
    loader.close()


def test_a_target_is_not_given_what_a_recipe_below_has_for_another_dataset():
    node = {"_target_": f"{__name__}.Samples", "name": "digits", "sample": 3}
    assert build_dataset(node, ".", False).sample == 3
    assert build_dataset({**node, "subset": "val"}, ".", False).sample == 3
    with pytest.raises(ConfigError, match="smaple"):
        build_dataset({"_target_": f"{__name__}.Samples", "smaple": 3}, ".", False)


def test_a_last_micro_batch_of_few_images_is_refused():
    keys = {"batch_size": 3, "shuffle": True}
    uneven, even = (
        Loader(Samples((IMAGE, 0)), [build_ops([])], drop_last=last, **keys)
        for last in (False, True)
    )
    check_sizes(uneven.sampler, train=True)
    check_sizes(even.sampler, train=True, accumulate=4)
    with pytest.raises(ConfigError, match="last batch of 2, and optim.accumulate=4"):
        check_sizes(uneven.sampler, train=True, accumulate=4)


def test_a_loader_that_ranks_do_not_share_is_warned_of():
    data = list(range(8))
    with pytest.warns(UserWarning, match="2 processes see the same samples"):
        warn_of_ranks(DataLoader(data), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_ranks(DataLoader(data), 1)
        sampler = DistributedSampler(data, num_replicas=2, rank=0)
        warn_of_ranks(DataLoader(data, sampler=sampler), 2)


def test_a_stream_trains_on_whole_batches_alone(monkeypatch):
    class Stream(IterableDataset):
        num_classes = 10

        def __iter__(self):
            yield from [(IMAGE, 0)] * 10

    monkeypatch.setitem(BUILDERS, "stream", lambda subset=None, root=None: Stream())
    node = "{dataset: {name: stream}, num_workers: 1, drop_last: false}"
    overrides = [f"++data.train={node}", "data.val=null", "data.test=null"]
    with pytest.raises(ConfigError, match="remove drop_last: false"):
        build_loaders(load_config("base", overrides), torch.device("cpu"))


def test_a_samplers_index_beyond_the_data_is_refused():
    class Short(Samples):
        def __getitem__(self, index):
            return ([self.sample] * len(self))[index]

    data = Short((IMAGE, 0))
    keys = {"batch_size": 2, "sampler": [0, 99], "on_error": "replace"}
    with pytest.raises(ConfigError, match=r"chose others than .* 0 to \d+: .0, 99."):
        list(Loader(data, [build_ops([])], **keys))


def test_what_was_left_out_counts_once_an_epoch():
    held = Images(IMAGE[None].repeat(4, 1, 1, 1), torch.zeros(4).long(), 1)
    held.left_out = 4
    loader = Loader(held, [build_ops([])], batch_size=2)
    for epoch, start, expected in ((0, 0, 4), (0, 1, 0), (1, 0, 4), (1, 1, 0)):
        loader.set_epoch(epoch, start)
        list(loader)
        assert (take_skipped(loader), take_skipped(loader)) == (expected, 0)
