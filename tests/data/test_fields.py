"""Which entries of a sample are image and label, and every way to write a label."""

from collections import namedtuple

import numpy
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from stable_ssl.augment import build_ops
from stable_ssl.config import ConfigError
from stable_ssl.data import Loader, register_dataset
from stable_ssl.data.datasets import digits
from stable_ssl.data.fields import IMAGE_NAMES, LABEL_NAMES, Fields, build_fields
from stable_ssl.evaluation.bank import encode_bank
from stable_ssl.evaluation.config import ProbeConfig
from stable_ssl.evaluation.knn import knn_accuracy
from stable_ssl.evaluation.predictions import Accuracy
from stable_ssl.evaluation.probe import Probe
from stable_ssl.methods import SupCon, Supervised

USUAL_FIELDS = Fields()
IMAGE = torch.arange(192, dtype=torch.uint8).view(3, 8, 8)
Pair = namedtuple("Pair", "image label")


class Samples(Dataset):
    """Return given samples."""

    def __init__(self, *samples):
        self.samples_ = samples

    def __len__(self):
        return len(self.samples_)

    def __getitem__(self, index):
        return self.samples_[index]


def batch(*samples, views=([],), fields=USUAL_FIELDS, **options):
    """Return the one batch of a loader of samples."""
    options = {"batch_size": len(samples), **options}
    loader = Loader(Samples(*samples), list(views), fields=fields, **options)
    try:
        (found,) = loader
        return found
    finally:
        loader.close()


# --- the form of a sample -------------------------------------------------------------

USUAL = [{image: IMAGE, "label": 1} for image in IMAGE_NAMES]
USUAL += [{"image": IMAGE, label: 1} for label in LABEL_NAMES]


@pytest.mark.parametrize(
    "sample",
    [(IMAGE, 1), [IMAGE, 1], Pair(IMAGE, 1), *USUAL],
    ids=lambda s: "-".join(s) if isinstance(s, dict) else type(s).__name__,
)
def test_an_image_and_its_label(sample):
    x, y = batch(sample, sample)
    assert torch.equal(x[1], IMAGE / 255) and y.tolist() == [1, 1]


@pytest.mark.parametrize("sample", [IMAGE, (IMAGE,), {"image": IMAGE}, (IMAGE, None)])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_alone_has_no_label(sample, workers):
    x, y = batch(sample, sample, num_workers=workers)
    assert x.shape == (2, 3, 8, 8)
    assert y.dtype == torch.int64 and y.tolist() == [-1, -1]


def test_further_entries_follow():
    x, y, number, text = batch((IMAGE, 1, 5, "a"), (IMAGE, 0, 6, "b"))
    assert number.tolist() == [5, 6] and text == ["a", "b"]
    (x, y, rest) = batch(*({"image": IMAGE, "label": i, "id": i + 5} for i in (0, 1)))
    assert rest.keys() == {"id"} and rest["id"].tolist() == [5, 6]
    _, _, unlike = batch((IMAGE, 1, [1]), (IMAGE, 0, None))
    assert unlike == [[1], None]


def test_fields_say_which_they_are():
    sample = {"label": 3, "scan": IMAGE, "image": IMAGE[:1], "kind": 1}
    fields = build_fields({"image": "scan", "label": "kind"})
    x, y, rest = batch(sample, fields=fields)
    assert x.shape == (1, 3, 8, 8) and y.tolist() == [1]
    assert rest.keys() == {"label", "image"}
    x, y, first = batch((7, 1, IMAGE), fields=Fields(2, 1))
    assert x.shape == (1, 3, 8, 8) and y.tolist() == [1] and first.tolist() == [7]


def test_several_images_are_a_view_each():
    """Of one list of ops for all, or one each; of a list, or of named entries."""
    other = 255 - IMAGE
    named = {"a": IMAGE, "b": other, "y": 1}
    for fields, sample in (
        (Fields(["a", "b"], "y"), named),
        (Fields([0, 2], 1), (IMAGE, 1, other)),
        (Fields(), ([IMAGE, other], 1)),
    ):
        for views in ([[]], [[], []]):
            (a, b), y = batch(sample, sample, views=views, fields=fields)
            assert torch.equal(a[1], IMAGE / 255) and torch.equal(b[1], other / 255)
            assert y.tolist() == [1, 1]
    noise = build_ops([{"name": "noise", "std": 0.1}])
    (a, b), _ = batch(([IMAGE, IMAGE], 1), views=[noise])
    assert not torch.equal(a, b)  # each view has its own key


@pytest.mark.parametrize(
    ("sample", "fields", "words"),
    [
        ({"a": IMAGE}, {}, r"^Samples\[0\] is a dict of a; a dataset returns"),
        ({}, {}, r"^Samples\[0\] is a dict of *; a dataset returns"),
        ((), {}, r"^Samples\[0\] is a tuple of *; a dataset returns"),
        (None, {}, r"^Samples\[0\] is a NoneType; a dataset returns"),
        (7, {}, r"^Samples\[0\] is a int; a dataset returns"),
        (
            (IMAGE, 1),
            {"image": "image"},
            r"^data.fields={image: image, label: None}, but Samples\[0\] is a tuple",
        ),
        ({"image": IMAGE}, {"label": "y"}, r"label: y}, but .* is a dict of image;"),
        (IMAGE, {"image": "x"}, r"image: x, label: None}, but .* is a Tensor; a"),
        (([], 1), {}, "has 0 images, and image_transform makes"),
        (([IMAGE] * 3, 1), {}, "has 3 images, and image_transform makes 2 views"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_of_another_form_is_refused(sample, fields, words, workers):
    with pytest.raises(ConfigError, match=words):
        batch(sample, views=[[], []], fields=build_fields(fields), num_workers=workers)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("image", "data.fields=image: write {image: name"),
        ({"images": "x"}, "data.fields.images=x; did you mean 'image'"),
        ({"image": []}, r"data.fields.image=\[\]: write"),
        ({"label": ["a", "b"]}, r"data.fields.label=.*: write"),
        ({"image": 1.5}, "data.fields.image=1.5: write"),
        ({"label": True}, "data.fields.label=True: write"),
    ],
)
def test_fields_that_are_none_are_refused(node, words):
    with pytest.raises(ConfigError, match=words):
        build_fields(node)


# --- how a label is written -----------------------------------------------------------

NUMBERS = "i1 i2 i4 i8 u1 u2 u4 u8 >i2 >i4 >i8 >u2 >u4 >u8 ?".split()
TENSORS = "int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split()
WAYS = {"int": int, "bool": bool, "(1,) list": lambda y: [y]}
WAYS |= {f"{k}": lambda y, k=k: numpy.array([y], k)[0] for k in NUMBERS}
WAYS |= {f"() {k}": lambda y, k=k: numpy.array(y, k) for k in NUMBERS}
WAYS |= {f"(1,) {k}": lambda y, k=k: numpy.array([y], k) for k in NUMBERS}
for kind in TENSORS:
    dtype = getattr(torch, kind)
    WAYS[f"() {kind}"] = lambda y, dtype=dtype: torch.tensor(y, dtype=dtype)
    WAYS[f"(1,) {kind}"] = lambda y, dtype=dtype: torch.tensor([y], dtype=dtype)


@pytest.mark.parametrize("missing", [[], [0], [2], [0, 3], [0, 1, 2, 3]])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_whole_number_of_any_type_is_a_label(way, missing):
    """Some may be None, whether the first or another."""
    right = [-1 if i in missing else y for i, y in enumerate((0, 1, 1, 0))]
    labels = [None if y < 0 else way(y) for y in right]
    _, y = batch(*((IMAGE, label) for label in labels))
    assert y.dtype == torch.int64 and y.tolist() == right


@pytest.mark.parametrize(
    "labels",
    [[torch.zeros(3), None], [None, torch.zeros(3)], [object(), 1], [2**70, 0]],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_labels_that_are_not_alike_are_refused(labels, workers):
    with pytest.raises(ConfigError, match="^the labels of the dataset make no batch"):
        batch(*((IMAGE, label) for label in labels), num_workers=workers)


# --- samples without a label ----------------------------------------------------------


def halves(seed=0, n=64, dim=8, classes=4):
    """Return features, labels, and the labels with half of them missing."""
    chance = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=chance)
    y = torch.randint(0, classes, (n,), generator=chance)
    missing = torch.rand(n, generator=chance) < 0.5
    none = torch.where(torch.rand(n, generator=chance) < 0.5, -1, -100)
    return x, y, y.where(~missing, none)


def test_neighbours_and_accuracy_are_those_of_the_labelled_half():
    x, _, y = halves()
    known = y >= 0
    bank, queries = (x[:32], y[:32]), (x[32:], y[32:])
    kept = [(f[labels >= 0], labels[labels >= 0]) for f, labels in (bank, queries)]
    found = knn_accuracy(encode_bank(lambda x: x, [bank]), queries, 4, k=5)
    assert found == knn_accuracy(*kept, 4, k=5) and 0 < found["acc1"] < 1
    both, half = Accuracy(), Accuracy()
    both.update(x, y)
    half.update(x[known], y[known])
    assert both.compute() == half.compute()


def probe_after(x, y, steps=3):
    """Return a probe trained by plain gradient descent, and its losses."""
    probe = Probe(ProbeConfig(optimizer="sgd", lr=0.5))
    torch.manual_seed(0)
    probe.build(x.shape[1], 4, "cpu")
    losses = [probe.fit(x, y) for _ in range(steps)]
    return probe.module, losses


def test_the_probe_learns_from_the_labelled_half():
    """Its loss is their mean, of features standardised by all of the batch."""
    x, _, y = halves()
    known = y >= 0
    start, _ = probe_after(x, y, 0)
    module, (loss,) = probe_after(x, y, 1)
    expected = cross_entropy(start(x)[known], y[known])
    assert torch.allclose(loss, expected, atol=1e-7)
    for one, two in zip(start.parameters(), module.parameters(), strict=True):
        (slope,) = torch.autograd.grad(expected, one, retain_graph=True)
        assert torch.allclose(one - 0.5 * slope, two, atol=1e-7)


def test_a_batch_without_labels_teaches_the_probe_nothing():
    x, y, _ = halves()
    before, _ = probe_after(x, y, 0)
    after, losses = probe_after(x, torch.full_like(y, -1), 1)
    assert losses == [0]
    for one, two in zip(before.parameters(), after.parameters(), strict=True):
        assert torch.equal(one, two)


def share_of_probe(n):
    """Return the probe's weights after steps on this rank's share of the batch."""
    from stable_ssl import distributed

    x, _, y = halves()
    y[: len(y) // 2] = torch.where(torch.arange(len(y) // 2) < 3, y[:32].clamp(0), -1)
    rows = distributed.rank() * len(x) // n
    part = slice(rows, rows + len(x) // n)
    module, losses = probe_after(x[part], y[part])
    return [p.detach() for p in module.parameters()], losses


def test_ranks_with_unlike_numbers_of_labels_train_one_probe(ranks):
    alone = share_of_probe(1)
    for weights, _ in ranks(2, share_of_probe, 2):
        for one, two in zip(alone[0], weights, strict=True):
            assert torch.allclose(one, two, atol=1e-6)


class Marked(Dataset):
    """Digits of a subset, those of `missing` without a label, or left out."""

    num_classes = 10

    def __init__(self, subset, missing=None, shift=0):
        whole = digits(subset=subset)
        self.pairs, pairs = [], zip(whole.images, whole.labels.tolist(), strict=True)
        for i, (image, label) in enumerate(pairs):
            if i % 2 and missing == "left out":
                continue
            marks = {"None": None, "-1": -1, "-100": -100}
            label = marks.get(str(missing), label + shift) if i % 2 else label + shift
            self.pairs.append((image, label))

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


@register_dataset("marked")
def marked(subset=None, root="", missing=None, shift=0):
    return Marked(subset, missing, shift)


def node(subset, **keys):
    inner = ", ".join(f"{k}: {v}" for k, v in keys.items())
    return f"{{dataset: {{name: marked, subset: {subset}, {inner}}}}}"


@pytest.fixture(scope="module")
def of_the_labelled_half():
    return {}


@pytest.mark.parametrize("missing", ["left out", "None", "-1", "-100"])
def test_figures_of_a_run_are_those_of_the_labelled_half(
    tiny, config, missing, of_the_labelled_half
):
    keys = ["optim.epochs=1", "log.eval.knn.k=5", "data.batch_size=256"]
    splits = [f"++data.val={node('val', missing=missing)}", "data.test=null"]
    bank = f"++data.bank={node('test', missing=missing)}"
    trainer = tiny(config("base", *keys, *splits, bank))
    trainer.run()
    names = ("val/acc1", "val/knn_acc1", "val/knn_acc5")
    found = {name: trainer.metrics[name] for name in names}
    assert of_the_labelled_half.setdefault("figures", found) == found


@pytest.mark.parametrize("split", ["train", "val", "bank"])
def test_labels_from_1_on_are_refused_with_the_remedy(tiny, config, split):
    shifted = f"++data.{split}={node('val', shift=1)}"
    keys = ["data.test=null", "data.batch_size=100", "data.num_classes=10"]
    with pytest.raises(ConfigError, match="subtract 1 from"):
        tiny(config("base", *keys, shifted)).run()


@pytest.mark.parametrize(
    ("method", "missing"), [(Supervised, "-100"), (SupCon, "None"), (SupCon, "-1")]
)
def test_a_method_that_learns_from_labels_refuses_samples_without(
    config, method, missing
):
    """Else the samples without would be one more class, or left out in silence."""
    views = {Supervised: "[]", SupCon: "[[], []]"}[method]
    train = node("train", missing=missing, image_transform=views)
    keys = ["data.val=null", "data.test=null", "log.eval.knn=null", "log.monitor=null"]
    name = {Supervised: "supervised", SupCon: "supcon"}[method]
    words = r"Marked\[\d+\] has no label, and \w+ learns from labels"
    with pytest.raises(ConfigError, match=words):
        method(config(name, *keys, f"++data.train={train}")).run()
