"""Several train loaders at once, streams, samplers and collate functions."""

import random

import numpy
import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.data import Dataset, IterableDataset

from stable_ssl import load_config
from stable_ssl.augment import build_ops
from stable_ssl.config import ConfigError, complete
from stable_ssl.data import Combined, Loader, RotationCollate, build_dataset
from stable_ssl.data.build import build_loaders, build_views
from stable_ssl.data.check import check_examples

DIGITS = {"name": "digits", "subset": "train"}
NOISE = [{"name": "noise", "std": 0.1}]


def digits_loader(size, seed=0, **options):
    dataset = build_dataset(DIGITS, ".", False).subset(torch.arange(size))
    settings = {"batch_size": 10, "shuffle": True, "drop_last": True, **options}
    return Loader(dataset, [build_ops(NOISE)], seed=seed, **settings)


def test_an_epoch_is_that_of_the_longest_and_the_others_start_again():
    both = Combined({"long": digits_loader(70, 1), "short": digits_loader(30, 2)})
    assert len(both) == 7 and both.batch_size == 20
    orders = []
    for epoch in (0, 1):
        both.set_epoch(epoch)
        batches = list(both)
        assert len(batches) == 7
        long = torch.cat([b["long"][0] for b in batches])
        assert len(long.flatten(1).unique(dim=0)) == 70  # each once
        short = [b["short"][1] for b in batches]
        passes = [torch.cat(short[:3]), torch.cat(short[3:6])]
        assert torch.equal(*(p.sort().values for p in passes))  # the same 30 images
        orders += passes
    for a in range(4):
        for b in range(a):
            assert not torch.equal(orders[a], orders[b])  # in another order each time


def test_an_epoch_of_several_may_start_in_its_middle():
    both = Combined({"long": digits_loader(70, 1), "short": digits_loader(30, 2)})
    both.set_epoch(3)
    whole = list(both)
    for start in (1, 3, 5):
        both.set_epoch(3, start)
        rest = list(both)
        assert len(rest) == 7 - start
        for a, b in zip(whole[start:], rest, strict=True):
            for name in ("long", "short"):
                assert torch.equal(a[name][0], b[name][0])


def several(**data):
    config = load_config("base", ["data.num_classes=null"])
    return {**config, "data": {"batch_size": 100, **data}}


def node(subset="train", **keys):
    return {"dataset": {"name": "digits", "subset": subset}, **keys}


def test_several_train_loaders_in_the_configuration():
    config = complete(
        several(
            train={
                "unlabelled": node(batch_size=70),
                "supervised": node("val"),
                "off": None,
            },
            labelled="supervised",
        )
    )
    loaders = build_loaders(config, torch.device("cpu"))
    assert set(loaders["train"].loaders) == {"unlabelled", "supervised"}
    assert len(loaders["train"]) == 17 and len(loaders["bank"].dataset) == 200
    batch = next(iter(loaders["train"]))
    assert len(batch["unlabelled"][1]) == 70 and len(batch["supervised"][1]) == 100
    config.data.labelled = "supervise"
    with pytest.raises(ConfigError, match="did you mean 'supervised'"):
        build_loaders(config, torch.device("cpu"))
    config.data.train = {"supervised": {"datset": {"name": "digits"}}}
    with pytest.raises(ConfigError, match="data.train.supervised.*needs dataset"):
        build_loaders(config, torch.device("cpu"))


def test_training_with_several_loaders_resumes_exactly(tiny, tmp_path):
    class Both(tiny):
        def compute_loss(self):
            (x, y), (other, _) = self.data["labelled"], self.data["free"]
            loss = torch.nn.functional.cross_entropy(self(x), y)
            return loss + 1e-3 * self(other).square().mean()

    def run(name, stop=None):
        config = several(
            train={"free": node(), "labelled": node("val", batch_size=50)},
            labelled="labelled",
            val=node("test"),
        )
        over = {"optim.epochs": 2, "log.folder": str(tmp_path), "log.run": name}
        over |= {"log.checkpoint.every_n_steps": 1, "log.eval.few_labels": []}
        config = complete(config)
        for key, value in over.items():
            OmegaConf.update(config, key, value)
        trainer = Both(config)
        if stop is not None:

            def interrupt():
                if trainer.step == stop:
                    raise RuntimeError("stop")

            trainer.before_train_step = interrupt
            with pytest.raises(RuntimeError, match="stop"):
                trainer.run()
        else:
            trainer.run()
        return trainer

    whole = run("whole")
    assert whole.step == 22 and "val/knn_acc1" in whole.metrics
    run("cut", stop=7)
    resumed = run("cut")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


# --- streams --------------------------------------------------------------------------


class Stream(IterableDataset):
    """Yield digits in an order drawn from torch's global generator."""

    def __init__(self, size=100, known=False):
        self.digits = build_dataset(DIGITS, ".", False)
        self.size = size
        if known:
            self.__class__ = type("Known", (Stream,), {"__len__": lambda s: s.size})

    def __iter__(self):
        for _ in range(self.size):
            yield self.digits[int(torch.randint(1000, ()))]


def stream_loader(**options):
    settings = {"batch_size": 16, "seed": 3, **options}
    return Loader(Stream(), build_views(NOISE), **settings)


def test_a_stream_is_a_function_of_seed_and_epoch(in_order):
    state = torch.get_rng_state()
    first = in_order(stream_loader(), 1)
    assert len(first) == 100
    assert in_order(stream_loader(num_workers=1), 1) == first
    assert in_order(stream_loader(), 2) != first
    assert torch.equal(state, torch.get_rng_state())


def test_a_stream_starts_in_the_middle():
    loader = stream_loader()
    loader.set_epoch(1)
    whole = list(loader)
    loader.set_epoch(1, 4)
    rest = list(loader)
    for (a, ya), (b, yb) in zip(whole[4:], rest, strict=True):
        assert torch.equal(a, b) and torch.equal(ya, yb)


class OwnGenerator(Stream):
    """Draw from a generator that nobody seeds."""

    def __iter__(self):
        own = random.Random()
        for _ in range(self.size):
            yield self.digits[own.randrange(1000)]


class OwnNoise(Dataset):
    """Add what a generator of its own draws."""

    def __init__(self):
        self.own = numpy.random.default_rng(0)

    def __len__(self):
        return 32

    def __getitem__(self, index):
        return self.own.random((1, 8, 8)), 0


def test_a_dataset_with_a_generator_of_its_own_is_said(recwarn):
    check_examples({"train": Loader(OwnNoise(), build_views(NOISE), batch_size=16)})
    assert "two starts of OwnNoise gave" in str(recwarn.pop(UserWarning).message)
    for dataset in (Stream(), OwnGenerator()):
        loader = Loader(dataset, build_views(NOISE), batch_size=16)
        check_examples({"train": loader})
        texts = [str(warning.message) for warning in recwarn.list]
        assert texts == [] or "two starts of OwnGenerator gave different" in texts[0]
    assert len(texts) == 1


def test_ranks_share_a_stream():
    parts = [list(stream_loader(batch_size=20, rank=r, world_size=2)) for r in range(2)]
    whole = list(stream_loader(batch_size=20))
    for (x, y), *halves in zip(whole, *parts, strict=True):
        assert torch.equal(x, torch.cat([h[0] for h in halves]))
        assert torch.equal(y, torch.cat([h[1] for h in halves]))


def test_training_on_a_stream_needs_its_length_in_steps(tiny, tmp_path):
    def config(**optim):
        data = {"batch_size": 16, "num_classes": 10}
        data["train"] = {"dataset": {"_target_": f"{__name__}.Stream", "size": 40}}
        optim = {"epochs": None, **optim}
        log = {"folder": str(tmp_path), "eval": {"knn": None}}
        return {"data": data, "optim": optim, "log": log}

    with pytest.raises(ConfigError, match="no length; set optim.steps"):
        tiny(config(epochs=1)).setup()
    trainer = tiny(config(steps=7))  # 112 of 40 images: it starts again
    trainer.run()
    assert trainer.step == 7 and trainer.epoch == 1


def test_a_worker_of_a_stream_does_not_stay_in_the_first_epoch(in_order):
    kept = stream_loader(num_workers=1, persistent_workers=True)
    for epoch in (1, 2):
        assert in_order(kept, epoch) == in_order(stream_loader(), epoch)


@pytest.mark.parametrize("known", [True, False])
def test_a_stream_beside_other_data_starts_in_the_middle(known):
    """Where it ends before them, too, and where it does not know its length."""
    stream = Stream(size=30, known=known)
    both = Combined(
        {
            "long": digits_loader(70, 1),
            "stream": Loader(stream, build_views(NOISE), batch_size=10, drop_last=True),
        }
    )
    assert len(both) == 7
    both.set_epoch(3)
    whole = list(both)
    for start in (1, 3, 5):
        both.set_epoch(3, start)
        for a, b in zip(whole[start:], list(both), strict=True):
            for name in ("long", "stream"):
                assert torch.equal(a[name][0], b[name][0])


def test_several_streams_that_do_not_know_their_length_need_steps():
    with pytest.raises(TypeError, match="none of the loaders knows its length"):
        len(Combined({"stream": stream_loader()}))


def test_streams_have_one_worker():
    with pytest.raises(ConfigError, match="num_workers: 1"):
        stream_loader(num_workers=2)


# --- samplers and collate functions ---------------------------------------------------


def test_a_sampler_of_torch_is_keyed_by_the_epoch():
    target = "torch.utils.data.WeightedRandomSampler"
    weights = [1.0] * 100 + [0.0] * 1097
    config = complete(
        several(
            train=node(
                sampler={"_target_": target, "weights": weights, "num_samples": 200}
            )
        )
    )
    state = torch.get_rng_state()
    loader = build_loaders(config, torch.device("cpu"))["train"]
    assert len(loader) == 2

    def labels(epoch, start=0):
        loader.set_epoch(epoch, start)
        return [y for _, y in loader]

    first = labels(1)
    assert torch.equal(first[1], labels(1, start=1)[0])
    assert not torch.equal(first[0], labels(2)[0])
    assert torch.equal(state, torch.get_rng_state())
    known = loader.dataset.labels[:100].bincount(minlength=10) > 0
    assert not (torch.cat(first).bincount(minlength=10)[~known] > 0).any()


def test_rotation_collate():
    loader = digits_loader(40, collate_fn=RotationCollate(), drop_last=False)
    plain = digits_loader(40, drop_last=False)
    (x, y), (image, _) = next(iter(loader)), next(iter(plain))
    assert x.shape == (40, 1, 8, 8) and y.tolist() == [0, 1, 2, 3] * 10
    assert torch.equal(x[0::4], image)
    assert torch.equal(x[1::4].rot90(-1, (2, 3)), image)
    assert torch.equal(x[2::4], image.flip(2, 3))
    two = Loader(loader.dataset, [[], []], batch_size=4, collate_fn=RotationCollate())
    with pytest.raises(ValueError, match="several views"):
        next(iter(two))


def test_rotation_prediction_from_yaml(tiny, tmp_path):
    """A batch of rotated digits and their labels reaches compute_loss."""
    collate = {"_target_": "stable_ssl.data.RotationCollate"}
    config = complete(several(train=node(collate_fn=collate), num_classes=4))
    x, y = next(iter(build_loaders(config, torch.device("cpu"))["train"]))
    assert len(x) == 400 and y.max() == 3


def test_presets():
    train = {"_target_": "stable_ssl.data.train_transforms", "size": 24}
    (view,) = build_views(train)
    assert [type(op).__name__ for op in view] == [
        "RandomResizedCrop",
        "HorizontalFlip",
        "Normalize",
    ]
    assert len(build_views([train, train])) == 2
    crop = {"_target_": "stable_ssl.data.center_crop_transforms", "size": 224}
    (view,) = build_views(crop)
    assert view[0].size == 256 and view[1].size == (224, 224)


def test_compiled_views_are_the_same_to_rounding():
    def loader(**options):
        dataset = build_dataset(DIGITS, ".", False).subset(torch.arange(30))
        ops = [{"name": "random_resized_crop", "size": 8}, *NOISE]
        return Loader(dataset, [build_ops(ops)], batch_size=10, **options)

    for (a, _), (b, _) in zip(loader(compile=True), loader(), strict=True):
        assert (a - b).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"batch_size": "abc"}, "batch_size=abc must be a whole number"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"num_workers": -1}, "num_workers=-1 must be at least 0"),
        ({"prefetch_factor": 0}, "prefetch_factor=0 must be at least 1"),
        ({"shuffle": "maybe"}, "shuffle=maybe .*true or false"),
        ({"pin_memory": 3}, "pin_memory=3 .*true or false"),
        ({"collate_fn": "mine"}, "collate_fn=mine .*_target_"),
        ({"sampler": {"_target_": "torch.nosuch"}}, "sampler of a loader node"),
        ({"dataset": {"name": "CIFAR11"}}, "did you mean 'CIFAR10'"),
    ],
)
def test_wrong_keys_of_a_loader(keys, words):
    config = complete(several(train={**node(), **keys}))
    with pytest.raises(ConfigError, match=words):
        build_loaders(config, torch.device("cpu"))
