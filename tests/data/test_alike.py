"""Splits of any kind of dataset and loader: one numbering of classes, no leakage."""

import warnings

import numpy
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from stable_ssl.config import ConfigError, load_config
from stable_ssl.data import build_loaders
from stable_ssl.data.datasets import build_dataset
from stable_ssl.data.objects import put_into

IMAGE = torch.zeros(3, 8, 8, dtype=torch.uint8)


class Named(Dataset):
    """Two samples of each class, in the attribute that a user's dataset has."""

    def __init__(self, **names):
        self.__dict__.update(names)
        self.size = 2 * len(next(iter(names.values())))

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return IMAGE, index // 2


def built(**splits):
    config = load_config("base", ["data.batch_size=2"])
    objects = put_into(config, dict.fromkeys(("train", "val", "test")) | splits)
    return build_loaders(config, torch.device("cpu"), objects)


def by_list(names):
    return Named(classes=list(names))


def by_mapping(names):
    return Named(class_to_idx={name: i for i, name in enumerate(names)})


KINDS = {
    "list": by_list,
    "mapping": by_mapping,
    "part": lambda names: Subset(Subset(by_list(names), [0, 1, 2]), [0, 1]),
    "loader": lambda names: DataLoader(by_list(names), 2),
    "loader of a part": lambda names: DataLoader(Subset(by_mapping(names), [0, 1]), 2),
}


@pytest.mark.parametrize("train", KINDS)
@pytest.mark.parametrize("val", KINDS)
def test_a_class_has_one_number_in_all_splits(train, val):
    with pytest.raises(ConfigError, match="class b is number 0 in data.val and 1 in d"):
        built(train=KINDS[train]("abc"), val=KINDS[val]("bc"))
    assert built(train=KINDS[train]("abc"), val=KINDS[val]("ab"))


def test_two_classes_of_one_name_are_taken():
    """As the cranes, and the maillots, of ImageNet."""
    names = ["crane", "bird", "crane"]
    assert built(train=by_list(names), val=by_list(names))


def test_a_part_has_the_classes_of_the_whole():
    config = load_config("base", ["data.batch_size=2"])
    part = Subset(by_list("abc"), [0, 1])
    objects = put_into(config, {"train": part, "val": None, "test": None})
    build_loaders(config, torch.device("cpu"), objects)
    assert config.data.num_classes == 3


# --- samples of train in val ----------------------------------------------------------

DATA = by_list("abcde")  # ten samples
OTHER = by_list("abcde")
PIXELS = torch.zeros(10, 3, 8, 8)


def pixels():
    return TensorDataset(PIXELS, torch.arange(10))


class Own(Sampler):
    """Chooses who knows which."""

    def __init__(self, dataset):
        self.rows = range(3)

    def __len__(self):
        return 3

    def __iter__(self):
        return iter(self.rows)


def chosen(sampler):
    return DataLoader(DATA, 2, sampler=sampler)


def in_batches(sampler):
    return DataLoader(DATA, batch_sampler=BatchSampler(sampler, 2, False))


FIRST = torch.tensor([1.0] * 5 + [0.0] * 5)
SHARED = {  # train, val, and how many of val are in train
    "an object": (DATA, DATA, 10),
    "loaders of one": (DataLoader(DATA, 2), DataLoader(DATA, 2, shuffle=True), 10),
    "parts": (Subset(DATA, range(6)), Subset(DATA, [4, 5, 6, 7]), 2),
    "parts of parts": (Subset(Subset(DATA, [7, 8, 9]), [1, 2]), Subset(DATA, [9]), 1),
    "a sum": (ConcatDataset([OTHER, DATA]), Subset(DATA, [0, 1]), 2),
    "part of a sum": (Subset(ConcatDataset([OTHER, DATA]), range(12)), DATA, 2),
    "tensors": (pixels(), pixels(), 10),
    "rows": (chosen(SubsetRandomSampler(range(6))), chosen(SequentialSampler([0])), 1),
    "weights": (chosen(WeightedRandomSampler(FIRST, 9)), DataLoader(DATA, 2), 5),
    "from the end": (Subset(DATA, [-1, -2]), Subset(DATA, [0, 9]), 1),
    "batches": (in_batches(RandomSampler(range(4))), Subset(DATA, [3, 4]), 1),
}
APART = {
    "other objects": (DATA, OTHER),
    "parts": (Subset(DATA, range(6)), Subset(DATA, range(6, 10))),
    "a sum": (ConcatDataset([OTHER, Subset(DATA, [0])]), Subset(DATA, [1, 2])),
    "rows": (
        chosen(SubsetRandomSampler(range(6))),
        in_batches(SubsetRandomSampler(range(6, 10))),
    ),
    "weights": (chosen(WeightedRandomSampler(FIRST, 9)), Subset(DATA, range(5, 10))),
    "no such rows": (chosen(SubsetRandomSampler([1, 99])), Subset(DATA, [1, 2])),
    "a sampler of one's own": (chosen(Own(DATA)), Subset(DATA, [7, 8])),
}


@pytest.mark.parametrize("kind", SHARED)
def test_samples_of_train_in_val_are_warned_of(kind):
    train, val, count = SHARED[kind]
    words = rf"{count} of the \d+ images of data.val are in data.train, too, .*\[\d+\]"
    with pytest.warns(UserWarning, match=words):
        built(train=train, val=val)


@pytest.mark.parametrize("kind", APART)
def test_others_are_not(kind):
    train, val = APART[kind]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*are in data.train")
        built(train=train, val=val, bank=train)
        built(train=train, bank=val)


@pytest.fixture
def files(tmp_path):
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{i}.png")
    numpy.save(tmp_path / "x.npy", numpy.zeros((9, 3, 8, 8), numpy.uint8))
    numpy.save(tmp_path / "y.npy", numpy.zeros(9, numpy.int64))
    return tmp_path


def test_files_are_known_in_folders_of_any_kind(files):
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor

    one, two = (ImageFolder(files, transform=ToTensor()) for _ in range(2))
    with pytest.warns(UserWarning, match="6 of the 6 images .*too, .*/a/0.png among"):
        built(train=one, val=DataLoader(two, 2))
    with pytest.warns(UserWarning, match="2 of the 3 images .*too, .*/a/2.png among"):
        built(train=Subset(one, range(2, 6)), val=Subset(two, [1, 2, 3]))
    ours = build_dataset({"name": "image_folder", "root": str(files)})
    with pytest.warns(UserWarning, match="6 of the 6 images .*too, .*/a/0.png among"):
        built(train=one, val=ours)


ARRAYS = "{name: array, root: %s, images: x.npy, labels: y.npy%s}"
OWN = "{_target_: %s.by_list, names: %s}"


@pytest.mark.parametrize("held", [0, 1])
def test_what_a_config_makes_of_one_file_is_one(files, held):
    few = ", labels_per_class: 4"
    with pytest.warns(UserWarning, match="9 of the 9 images of data.val are in"):
        by_nodes(ARRAYS % (files, ""), ARRAYS % (files, ""), f"data.in_memory={held}")
    with pytest.warns(UserWarning, match="4 of the 9 images of data.val are in"):
        by_nodes(ARRAYS % (files, few), ARRAYS % (files, ""), f"data.in_memory={held}")
    few = ", labels_per_class: [4, 9]"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        more = ARRAYS % (files, ", labels_per_class: 4")
        by_nodes(ARRAYS % (files, few), more, f"data.in_memory={held}")


def by_nodes(train, val, *overrides):
    nodes = [f"++data.train.dataset={train}", f"++data.val.dataset={val}"]
    keys = ["data.test=null", "data.batch_size=2", *nodes, *overrides]
    return build_loaders(load_config("base", keys), torch.device("cpu"))


def test_what_a_config_builds_of_the_same_arguments_is_one():
    digits = "{name: digits, subset: %s}"
    with pytest.warns(UserWarning, match="1197 of the 1197 images of data.val"):
        by_nodes(digits % "train", digits % "train")
    with pytest.warns(UserWarning, match="200 of the 600 images of data.val"):
        by_nodes("{name: digits, subset: [train, val]}", digits % "[val, test]")
    abc = OWN % (__name__, "abc")
    with pytest.warns(UserWarning, match="6 of the 6 images of data.val"):
        by_nodes(abc, abc)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_nodes(digits % "train", digits % "[val, test]")
        by_nodes(abc, OWN % (__name__, "ab"))
