"""Data is a function of (seed, epoch, index, view): not of batch, workers or resume."""

from functools import partial
from multiprocessing import active_children

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.data import IterableDataset

from stable_ssl.augment import build_ops
from stable_ssl.config import ConfigError, complete, load_config
from stable_ssl.data import Loader, build_dataset, build_loader, build_loaders
from stable_ssl.data.datasets import BUILDERS

POLICY = [
    {"name": "random_resized_crop", "size": 8, "scale": [0.3, 1.0]},
    {"name": "rotation", "degrees": 15},
    {"name": "brightness", "amount": 0.4},
    {"name": "noise", "std": 0.1},
]


def digits_loader(**options):
    dataset = build_dataset({"name": "digits", "subset": "val"}, ".", False)
    settings = {"batch_size": 64, "seed": 3, "shuffle": True, **options}
    return Loader(dataset, [build_ops(POLICY), build_ops(POLICY)], **settings)


def by_label_and_pixels(loader, epoch, start=0):
    """Return the stacked views of an epoch, in a canonical order."""
    loader.set_epoch(epoch, start)
    rows = []
    for views, labels in loader:
        flat = torch.cat([v.flatten(1) for v in views], 1)
        rows += [
            (int(y), tuple(row.tolist())) for y, row in zip(labels, flat, strict=True)
        ]
    return sorted(rows)


@pytest.mark.parametrize("batch_size", [1, 7, 200])
def test_views_do_not_depend_on_the_batch(batch_size):
    expected = by_label_and_pixels(digits_loader(), 2)
    assert by_label_and_pixels(digits_loader(batch_size=batch_size), 2) == expected


def test_views_differ_between_views_epochs_and_seeds():
    loader = digits_loader(batch_size=200, shuffle=False)
    (views, _) = next(iter(loader))
    loader.set_epoch(1)
    (later, _) = next(iter(loader))
    (other, _) = next(iter(digits_loader(batch_size=200, shuffle=False, seed=4)))
    for a, b in ((views[0], views[1]), (views[0], later[0]), (views[0], other[0])):
        assert (a - b).abs().flatten(1).amax(1).min() > 0.01


def test_an_epoch_may_start_in_its_middle():
    loader = digits_loader()
    loader.set_epoch(5)
    whole = list(loader)
    loader.set_epoch(5, 2)
    rest = list(loader)
    assert len(whole) == 4 and len(rest) == 2
    for (a, ya), (b, yb) in zip(whole[2:], rest, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
        assert torch.equal(ya, yb)


def test_every_sample_once_an_epoch_in_a_new_order():
    orders = []
    for epoch in (0, 1):
        loader = digits_loader(batch_size=7)
        loader.set_epoch(epoch)
        orders.append(torch.cat([y for _, y in loader]))
    assert not torch.equal(*orders)
    assert torch.equal(orders[0].sort().values, orders[1].sort().values)


@pytest.mark.parametrize("kind", ["held", "by one", "by workers"])
def test_what_a_sampler_draws_again_has_other_views(kind, photos):
    options = {"held": {}, "by one": {}, "by workers": {"num_workers": 2}}[kind]
    make = digits_loader if kind == "held" else partial(photo_loader, photos)
    chosen = [3, 1, 3, 3, 0, 1, 2, 3]

    def read(start=0, rank=0, world_size=1, **keys):
        keys = {"batch_size": 2, "sampler": chosen, **options, **keys}
        loader = make(rank=rank, world_size=world_size, **keys)
        loader.set_epoch(1, start)
        read = [(views, labels, loader.index) for views, labels in loader]
        loader.close()
        return read

    whole = read()
    views = torch.cat([torch.cat(views, -1) for views, *_ in whole])
    distances = torch.cdist(views.flatten(1), views.flatten(1))
    assert distances.fill_diagonal_(1).min() > 0.01
    assert torch.cat([index for *_, index in whole]).tolist() == chosen
    ((plain, labels, _),) = read(batch_size=4, sampler=None, shuffle=False)[:1]
    firsts = torch.cat(plain, -1)[[3, 1, 0, 2]]  # as if each was drawn once
    assert torch.equal(views[[0, 1, 4, 6]], firsts)
    assert torch.cat([y for _, y, _ in whole]).tolist() == labels[chosen].tolist()
    assert torch.equal(torch.cat([torch.cat(x, -1) for x, *_ in read(2)]), views[4:])
    parts = zip(*(read(rank=rank, world_size=2) for rank in (0, 1)), strict=True)
    shared = [torch.cat(x, -1) for both in parts for x, *_ in both]
    assert torch.equal(torch.cat(shared), views)


def test_the_bank_shares_the_images_of_the_train_split():
    loaders = build_loaders(load_config("base"), torch.device("cpu"))
    train, bank = loaders["train"].images, loaders["bank"].images
    assert train.data_ptr() == bank.data_ptr()


def test_drop_last():
    assert len(digits_loader()) == 4
    assert len(digits_loader(drop_last=True)) == 3
    assert len(list(digits_loader(drop_last=True))) == 3


def test_no_global_generator_is_touched(photos):
    before = torch.get_rng_state()
    list(digits_loader())
    list(photo_loader(photos, num_workers=2))
    assert torch.equal(before, torch.get_rng_state())


# --- decoded by workers ---------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    """Write photographs of different sizes: smooth colour gradients."""
    for c in range(2):
        (tmp_path / f"class {c}").mkdir()
        for i in range(6):
            w, h = 40 + 7 * i, 60 - 5 * i
            x = torch.linspace(0, 255, w).expand(h, w)
            y = torch.linspace(0, 255, h)[:, None].expand(h, w)
            pixels = torch.stack([x, y, torch.full((h, w), 99.0 * c)], -1)
            image = Image.fromarray(pixels.byte().numpy())
            image.save(tmp_path / f"class {c}" / f"{i}.png")
    return tmp_path


def photo_loader(root, **options):
    dataset = build_dataset({"name": "image_folder"}, str(root), False)
    crop = {"name": "random_resized_crop", "size": 24, "scale": [0.2, 1.0]}
    ops = build_ops([crop, *POLICY[1:]])
    settings = {"batch_size": 5, "seed": 3, "shuffle": True, **options}
    return Loader(dataset, [ops, ops], **settings)


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 5), (4, 5), (0, 12), (2, 1)])
def test_views_do_not_depend_on_the_workers(photos, workers, batch_size):
    expected = by_label_and_pixels(photo_loader(photos), 1)
    loader = photo_loader(photos, num_workers=workers, batch_size=batch_size)
    assert by_label_and_pixels(loader, 1) == expected
    assert by_label_and_pixels(loader, 1) == expected  # the same workers, again


def test_workers_start_in_the_middle_of_an_epoch(photos):
    loader = photo_loader(photos, num_workers=2)
    loader.set_epoch(1)
    whole = list(loader)
    loader.set_epoch(1, 1)
    for (a, _), (b, _) in zip(whole[1:], list(loader), strict=True):
        assert torch.equal(a[0], b[0])


def test_images_of_different_sizes_become_one_batch(photos):
    views, labels = next(iter(photo_loader(photos)))
    assert [v.shape for v in views] == [(5, 3, 24, 24)] * 2
    assert labels.dtype == torch.int64


# --- from the configuration -----------------------------------------------------------


def node(**keys):
    return OmegaConf.create({"dataset": {"name": "digits", "subset": "val"}, **keys})


def build(n, batch_size=32, **data):
    group = complete({"data": {"batch_size": batch_size, **data}}).data
    return build_loader(n, group, train=True, seed=0, device=torch.device("cpu"))


def test_a_loaders_own_keys_win():
    assert build(node()).batch_size == 32
    assert build(node(batch_size=10)).batch_size == 10
    assert len(build(node(drop_last=False))) == 7


@pytest.mark.filterwarnings("ignore:'pin_memory'")
def test_keys_of_torchs_loader_are_taken(photos):
    keys = {"shuffle": False, "drop_last": False, "num_workers": 1, "pin_memory": True}
    keys |= {"prefetch_factor": 3, "timeout": 60, "persistent_workers": True}
    n = OmegaConf.create({"dataset": {"name": "image_folder"}, **keys})
    n.dataset.image_transform = [{"name": "center_crop", "size": 20}]
    loader = build(n, batch_size=5, root=str(photos))
    labels = [y.tolist() for _, y in loader]
    assert labels == [[0] * 5, [0] + [1] * 4, [1] * 2]


def test_a_batch_size_of_each_process_is_that_of_all_together(monkeypatch):
    sizes = {"batch_size": None, "batch_size_per_gpu": 16}
    assert build(node(), **sizes).batch_size == 16
    monkeypatch.setattr("stable_ssl.distributed.world_size", lambda: 3)
    shared = build(node(), **sizes)
    views, labels = next(iter(shared))
    assert shared.batch_size == 48 and len(labels) == 16
    assert build(node(batch_size=30), **sizes).batch_size == 30


def test_one_list_is_one_view_and_a_list_of_lists_several():
    n = node()
    n.dataset.image_transform = POLICY
    assert isinstance(next(iter(build(n)))[0], torch.Tensor)
    n.dataset.image_transform = [POLICY, POLICY, POLICY]
    assert len(next(iter(build(n)))[0]) == 3


def test_loaders_in_wrong_words():
    with pytest.raises(
        ConfigError, match="takes no bach_size; did you mean 'batch_size'"
    ):
        build(node(bach_size=3))
    with pytest.raises(
        ConfigError, match="batch_size=300.*train split has 200 samples"
    ):
        build(node(), batch_size=300)
    with pytest.raises(ConfigError, match="needs dataset"):
        build(OmegaConf.create({"batch_size": 3}))
    with pytest.raises(ConfigError, match="set data.batch_size"):
        build(node(), batch_size=None)
    n = node()
    n.dataset.image_transform = [{"name": "rotatoin", "degrees": 3}]
    with pytest.raises(ConfigError, match="image_transform: .*did you mean 'rotation'"):
        build(n)


def test_there_is_one_pool_of_workers_at_a_time(photos):
    """But of loaders that are read together, as `Combined` reads them."""
    first, second = (photo_loader(photos, num_workers=2) for _ in range(2))
    for _ in range(2):  # kept from pass to pass
        for part in (first, second):
            list(part)
            assert len(active_children()) == 2
    both = list(zip(first, second, strict=True))
    assert len(both) == len(first) and len(active_children()) == 4
    list(first)
    assert len(active_children()) == 2
    first.close()
    assert not active_children()


@pytest.mark.parametrize(("size", "read"), [(50, 50), (5000, 1197), (None, 1197)])
def test_a_large_bank_is_drawn_from(size, read, config):
    made = config("simclr", f"data.bank_size={size or 'null'}")
    bank = build_loaders(made, torch.device("cpu"))["bank"]
    drawn = torch.cat([bank.index for _ in bank])
    assert len(drawn) == len(drawn.unique()) == read
    again = build_loaders(made, torch.device("cpu"))["bank"]
    assert torch.equal(torch.cat([again.index for _ in again]), drawn)


class LongStream(IterableDataset):
    """A stream that knows how long it is."""

    def __iter__(self):
        return iter([(torch.zeros(1, 8, 8), 0)] * len(self))

    def __len__(self):
        return 9


def test_a_bank_that_is_a_stream_is_read_whole(config, monkeypatch):
    monkeypatch.setitem(BUILDERS, "stream", lambda subset=None, root=None: LongStream())
    keys = ["data.bank_size=4", "+data.bank.dataset={name: stream}"]
    made = config("simclr", *keys, "data.batch_size=2", "data.eval_batch_size=2")
    bank = build_loaders(made, torch.device("cpu"))["bank"]
    assert sum(len(labels) for _, labels in bank) == 9
    bank.close()
