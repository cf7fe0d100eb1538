"""Attributes of a user's dataset are taken for what they say, or left alone."""

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from stable_ssl import ConfigError
from stable_ssl.data.sources.source import class_names, known_classes, labelled_files

IMAGES, LABELS = torch.rand(40, 1, 8, 8), numpy.arange(40) % 10
NAMES = [f"class {i}" for i in range(10)]


class Own(Dataset):
    def __init__(self, **held):
        vars(self).update(held)

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return IMAGES[i], LABELS[i]


class Asked(Own):
    def num_classes(self):
        return 10


@pytest.mark.parametrize(
    "dataset",
    [
        Own(num_classes=LABELS.max() + 1),
        Own(num_classes=torch.tensor(10)),
        Own(num_classes=10.0),
        Asked(),
        Own(classes=numpy.array(NAMES)),
        Own(classes=dict(enumerate(NAMES))),
    ],
)
def test_ten_classes_in_any_form(dataset):
    assert known_classes(dataset) == 10 and type(known_classes(dataset)) is int


def test_names_in_any_form():
    names = dict(enumerate(NAMES))
    for classes in (NAMES, numpy.array(NAMES), names):
        assert class_names(Own(classes=classes)) == names
    assert class_names(Own()) == {} and known_classes(Own(classes=[])) is None


@pytest.mark.parametrize("number", [9.5, "ten", [10]])
def test_a_number_of_classes_that_is_none_is_refused(number):
    with pytest.raises(ConfigError, match="Own.num_classes is .*; let it be a whole"):
        known_classes(Own(num_classes=number))


SAMPLES = [
    [f"{i}.png" for i in range(40)],
    [{"image": "a.png"}] * 40,
    [("a.png", 1, 2)] * 40,
    [(1, 2)] * 40,
    IMAGES,
    IMAGES.numpy(),
]


@pytest.mark.parametrize("samples", SAMPLES, ids=lambda s: type(s[0]).__name__)
def test_samples_that_are_no_files_with_labels_are_left_alone(samples):
    assert labelled_files(Own(samples=samples)) == ()
    assert len(labelled_files(Own(samples=[("a.png", 1)] * 40))) == 40


class Coarse(Own):
    """Five classes, of a dataset that holds ten."""

    num_classes = 5

    def __getitem__(self, i):
        return IMAGES[i], LABELS[i] // 2


HELD = [
    Coarse(targets=LABELS.tolist()),
    Own(num_classes=10, targets=LABELS + 100),
    Own(num_classes=10, targets=-numpy.ones(40, int)),
    Own(num_classes=10, labels=torch.arange(1000) % 12),  # not of these samples
    Own(num_classes=10, targets=numpy.zeros((40, 2))),
    *(Own(num_classes=10, samples=samples) for samples in SAMPLES),
]


@pytest.mark.parametrize("brought", [lambda d: d, lambda d: DataLoader(d, 20)])
@pytest.mark.parametrize("number", range(len(HELD)))
def test_what_a_dataset_holds_is_not_believed_against_its_samples(
    tiny, config, number, brought
):
    quick = ["optim.epochs=1", "data.batch_size=20", "log.eval.knn.k=5"]
    quick.append("log.monitor=null")
    data = brought(HELD[number])
    trainer = tiny(config("base", *quick), train=data, val=data)
    trainer.run()
    assert trainer.num_classes == HELD[number].num_classes
    assert trainer.metrics["val/acc1"] >= 0


class Stream(IterableDataset):
    num_classes, targets = 10, (LABELS + 100).tolist()

    def __iter__(self):
        return iter([(IMAGES[i], int(LABELS[i])) for i in range(40)])


def dicts(batch):
    images = torch.stack([sample["x"] for sample in batch])
    return images, torch.tensor([int(sample["y"]) for sample in batch])


class Dicts(Own):
    num_classes = 10

    def __getitem__(self, i):
        return {"x": IMAGES[i], "y": LABELS[i]}


NONE = numpy.where(LABELS > 5, numpy.nan, LABELS)


@pytest.mark.parametrize(
    "data",
    [
        Stream(),
        DataLoader(Stream(), 20),
        DataLoader(Dicts(targets=LABELS + 100), 20, collate_fn=dicts),
        Own(num_classes=10, targets=NONE),
    ],
)
def test_samples_that_cannot_be_asked_refuse_nothing(tiny, config, data):
    quick = ["optim.steps=2", "optim.epochs=null", "data.batch_size=20"]
    off = ["log.monitor=null", "log.eval.linear=null", "log.eval.knn=null"]
    tiny(config("base", *quick, *off), train=data).run()


def test_what_it_holds_is_refused_where_its_samples_say_so_too(tiny, config):
    wrong = Own(num_classes=5, targets=LABELS.tolist())
    for data in (wrong, DataLoader(wrong, 20)):
        with pytest.raises(ConfigError, match="train has labels up to 9"):
            tiny(config("base", "data.batch_size=20"), train=data).run()
