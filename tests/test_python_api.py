"""Trainers in a script or notebook: with datasets and loaders that it made itself."""

from dataclasses import dataclass
from functools import partial

import numpy
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from stable_ssl import ConfigError, SimCLR, load_config
from stable_ssl.config import Model, key
from stable_ssl.data.objects import is_dataset

VIEW = [{"name": "random_resized_crop", "size": 8}, {"name": "noise", "std": 0.1}]
OFF = ["log.eval.untrained=false", "log.eval.few_labels=[]", "log.pictures=null"]


class Squares(Dataset):
    """Eight-pixel images of a shade for each of two classes."""

    classes = ("dark", "light")

    def __init__(self, n=96):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        shade = 60 + 120 * (index % 2) + index % 50
        return numpy.full((8, 8, 3), shade, numpy.uint8), index % 2


class Stream(IterableDataset):
    """The same, one after the other."""

    def __iter__(self):
        return iter([Squares()[i] for i in range(96)])


class Opened(Squares):
    """The same from a file, which is opened with the first that is read."""

    def __init__(self, path):
        super().__init__()
        pixels = numpy.stack([super(Opened, self).__getitem__(i)[0] for i in range(96)])
        path.write_bytes(pixels.tobytes())
        self.path, self.file = path, None

    def __getitem__(self, index):
        if self.file is None:
            self.file = self.path.open("rb")
        self.file.seek(192 * index)
        pixels = numpy.frombuffer(self.file.read(192), numpy.uint8)
        return pixels.reshape(8, 8, 3), index % 2


@pytest.fixture
def small(tmp_path):
    """Return a maker of configs of a short run."""

    def make(name="simclr", *overrides):
        more = [f"log.folder={tmp_path}", "optim.epochs=2", "data.batch_size=32"]
        return load_config(name, [*more, "log.run=run", *OFF, *overrides])

    return make


def own_views(config):
    """Let the views be those of any images of eight pixels."""
    config.data.train = {"dataset": {"image_transform": [VIEW, VIEW]}}
    config.data.val = config.data.test = None
    return config


def test_a_dataset_is_trained_on_as_one_of_the_config(small, rows, tmp_path):
    config = own_views(small())
    trainer = SimCLR(config, train=Squares(), val=Squares(40))
    trainer.run()
    assert trainer.num_classes == 2 and trainer.config.model.backbone.in_channels == 3
    last = rows(trainer.run_dir)[-1]
    assert {"val/acc1", "val/knn_acc1"} <= last.keys()
    recorded = load_config(trainer.run_dir / "config.yaml")
    assert recorded.data.train.dataset.object == f"{__name__}.Squares"
    with pytest.raises(ConfigError, match="a configuration alone does not rebuild it"):
        SimCLR(recorded).setup()


def test_a_file_is_first_opened_in_a_worker(small, tmp_path):
    """Else it would be one for all workers, which moved each other's place in it."""
    brought = [Opened(tmp_path / name) for name in "abc"]
    config = own_views(small("simclr", "data.num_workers=2"))
    trainer = SimCLR(
        config,
        train=brought[0],
        val=brought[1],
        bank=brought[2],
    )
    trainer.run()
    assert [dataset.file for dataset in brought] == [None] * 3


def test_what_has_no_object_is_off(small):
    trainer = SimCLR(own_views(small()), train=Squares())
    trainer.setup()
    assert trainer.loaders.keys() == {"train", "bank"}
    trainer.cleanup()


class Noisy(Dataset):
    """96 samples of two views that differ each time they are drawn, as views do."""

    def __init__(self):
        self.images = torch.rand(96, 3, 8, 8, generator=seeded(0))

    def __len__(self):
        return 96

    def __getitem__(self, i):
        return self.images[i] + torch.rand(2, 1, 1, 1) / 2, i % 2


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def two_views(samples):
    images, labels = zip(*samples, strict=True)
    return list(torch.stack(images, 1)), torch.tensor(labels)


def loader(**options):
    """Return a loader of batches of two views, in an order of torch's generator."""
    options = {"batch_size": 16, "shuffle": True} | options
    return DataLoader(Noisy(), collate_fn=two_views, **options)


def batch_sampler():
    return BatchSampler(RandomSampler(range(96), generator=seeded(3)), 16, True)


LOADERS = {
    "shuffled": loader,
    "by workers": partial(loader, num_workers=2),
    "own generator": lambda: loader(generator=seeded(1)),
    "sampler": lambda: loader(
        sampler=RandomSampler(range(96), True, 96, seeded(2)), shuffle=False
    ),
    "weighted": lambda: loader(
        sampler=WeightedRandomSampler(torch.arange(96.0), 96), shuffle=False
    ),
    "batch sampler": lambda: DataLoader(
        Noisy(), collate_fn=two_views, batch_sampler=batch_sampler()
    ),
    "part of several": lambda: loader(
        sampler=DistributedSampler(range(96), 2, 0), shuffle=False, batch_size=8
    ),
}


@pytest.mark.parametrize(
    "step", [8, *(pytest.param(s, marks=pytest.mark.slow) for s in (7, 12))]
)
@pytest.mark.parametrize("kind", LOADERS)
def test_a_loader_is_trained_on_and_resumes_exactly(small, rows, kind, step):
    """Killed after any step of an epoch of six: its first, its second, its last."""
    changes = ["data.num_classes=2", "log.checkpoint.every_n_steps=1"]
    changes += ["optim.epochs=3", "log.every_n_steps=1"]

    class Dropping(SimCLR):
        def forward(self, x):
            return torch.nn.functional.dropout(super().forward(x), 0.1, self.training)

        def before_train_step(self):
            self.order = [*getattr(self, "order", []), self.data[1].tolist()]

    whole = Dropping(small("simclr", *changes), train=LOADERS[kind]())
    whole.run()
    assert whole.order[:6] != whole.order[6:12]  # another order each epoch
    expected = rows(whole.run_dir)

    class Killed(Dropping):
        def before_train_step(self):
            super().before_train_step()
            if self.step == step:
                raise KeyboardInterrupt

    named = [*changes, "log.run=killed"]
    with pytest.raises(KeyboardInterrupt):
        Killed(small("simclr", *named), train=LOADERS[kind]()).run()
    again = Dropping(small("simclr", *named, "log.resume=auto"), train=LOADERS[kind]())
    again.run()
    assert rows(again.run_dir) == expected
    torch.testing.assert_close(again.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_batches_of_a_loader_may_be_mappings(small):
    class Mapped(SimCLR):
        def compute_loss(self):
            return self(self.data["image"]).square().mean()

    samples = [{"image": torch.rand(3, 8, 8)} for _ in range(64)]
    config = small("simclr", "log.eval.linear=null")
    trainer = Mapped(config, train=DataLoader(samples, 32))
    trainer.run()
    assert trainer.step == 4


def test_a_loader_of_val_and_a_bank_are_evaluated(small, rows):
    views = loader()
    plain = DataLoader([(x[0], y) for x, y in map(Noisy().__getitem__, range(96))], 32)
    config = small("simclr", "data.num_classes=2", "log.eval.knn.k=1")
    trainer = SimCLR(config, train=views, val=plain, bank=plain)
    trainer.run()
    assert rows(trainer.run_dir)[-1]["val/knn_acc1"] == 1  # its own neighbours


def test_a_list_of_batches_is_a_loader(small, rows):
    plain = DataLoader([(x[0], y) for x, y in map(Noisy().__getitem__, range(96))], 32)
    given = {"val": [*plain], "bank": tuple(plain)}
    keys = ["data.num_classes=2", "log.eval.knn.k=1"]
    trainer = SimCLR(small("simclr", *keys), train=[*loader()], **given)
    trainer.run()
    assert trainer.step == 12 and rows(trainer.run_dir)[-1]["val/knn_acc1"] == 1


IMAGE = torch.rand(3, 8, 8)


@pytest.mark.parametrize(
    ("first", "batch"),
    [
        ((IMAGE[None].expand(4, 3, 8, 8), torch.zeros(4)), True),
        (([IMAGE[None].expand(4, 3, 8, 8)] * 2, torch.zeros(4), "more"), True),
        ({"image": IMAGE.expand(2, 3, 8, 8), "label": torch.zeros(2, 5)}, True),
        ((IMAGE, 1), False),
        ((IMAGE, torch.zeros(3)), False),  # three labels of one image
        ((IMAGE[None], torch.zeros(1)), False),  # a volume and its label
        ((IMAGE.expand(2, 3, 8, 8), torch.tensor(1)), False),
        ({"image": IMAGE}, False),
        (IMAGE, False),
    ],
)
def test_a_list_holds_batches_or_samples(first, batch):
    assert is_dataset([first]) is not batch


def test_without_a_bank_it_is_said_that_nothing_is_compared(small):
    plain = DataLoader([(torch.rand(3, 8, 8), i % 2) for i in range(32)], 16)
    given = {"train": loader(), "val": plain}
    keys = ["data.num_classes=2", "log.monitor=null"]
    trainer = SimCLR(small("simclr", *keys), **given)
    trainer.run()
    said = (trainer.run_dir / "console.log").read_text()
    assert "there is no bank of plain images" in said and ": without knn\n" in said
    monitored = [keys[0], "log.monitor=val/knn_acc1"]
    with pytest.raises(ConfigError, match="there is no bank of plain images"):
        SimCLR(small("simclr", *monitored), **given).run()


def pairs():
    """Return a dataset of tensors."""
    images = torch.stack([torch.from_numpy(Squares()[i][0]) for i in range(96)])
    return TensorDataset(images.permute(0, 3, 1, 2), torch.arange(96) % 2)


@pytest.mark.parametrize("make", [pairs, Stream, lambda: [*map(tuple, pairs())]])
def test_a_dataset_of_any_kind(small, make):
    steps = "data.num_classes=2", "optim.steps=3", "optim.epochs=null"
    trainer = SimCLR(own_views(small("simclr", *steps)), train=make())
    trainer.run()
    assert trainer.step == 3


@pytest.mark.slow
def test_processes_share_a_dataset(small, rows):
    config = own_views(small())
    alone = SimCLR(config, train=Squares(), val=Squares(40))
    alone.run()
    config.hardware.processes, config.log.run = 2, "two"
    SimCLR(config, train=Squares(), val=Squares(40)).run()
    one, two = rows(alone.run_dir)[-1], rows(alone.run_dir.with_name("two"))[-1]
    assert one.keys() == two.keys()
    assert two["val/knn_acc1"] == pytest.approx(one["val/knn_acc1"], abs=0.03)


@pytest.mark.parametrize(
    "split, given, words",
    [
        ("train", "a/folder", "found train='a/folder', of the type str"),
        ("val", 3, "found val=3, of the type int"),
        ("train", Squares, "of the type type"),
    ],
)
def test_what_is_neither_is_refused(small, split, given, words):
    with pytest.raises(ConfigError, match=words):
        SimCLR(small(), **{split: given})


def test_several_by_name_are_datasets(small):
    with pytest.raises(ConfigError, match="of several by name give the datasets"):
        SimCLR(small(), train={"a": iter([1]), "b": Squares()})


# --- recipes on recipes ---------------------------------------------------------------


@pytest.fixture
def child(tmp_path):
    """Return a maker of configs of a recipe on top of `simclr`."""

    def make(text):
        path = tmp_path / "mine.yaml"
        path.write_text(f"defaults: [simclr, _self_]\n{text}")
        return load_config(path, [f"log.folder={tmp_path}"])

    return make


def set_up(config):
    """Build all that a run needs, and let it go."""
    trainer = SimCLR(config)
    try:
        trainer.setup()
    finally:
        trainer.cleanup()


def test_a_recipe_changes_an_op_of_the_one_below(child):
    crop = "data: {transforms: {crop: {name: resize, size: 8%s}}}"
    with pytest.raises(
        ConfigError, match="resize takes no 'scale'.*scale: null leaves"
    ):
        set_up(child(crop % ""))
    set_up(child(crop % ", scale: null"))


def test_a_recipe_puts_an_op_of_another_library_there(child):
    crop = "data: {transforms: {crop: {_target_: torchvision.transforms.Resize%s}}}"
    asked = "unexpected keyword argument 'name'.*name: null leaves it out"
    with pytest.raises(ConfigError, match=asked):
        set_up(child(crop % ", scale: null"))
    nulls = ", size: [8, 8], name: null, scale: null"
    set_up(child(crop % nulls))


def test_a_class_with_keys_of_its_own_leaves_out_those_of_the_recipe(child):
    @dataclass
    class Keys(Model):
        width: int = key(512, low=1)

    class Mine(SimCLR):
        model_config = Keys

        def initialize_modules(self):
            self.backbone = torch.nn.Linear(1, self.config.model.width)

    asked = "model.temperature is not a key.*temperature: null leaves it out"
    with pytest.raises(ConfigError, match=asked):
        Mine(child("model: {width: 3}"))
    nulls = "model: {width: 3, temperature: null, projector: null}"
    assert Mine(child(nulls)).config.model.width == 3
