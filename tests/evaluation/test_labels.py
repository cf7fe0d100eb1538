"""Labels are looked at where they are held, and refused before they are an index."""

from types import SimpleNamespace

import pytest
import torch

from stable_ssl.config import ConfigError, Eval
from stable_ssl.evaluation.labels import check_labels, label_range
from stable_ssl.evaluation.suite import asked_for


def loader(**held):
    return SimpleNamespace(dataset=SimpleNamespace(**held))


@pytest.mark.parametrize(
    ("held", "found"),
    [
        ({"labels": torch.tensor([3, 0, 7])}, (0, 7)),
        ({"targets": [1, 2]}, (1, 2)),
        ({"samples": [("a.png", -1), ("b.png", -1)]}, (-1, -1)),
        ({"targets": [1, 2], "target_transform": lambda y: 0}, None),
        ({"targets": ["cat", "dog"]}, None),
        ({"targets": [[1, 2], [3]]}, None),
        ({}, None),
    ],
)
def test_the_range_of_the_labels_held(held, found):
    assert label_range(loader(**held)) == found
    assert label_range(None) is None


def asked(**nodes):
    return dict(asked_for(Eval(**nodes)))


def test_what_is_right_or_not_known_is_accepted():
    labelled, plain = loader(targets=[0, 9]), loader(targets=[-1])
    check_labels({"train": labelled, "val": labelled, "bank": loader()}, 10, asked())
    check_labels({"train": plain, "val": plain}, None, asked())
    check_labels({"train": plain}, 10, asked(linear=None))
    off = asked(linear=None, knn=None, offline=None)
    check_labels({"train": plain, "bank": plain, "val": plain}, 10, off)


@pytest.mark.parametrize(
    ("split", "labels", "words"),
    [
        ("train", [0, 9], "num_classes=5, but train has labels up to 9; set it to 10"),
        ("val", [1, 5, 3], "val has labels from 1 to 5, .* from 0 to 4; subtract 1"),
        ("train", [-1, -1], "train has no labels.*log.eval.linear=null"),
        ("bank", [-1, -100], "bank has no labels.*a labelled data.bank"),
        ("val", [-1], "val has no labels"),
    ],
)
def test_what_would_be_an_index_out_of_range_is_refused(split, labels, words):
    with pytest.raises(ConfigError, match=words):
        check_labels({split: loader(targets=labels)}, 5, asked())
