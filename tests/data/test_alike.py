"""Splits of any kind of dataset and loader: one numbering of classes, no leakage."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from stable_ssl.config import ConfigError, load_config
from stable_ssl.data import build_loaders
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
