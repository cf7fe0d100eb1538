"""Datasets: the digits' fixed split, folders, torchvision's names, wrong input."""

import pickle
import sys
from importlib.util import module_from_spec, spec_from_file_location
from os.path import isfile
from types import SimpleNamespace

import numpy
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, CIFAR100

from stable_ssl import Supervised, seeding
from stable_ssl.config import ConfigError
from stable_ssl.data import build_dataset, register_dataset
from stable_ssl.data.datasets import BUILDERS, Images


def build(parent, **node):
    return build_dataset(node, str(parent), download=False)


# --- digits ---------------------------------------------------------------------------


def test_the_digits_are_split_once_and_for_good():
    parts = [build(".", name="digits", subset=s) for s in ("train", "val", "test")]
    assert [len(p) for p in parts] == [1197, 200, 400]
    whole = build(".", name="digits")
    assert torch.equal(whole.images, torch.cat([p.images for p in parts]))
    assert [int(p.labels[:20].sum()) for p in parts] == [78, 67, 95]  # golden
    assert whole.images.shape == (1797, 1, 8, 8)
    assert whole.images.dtype == torch.uint8
    assert (int(whole.images.min()), int(whole.images.max())) == (0, 255)
    assert all(p.labels.bincount(minlength=10).min() >= 9 for p in parts)


def test_the_digits_are_scikit_learns(monkeypatch):
    def elsewhere(name):
        return SimpleNamespace(submodule_search_locations=["elsewhere"])

    raw, order = load_digits(), seeding.permutation(1797, 0)
    expected = (torch.from_numpy(raw.data) * 255 / 16).round().byte()[order]
    for file in ("there", "moved"):
        whole = build(".", name="digits")
        assert torch.equal(whole.images.flatten(1), expected), file
        assert torch.equal(whole.labels, torch.from_numpy(raw.target)[order])
        module = sys.modules["stable_ssl.data.sources.digits"]
        monkeypatch.setattr(module, "find_spec", elsewhere)


def test_subsets_join_and_unknown_ones_are_named():
    both = build(".", name="digits", subset=["train", "val"])
    assert len(both) == 1397
    with pytest.raises(ConfigError, match="subset=vall.*did you mean 'val'"):
        build(".", name="digits", subset="vall")


# --- few labels -----------------------------------------------------------------------


def digits(**keys):
    return build(".", name="digits", subset="train", **keys)


def test_as_many_images_of_each_class_are_taken_by_seed():
    one, two = (digits(labels_per_class=4, labels_seed=seed) for seed in (1, 2))
    assert one.num_classes == 10
    assert one.labels.bincount().tolist() == [4] * 10
    assert one.images.equal(digits(labels_per_class=4, labels_seed=1).images)
    assert not one.images.equal(two.images)
    whole, of_whole = (d.images.flatten(1).tolist() for d in (digits(), one))
    labels = [whole.index(row) for row in of_whole]
    assert digits().labels[labels].equal(one.labels)
    few = digits(labels_per_class=2, labels_seed=1).images.flatten(1).tolist()
    assert all(row in of_whole for row in few)  # fewer are a part of more
    rest = digits(labels_per_class=[2, 4], labels_seed=1)
    assert rest.labels.bincount().tolist() == [2] * 10
    assert sorted([*few, *rest.images.flatten(1).tolist()]) == sorted(of_whole)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"labels_per_class": 0}, "labels_per_class=0: use an integer from 1"),
        ({"labels_per_class": [4, 4]}, r"use an integer from 1 on, or \[from, to\]"),
        ({"labels_per_class": "20"}, "labels_per_class=20: use an integer from 1"),
        ({"labels_per_class": 200}, "class 2 has 113; use at most that"),
        (
            {"name": None, "_target_": "torchvision.datasets.FakeData"},
            "FakeData does not list its labels",
        ),
    ],
)
def test_labels_that_cannot_be_taken(node, words):
    node = {"name": "digits", "subset": "train", "labels_per_class": 4, **node}
    if "_target_" in node:
        del node["name"], node["subset"]
    with pytest.raises(ConfigError, match=words):
        build(".", **node)


# --- torchvision ----------------------------------------------------------------------


def write(root, cls):
    """Write files of the format of CIFAR-10 or CIFAR-100, small ones."""
    classes = {"CIFAR10": 10, "CIFAR100": 100}[cls.__name__]
    base = root / cls.base_folder
    base.mkdir()
    generator = numpy.random.default_rng(0)
    for name, _ in cls.train_list + cls.test_list:
        pixels = generator.integers(0, 256, (10, 3072), dtype=numpy.uint8)
        labels = generator.integers(0, classes, 10).tolist()
        key = "labels" if classes == 10 else "fine_labels"
        (base / name).write_bytes(pickle.dumps({"data": pixels, key: labels}))
    names = {cls.meta["key"]: [f"class {i}" for i in range(classes)]}
    (base / cls.meta["filename"]).write_bytes(pickle.dumps(names))


@pytest.fixture
def unchecked(monkeypatch):
    """Skip the checksums of what a test wrote: a file is right where it is."""
    monkeypatch.setattr(
        "torchvision.datasets.cifar.check_integrity", lambda path, md5: isfile(path)
    )


@pytest.fixture
def cifar(tmp_path, unchecked):
    """Return a folder with small files of CIFAR-10's own format."""
    write(tmp_path, CIFAR10)
    return tmp_path


def test_torchvision_by_name_is_held_in_memory(cifar):
    train = build(cifar, name="CIFAR10", subset="train")
    assert isinstance(train, Images)
    assert (train.images.shape, train.num_classes) == ((50, 3, 32, 32), 10)
    original = CIFAR10(cifar, train=True)
    expected = torch.from_numpy(numpy.array(original[7][0])).permute(2, 0, 1)
    assert torch.equal(train.images[7], expected)
    assert int(train.labels[7]) == original[7][1]
    assert len(build(cifar, name="CIFAR10", subset="test")) == 10


def test_another_name_is_another_dataset_and_its_classes(tmp_path, unchecked, config):
    write(tmp_path, CIFAR100)
    node = f"{{name: CIFAR100, root: '{tmp_path}'}}"
    keys = [f"++data.train.dataset={node}", f"++data.test.dataset={node}"]
    keys += ["data.val=null", "log.monitor=null", "data.batch_size=5"]
    keys += ["log.eval.knn=null"]
    trainer = Supervised(config("supervised", *keys))
    trainer.setup()
    assert trainer.num_classes == trainer.classifier.out_features == 100
    assert trainer.backbone[0].in_channels == 3
    trainer.cleanup()


def test_what_is_missing_is_fetched_if_asked(tmp_path, unchecked, monkeypatch):
    fetched = []

    def download(self):
        if not self._check_integrity():
            fetched.append(self.root)
            write(tmp_path, CIFAR10)

    monkeypatch.setattr(CIFAR10, "download", download)
    node = {"name": "CIFAR10", "subset": "train"}
    with pytest.raises(ConfigError, match="data.download=true fetches"):
        build(tmp_path, **node)
    for _ in range(2):
        assert len(build_dataset(node, str(tmp_path), download=True)) == 50
    assert fetched == [str(tmp_path)]


def test_torchvision_in_wrong_words(tmp_path):
    with pytest.raises(ConfigError, match="data.download=true fetches"):
        build(tmp_path, name="CIFAR10", subset="train")
    with pytest.raises(ConfigError, match="no dataset CIFAR11; did you mean 'CIFAR10'"):
        build(tmp_path, name="CIFAR11")
    with pytest.raises(ConfigError, match="subset=val is not one of train, test"):
        build(tmp_path, name="CIFAR10", subset="val")
    with pytest.raises(ConfigError, match="takes no sizee; did you mean 'size'"):
        build(tmp_path, name="FakeData", sizee=3)


@pytest.mark.parametrize("name", ["CIFAR10", "FakeData", "VOCSegmentation"])
@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("transform", "image_transform of the same dataset"),
        ("transforms", "image_transform of the same dataset"),
        ("target_transform", "_target_: torchvision.datasets.{name}"),
    ],
)
def test_functions_of_torchvision_are_refused_before_it_reads(
    tmp_path, name, key, words
):
    """They would be left out without a word where the pixels are held."""
    for node in ({"_target_": "nowhere.at.all"}, lambda x: x):
        match = f"dataset {name} by its name takes no {key}; .*{words}"
        with pytest.raises(ConfigError, match=match.replace("{name}", name)):
            build(tmp_path, name=name, **{key: node})


def test_transforms_that_are_null_are_none(cifar):
    assert isinstance(build(cifar, name="CIFAR10", transform=None), Images)
    assert len(build(cifar, name="FakeData", size=3, transforms=None)) == 3


def test_labels_are_transformed_where_the_class_is_named(cifar):
    flipped = {"_target_": "operator.sub", "_partial_": True, "_args_": [9]}
    data = build(
        cifar,
        _target_="torchvision.datasets.CIFAR10",
        root=str(cifar),
        target_transform=flipped,
    )
    assert data[0][1] == 9 - CIFAR10(cifar)[0][1]


def test_a_dataset_that_does_not_fit_keeps_its_own_class(tmp_path):
    data = build(tmp_path, name="FakeData", size=3)
    assert not isinstance(data, Images)
    assert len(data) == 3


# --- registered and by dotted path ----------------------------------------------------


def test_a_registered_builder_and_its_arguments():
    @register_dataset("mine")
    def mine(root, subset=None, size=2):
        return Images(torch.zeros(size, 1, 4, 4).byte(), torch.zeros(size).long(), 1)

    try:
        assert len(build(".", name="mine", size=5)) == 5
        with pytest.raises(ConfigError, match="takes no sise; did you mean 'size'"):
            build(".", name="mine", sise=5)
        with pytest.raises(ValueError, match="'mine' is registered already"):
            register_dataset("mine")(lambda root, subset=None: None)
    finally:
        del BUILDERS["mine"]


SCRIPT = """
from stable_ssl.data import register_dataset

@register_dataset("of_a_script")
class Mine:
    pass
"""


def test_a_script_that_is_imported_too_registers_once_more(tmp_path, monkeypatch):
    """It is `__main__`, and a module where a `_target_` names something in it."""
    (tmp_path / "script.py").write_text(SCRIPT)
    for name in ("script", "again"):
        spec = spec_from_file_location(name, tmp_path / "script.py")
        monkeypatch.setitem(sys.modules, name, module_from_spec(spec))
        spec.loader.exec_module(sys.modules[name])
    try:
        with pytest.raises(ConfigError, match="is registered already, by again; choos"):
            register_dataset("of_a_script")(lambda root, subset=None: None)
    finally:
        del BUILDERS["of_a_script"]


def test_a_dataset_by_its_dotted_path(tmp_path):
    data = build(tmp_path, _target_="torchvision.datasets.FakeData", size=4)
    assert len(data) == 4


def test_what_a_recipe_below_sets_for_another_dataset_is_left_out_by_null(tmp_path):
    """Not what is no argument of it and has a value."""
    node = {"name": "digits", "subset": "train", "val_size": None}
    assert len(build(tmp_path, **node)) > 0
    message = "the dataset digits takes no val_size.*val_size: null leaves it out"
    with pytest.raises(ConfigError, match=message):
        build(tmp_path, **{**node, "val_size": 0.1})
