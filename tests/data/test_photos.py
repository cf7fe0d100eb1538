"""A folder of JPEGs of 300 to 800 px: cropped in workers, never squashed."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional as TF

from stable_ssl import load_config, seeding
from stable_ssl.augment import build_ops
from stable_ssl.config import ConfigError
from stable_ssl.data import Loader, Unreadable, build_dataset
from stable_ssl.data.build import build_loaders
from stable_ssl.data.combined import take_skipped
from stable_ssl.data.datasets import Images, held_in_memory
from stable_ssl.data.images.decode import Decode
from stable_ssl.methods import SimCLR

CROP = {"name": "random_resized_crop", "size": 64, "scale": [0.2, 1.0]}
FLIP = {"name": "horizontal_flip"}
LOCAL = {"name": "random_resized_crop", "size": 32, "scale": [0.05, 0.4]}


def loader(root, *views, **options):
    dataset = build_dataset({"name": "image_folder"}, str(root), False)
    views = views or ([CROP, FLIP], [CROP, FLIP])
    settings = {"batch_size": 6, "seed": 3, "shuffle": True, **options}
    return Loader(dataset, [build_ops(view) for view in views], **settings)


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 7), (2, 24), (4, 6)])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_views_do_not_depend_on_workers_and_batch(
    photos, in_order, workers, batch_size
):
    expected = in_order(loader(photos), 1)
    assert len(expected) == 24
    again = loader(photos, num_workers=workers, batch_size=batch_size)
    assert in_order(again, 1) == expected


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_batches(photos, world):
    """Their parts, one after the other, are the batches of one process."""
    settings = {"batch_size": 8, "drop_last": False}
    whole = loader(photos, **settings)
    parts = [loader(photos, rank=r, world_size=world, **settings) for r in range(world)]
    for some in (whole, *parts):
        some.set_epoch(2)
    for (views, labels), *shares in zip(whole, *parts, strict=True):
        for v, view in enumerate(views):
            assert torch.equal(view, torch.cat([share[0][v] for share in shares]))
        assert torch.equal(labels, torch.cat([share[1] for share in shares]))


def test_crops_are_cut_from_the_image_as_it_is_in_the_file(photos):
    """The box is drawn for the file's own size, and its aspect is kept."""
    batches = loader(photos, [CROP], shuffle=False)
    x, _ = next(iter(batches))
    op = build_ops([CROP])[0]
    for i in range(6):
        image = Image.open(batches.dataset.samples[i][0])
        key = seeding.fold_in(seeding.sample_keys(3, 0, torch.tensor([i])), 0)
        (box,) = op.draw(key, image.height, image.width)["box"].tolist()
        expected = TF.to_tensor(TF.resized_crop(image, *box, [64, 64]))
        assert (x[i] - expected).abs().max() < 2.01 / 255  # PIL rounds twice


def test_a_process_ends_though_its_workers_are_in_the_middle(photos):
    code = (
        "import sys; from stable_ssl.data import Loader, build_dataset\n"
        "from stable_ssl.augment import build_ops\n"
        "data = build_dataset({'name': 'image_folder'}, sys.argv[1], False)\n"
        "ops = build_ops([{'name': 'random_resized_crop', 'size': 8}])\n"
        "some = iter(Loader(data, [ops], batch_size=2, num_workers=2))\n"
        "next(some); print('read')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(photos)], capture_output=True, timeout=60
    )
    assert done.stdout == b"read\n" and done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="macOS has none")
def test_workers_leave_a_signal_to_the_main_process(photos):
    """Sent to all processes of a job, it must not end the data before the step."""
    before = set(multiprocessing.active_children())
    some = loader(photos, num_workers=1, batch_size=2)
    batches = iter(some)
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - before
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        subprocess.run(["kill", f"-{int(number)}", str(worker.pid)], check=True)
    assert len(list(batches)) == 11 and worker.is_alive()
    worker.terminate()  # as multiprocessing does when the main process ends
    worker.join(20)
    assert worker.exitcode == 0


def test_several_crops_of_several_sizes(photos):
    views, _ = next(iter(loader(photos, [CROP], [CROP], *[[LOCAL, FLIP]] * 6)))
    assert [tuple(v.shape[1:]) for v in views] == [(3, 64, 64)] * 2 + [(3, 32, 32)] * 6
    assert len({v[0].sum().item() for v in views}) == 8


def test_without_an_op_that_fixes_the_size(photos):
    for workers in (0, 1):
        with pytest.raises(ConfigError, match="do not stack.*random_resized_crop"):
            next(iter(loader(photos, [FLIP], num_workers=workers)))


# --- images that cannot be read -------------------------------------------------------


@pytest.fixture
def damaged(photos, tmp_path):
    """Copy the photographs, and cut two of the files short."""
    root = tmp_path / "photos"
    shutil.copytree(photos, root)
    (root / "china" / "3.jpg").write_bytes(b"no image at all")
    whole = (root / "flower" / "7.jpg").read_bytes()
    (root / "flower" / "7.jpg").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named(damaged, workers):
    with pytest.raises(Unreadable, match=r"(3|7)\.jpg is not.*data.on_error=skip"):
        list(loader(damaged, num_workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_in_an_evaluation_leaves_them_out(damaged, workers):
    some = loader(damaged, num_workers=workers, on_error="skip")
    with pytest.warns(UserWarning, match="skipped: .*jpg is not a readable image"):
        labels = torch.cat([y for _, y in some])
    assert len(labels) == 22 and some.skipped == 2


@pytest.mark.parametrize("drop_last", [True, False])
def test_skipping_in_training_keeps_the_batch(damaged, drop_last):
    some = loader(damaged, on_error="replace", drop_last=drop_last)
    with pytest.warns(UserWarning, match="skipped"):
        sizes = [len(y) for _, y in some]
    assert sizes == [6] * 4 and some.skipped == 2


def test_nothing_that_can_be_read_ends_the_training(damaged):
    for path in damaged.rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(Unreadable, match=r"no image can be read; .*\.jpg"):
        list(loader(damaged, on_error="replace"))


def test_a_folder_of_torchvision_names_its_damaged_image(damaged):
    data = ImageFolder(str(damaged))
    some = Loader(data, [build_ops([CROP])], batch_size=24)
    with pytest.raises(Unreadable, match=r"\.jpg: .*; mend or remove it"):
        list(some)


def photo_config(root, folder, **data):
    config = load_config(
        "simclr",
        [
            f"log.folder={folder}",
            "log.run=run",
            "optim.epochs=2",
            "optim.scheduler.warmup_epochs=0",
            "log.every_n_steps=1",
            "log.eval.every_n_epochs=1",
            "log.eval.few_labels=[]",
            "log.eval.knn.k=10",  # of 18 images or fewer
            "log.eval.untrained=false",
        ],
    )
    dataset = {"name": "image_folder", "val_size": 0.25, "root": str(root)}
    plain = [
        {"name": "resize", "size": 64},
        {"name": "center_crop", "size": 64},
    ]
    views = [[CROP, FLIP], [CROP, FLIP]]
    train = {**dataset, "subset": "train", "image_transform": views}
    val = {**dataset, "subset": "val", "image_transform": plain}
    nodes = {"train": {"dataset": train}, "val": {"dataset": val}}
    return {
        **config,
        "data": {"batch_size": 6, "num_workers": 1, **nodes, **data},
    }


def test_training_on_photographs(photos, tmp_path, rows):
    before = set(multiprocessing.active_children())
    trainer = SimCLR(photo_config(photos, tmp_path))
    trainer.run()
    assert set(multiprocessing.active_children()) <= before
    assert trainer.step == 6 and trainer.metrics["val/knn_acc1"] >= 0.5
    assert "train/skipped" not in rows(trainer.run_dir)[0]
    assert trainer.num_classes == 2


def test_a_run_that_fails_ends_its_workers_too(photos, tmp_path):
    class Failing(SimCLR):
        def after_train_step(self):
            assert set(multiprocessing.active_children()) > before
            raise ArithmeticError

    before = set(multiprocessing.active_children())
    with pytest.raises(ArithmeticError):
        Failing(photo_config(photos, tmp_path)).run()
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.filterwarnings("ignore:skipped")
def test_skips_are_counted_in_the_rows(damaged, tmp_path, rows):
    (tmp_path / "logs").mkdir()
    trainer = SimCLR(photo_config(damaged, tmp_path / "logs", on_error="skip"))
    trainer.run()
    written = rows(trainer.run_dir)
    in_training = sum(row.get("train/skipped", 0) for row in written)
    in_evaluation = [row.get("val/skipped", 0) for row in written if "val/acc1" in row]
    assert in_training + 2 * in_evaluation[0] >= 2 and len(set(in_evaluation)) == 1


@pytest.mark.filterwarnings("ignore:skipped")
def test_skips_of_a_step_are_those_of_all_its_batches(damaged, tmp_path, rows):
    found = []
    for name, batch_size, accumulate in (("whole", 6, 1), ("parts", 2, 3)):
        (tmp_path / name).mkdir()
        config = photo_config(
            damaged, tmp_path / name, on_error="skip", batch_size=batch_size
        )
        config["optim"]["accumulate"] = accumulate
        trainer = SimCLR(config)
        trainer.run()
        found.append(sum(row.get("train/skipped", 0) for row in rows(trainer.run_dir)))
    assert found[0] == found[1] > 0


@pytest.mark.filterwarnings("ignore:skipped")
def test_damaged_images_cost_no_step(damaged, tmp_path):
    """Batches of one, of which two cannot be read."""
    (tmp_path / "logs").mkdir()
    config = photo_config(damaged, tmp_path / "logs", on_error="skip", batch_size=2)
    config["data"]["train"]["drop_last"] = False
    config["data"]["train"]["dataset"]["val_size"] = 0.0
    config["log"]["eval"]["every_n_epochs"] = None
    config["log"]["monitor"] = None
    trainer = SimCLR(config)
    trainer.run()
    assert trainer.step == trainer.total_steps == 24 and trainer.epoch == 2


# --- folders of one size --------------------------------------------------------------


@pytest.fixture
def small(photos, tmp_path):
    """Write the photographs at 40 x 32 px, without loss."""
    for path in sorted(photos.rglob("*.jpg")):
        place = tmp_path / path.parent.name
        place.mkdir(exist_ok=True)
        Image.open(path).resize((40, 32)).save(place / f"{path.stem}.png")
    return tmp_path


def test_images_of_one_size_are_held_in_memory(small, photos):
    folder = build_dataset({"name": "image_folder"}, str(small), False)
    held = held_in_memory(folder, 2.0, False, Decode())
    assert isinstance(held, Images) and held.images.shape == (24, 3, 32, 40)
    for i in (0, 11, 23):
        assert torch.equal(held[i][0], TF.pil_to_tensor(folder[i][0]))
        assert held[i][1] == folder[i][1]
    assert held.num_classes == 2
    for limit in (0, 24 * 3 * 32 * 40 / 2**30 - 1e-9):
        assert held_in_memory(folder, limit, False, Decode()) is folder
    large = build_dataset({"name": "image_folder"}, str(photos), False)
    assert held_in_memory(large, 2.0, False, Decode()) is large


def test_a_damaged_image_among_those_held(small):
    path = small / "china" / "5.png"
    path.write_bytes(path.read_bytes()[:200])
    folder = build_dataset({"name": "image_folder"}, str(small), False)
    with pytest.raises(Unreadable, match=r"5\.png is not a readable image"):
        held_in_memory(folder, 2.0, False, Decode())
    with pytest.warns(UserWarning, match=r"skipped: .*5\.png"):
        held = held_in_memory(folder, 2.0, True, Decode())
    assert len(held) == 23 and held.labels.tolist() == [0] * 11 + [1] * 12
    some = Loader(held, [build_ops([])], batch_size=8)
    for expected in (1, 1):  # in every epoch
        list(some)
        assert (take_skipped(some), take_skipped(some)) == (expected, 0)


# --- the split on record --------------------------------------------------------------


def test_the_split_is_written_and_can_be_read_again(photos, tmp_path):
    trainer = SimCLR(photo_config(photos, tmp_path))
    trainer.setup()
    trainer.cleanup()
    file = trainer.run_dir / "data" / "splits.csv"
    lines = file.read_text().splitlines()
    assert lines[0] == "path,class,label,split" and len(lines) == 25
    assert "china/0.jpg,china,0,train" in lines or "china/0.jpg,china,0,val" in lines
    assert "num_workers: 1" in (file.parent / "params.yaml").read_text()
    for subset in ("train", "val"):
        node = {"name": "image_folder", "subset": subset, "split_file": str(file)}
        again = build_dataset(node, str(photos), False)
        assert again.samples == trainer.loaders[subset].dataset.samples
        assert again.classes == ["china", "flower"] and again.num_classes == 2


@pytest.mark.filterwarnings("ignore:skipped")
def test_a_run_does_not_go_on_with_another_split(damaged, tmp_path):
    config = photo_config(damaged, tmp_path / "logs", on_error="skip")
    first = SimCLR(config)
    first.setup()
    first.cleanup()
    (damaged / "china" / "0.jpg").unlink()
    with pytest.raises(ConfigError, match="split .* is not the one .*split_file="):
        SimCLR(config).setup()


def test_the_record_of_a_split_is_written_once(photos, tmp_path):
    """A launch that has nothing to add leaves it alone; a part of it is no split."""
    for _ in range(2):
        trainer = SimCLR(photo_config(photos, tmp_path))
        trainer.setup()
        trainer.cleanup()
        file = trainer.run_dir / "data" / "splits.csv"
        times = [path.stat().st_mtime_ns for path in file.parent.iterdir()]
        for path in file.parent.iterdir():
            os.utime(path, ns=(1, 1))
    assert times == [1, 1]  # with params.yaml
    lines = file.read_text().splitlines(keepends=True)
    for part in (lines[:12], [*lines[:12], lines[12][:9]]):
        file.write_text("".join(part))
        with pytest.raises(ConfigError, match=f"{file} is damaged: delete it"):
            SimCLR(photo_config(photos, tmp_path)).setup()


def test_split_files_in_wrong_words(photos, tmp_path):
    file = tmp_path / "splits.csv"
    file.write_text("path,class,label,split\nchina/0.jpg,china,0,train\n")

    def build(**keys):
        node = {"name": "image_folder", "split_file": str(file), **keys}
        return build_dataset(node, str(photos), False)

    assert len(build(subset="train")) == 1
    with pytest.raises(ConfigError, match="no subset tran; did you mean 'train'"):
        build(subset="tran")
    with pytest.raises(ConfigError, match="is no split file"):
        build(split_file=str(tmp_path / "absent.csv"))
    file.write_text("path,class,label,split\nchina/99.jpg,china,0,train\n")
    with pytest.raises(ConfigError, match="names china/99.jpg, and it is not below"):
        build(subset="train")


def test_several_val_splits(photos, tmp_path):
    config = load_config("base")
    node = {"dataset": {"name": "digits", "subset": "val"}}
    config = {
        **config,
        "data": {
            "batch_size": 64,
            "train": {"dataset": {"name": "digits", "subset": "train"}},
            "val": {"near": node, "far": node, "off": None},
        },
    }
    from stable_ssl.config import complete

    loaders = build_loaders(complete(config), torch.device("cpu"))
    assert set(loaders) == {"train", "val_near", "val_far", "bank"}
