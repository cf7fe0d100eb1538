"""Labels of a loader that was brought: any integers, or refused before they index."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from stable_ssl import BaseTrainer, ConfigError, load_config

IMAGES = torch.rand(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(48) % 3
OFF = ["log.monitor=null", "log.eval.untrained=false", "log.eval.few_labels=[]"]


class Tiny(BaseTrainer):
    """Features of one layer."""

    def initialize_modules(self):
        self.layer = torch.nn.Linear(192, 8)

    def forward(self, x):
        return self.layer(x.flatten(1))

    def compute_loss(self):
        return self(self.data[0]).square().mean()


def loader(labels, **options):
    return DataLoader(TensorDataset(IMAGES, labels), 8, **options)


def run(tmp_path, *overrides, trainer=Tiny, **labels):
    """Train on labels by split; those that are not given are right."""
    keys = ["data.num_classes=3", "optim.epochs=1", f"log.folder={tmp_path}", *OFF]
    given = {"train": LABELS, "val": LABELS, "bank": LABELS} | labels
    loaders = {split: loader(y) for split, y in given.items()}
    made = trainer(load_config("base", [*keys, *overrides]), **loaders)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.run()
    return made.metrics


@pytest.mark.parametrize("off", ["knn", "linear", None])
def test_integers_of_any_type_are_numbers(tmp_path, off):
    more = [f"log.eval.{off}=null"] if off else []
    expected = run(tmp_path, *more)
    types = torch.uint8, torch.int16, torch.int32
    for labels in (*map(LABELS.to, types), LABELS.int()[:, None]):
        found = run(tmp_path, *more, train=labels, val=labels, bank=labels)
        for name in expected.keys() & {"val/acc1", "val/knn_acc1"}:
            assert found[name] == expected[name]


FROM_ONE, NONE = LABELS + 1, torch.where(LABELS == 0, -100, LABELS)
WRONG = {
    "beyond": (FROM_ONE, "{} has the label 3, and 3 classes .*subtract 1 from labels"),
    "a byte": (FROM_ONE.byte(), "{} has the label 3, and 3 classes .*num_classes=4"),
    "a float": (
        LABELS.float(),
        "shape .8,., of torch.float32.* one whole number",
    ),
    "several": (
        LABELS[:, None].expand(-1, 3),
        "labels of .*8, 3.",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize(
    ("split", "off"),
    [
        ("val", "linear"),
        ("val", None),
        ("bank", "linear"),
        ("bank", None),
        ("train", "knn"),
        ("train", None),
    ],
)
def test_others_are_refused_in_words(tmp_path, kind, split, off):
    labels, words = WRONG[kind]
    more = [f"log.eval.{off}=null"] if off else []
    with pytest.raises(ConfigError, match=words.format(split)):
        run(tmp_path, *more, **{split: labels})


def test_a_probe_alone_reads_them_too(tmp_path):
    words = "val has the label 3, and 3 classes"
    with pytest.raises(ConfigError, match=words):
        run(tmp_path, "log.eval.knn=null", val=FROM_ONE)


def test_a_negative_one_is_none(tmp_path):
    found = run(tmp_path, train=NONE, val=NONE, bank=NONE)
    assert 0 <= found["val/knn_acc1"] <= 1


class Tags(Tiny):
    """Logits of three tags an image."""

    predicts, task = True, "multilabel"

    def initialize_modules(self):
        self.layer = torch.nn.Linear(192, 3)


class One(Tags):
    """The logit of the first tag."""

    task = "binary"

    def forward(self, x):
        return super().forward(x)[:, 0]


def test_other_tasks_have_floats(tmp_path):
    off = ["log.eval.linear=null", "log.eval.knn=null"]
    tags = torch.eye(3)[LABELS]
    found = run(tmp_path, *off, trainer=Tags, train=tags, val=tags, bank=tags)
    assert 0 < found["val/map"] <= 1
    first = tags[:, 0]
    keys = [*off, "data.num_classes=1"]
    found = run(tmp_path, *keys, trainer=One, train=first, val=first, bank=first)
    assert 0 < found["val/ap"] <= 1
