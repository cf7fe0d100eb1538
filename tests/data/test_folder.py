"""Image folders: subsets by folder, list and share; filters, classes, wrong input."""

import pytest
from PIL import Image

from stable_ssl.config import ConfigError
from stable_ssl.data import build_dataset
from stable_ssl.data.datasets import files_below_root


def build(parent, **node):
    return build_dataset(node, str(parent), download=False)


@pytest.fixture
def folder(tmp_path):
    for split, count in (("train", 3), ("val", 1)):
        for c, name in enumerate(("ant", "bee")):
            place = tmp_path / "insects" / split / name / "deep"
            place.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (10 + i, 12), (100 * c, i, 0)).save(place / f"{i}.png")
    return tmp_path


def test_one_folder_a_class(folder):
    data = build(folder, name="image_folder", root="insects", subset="train")
    assert (len(data), data.classes, data.num_classes) == (6, ["ant", "bee"], 2)
    image, label = data[5]
    assert (image.size, image.getpixel((0, 0)), label) == ((12, 12), (100, 2, 0), 1)
    both = build(folder, name="image_folder", root="insects", subset=["train", "val"])
    assert len(both) == 8


def test_subsets_number_their_classes_alike(folder):
    (folder / "insects" / "val" / "ant" / "deep" / "0.png").unlink()
    (folder / "insects" / "val" / "ant" / "deep").rmdir()
    (folder / "insects" / "val" / "ant").rmdir()
    data = build(folder, name="image_folder", root="insects", subset="val")
    assert data.classes == ["ant", "bee"] and [y for _, y in data.samples] == [1]
    whole = build(folder, name="image_folder", root="insects", subset=None)
    assert [y for _, y in whole.samples] == [0] * 3 + [1] * 4


def test_a_few_images_of_each_class(folder):
    node = {"name": "image_folder", "root": "insects", "subset": "train"}
    few = build(folder, **node, labels_per_class=2)
    assert [label for _, label in few.samples] == [0, 0, 1, 1]
    assert set(few.samples) < set(build(folder, **node).samples)
    with pytest.raises(ConfigError, match="class 0 has 3"):
        build(folder, **node, labels_per_class=4)


def test_an_absolute_root_stays(folder, tmp_path):
    root = str(folder / "insects")
    assert len(build("elsewhere", name="image_folder", root=root, subset="val")) == 2


def test_folders_that_are_not_there_are_named(folder, tmp_path):
    with pytest.raises(ConfigError, match="no image folder at .*nosuch"):
        build(folder, name="image_folder", root="nosuch")
    with pytest.raises(ConfigError, match="no subset folder.*did you mean 'train'"):
        build(folder, name="image_folder", root="insects", subset="tran")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(ConfigError, match="cat has no image.*no files.*allow_empty"):
        build(tmp_path, name="image_folder", root="empty")


def test_a_broken_image_is_named(folder):
    path = folder / "insects" / "val" / "ant" / "deep" / "0.png"
    path.write_bytes(path.read_bytes()[:40])
    data = build(folder, name="image_folder", root="insects", subset="val")
    with pytest.raises(ConfigError, match=f"{path} is not a readable image"):
        data[0]


# --- folders that may be subsets or classes -------------------------------------------


def tree(root, *paths):
    for i, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(root / path)


def test_a_class_that_is_called_as_a_subset_is(tmp_path):
    """Nothing is left out in silence, and what the messages advise works."""
    tree(tmp_path, "apple/0.png", "bus/0.png", "train/0.png", "train/1.png")
    both = "has train, which is what subsets.*apple, bus; set subset.*class_to_idx"
    for labelled in (True, False):
        with pytest.raises(ConfigError, match=both):
            build(tmp_path, name="image_folder", labelled=labelled)
    with pytest.raises(ConfigError, match="no class folders.*as apple, bus beside it"):
        build(tmp_path, name="image_folder", subset="train")
    numbers = {"apple": 0, "bus": 1, "train": 2}
    data = build(tmp_path, name="image_folder", class_to_idx=numbers)
    assert [label for _, label in data.samples] == [0, 1, 2, 2]
    shared = {"class_to_idx": numbers, "val_size": 0.5, "subset": "val"}
    assert [y for _, y in build(tmp_path, name="image_folder", **shared).samples] == [2]
    parts = {"subset": list(numbers), "labelled": False}
    assert len(build(tmp_path, name="image_folder", **parts)) == 4


def test_folders_beside_subsets_are_left_out_only_if_asked(tmp_path):
    tree(tmp_path, *(f"{s}/{c}/0.png" for s in ("train", "test") for c in "ab"))
    tree(tmp_path, "unlabeled/0.png", ".hidden/0.png")
    with pytest.raises(ConfigError, match="has test, train, .*beside that unlabeled;"):
        build(tmp_path, name="image_folder")
    subsets = ["train", "test"]
    assert len(build(tmp_path, name="image_folder", subset=subsets)) == 4
    with pytest.raises(ConfigError, match="unlabeled has no class.*leave it out"):
        build(tmp_path, name="image_folder", subset=[*subsets, "unlabeled"])
    parts = [*subsets, "unlabeled"]
    assert len(build(tmp_path, name="image_folder", subset=parts, labelled=False)) == 5
    numbers = {"a": 1, "b": 0}  # of classes in the subsets
    data = build(tmp_path, name="image_folder", subset="train", class_to_idx=numbers)
    assert [label for _, label in data.samples] == [0, 1]


@pytest.mark.parametrize("listed", [False, True])
def test_a_root_that_is_too_high_is_refused(tmp_path, listed):
    tree(tmp_path, "images/cat/0.png", "images/dog/0.png")
    (tmp_path / "train.txt").write_text("images/dog/0.png\nimages/cat/0.png\n")
    node = {"name": "image_folder", "subset": "train" if listed else None}
    words = r"one class, .* images, .*: cat, dog; .*root to .*/images, else set cl"
    with pytest.raises(ConfigError, match=words):
        build(tmp_path, **node)
    assert build(tmp_path, root="images", name="image_folder").classes == ["cat", "dog"]
    for chosen in ({"labelled": False}, {"class_to_idx": {"images": 0}}):
        assert len(build(tmp_path, **node, **chosen)) == 2
    tree(tmp_path, "images/loose.png")
    assert build(tmp_path, **node).classes == ["images"]


def test_subsets_that_are_too_high_are_refused(tmp_path):
    tree(tmp_path, "train/images/cat/0.png", "val/images/dog/0.png")
    with pytest.raises(ConfigError, match="cat, dog; .*move them up, out of images"):
        build(tmp_path, name="image_folder", subset="train")


# --- lists and shares -----------------------------------------------------------------


@pytest.fixture
def flat(tmp_path):
    """Write 20 ants, 10 bees and 5 cats, without subset folders."""
    for c, (name, count) in enumerate((("ant", 20), ("bee", 10), ("cat", 5))):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("RGB", (4, 4), (c, i, 0)).save(tmp_path / name / f"{i:02}.png")
    return tmp_path


def names(dataset):
    return files_below_root(dataset)


def test_shares_are_of_every_class_and_make_the_whole(flat):
    shares = {"name": "image_folder", "val_size": 0.3, "test_size": 0.1, "seed": 1}
    parts = {s: build(flat, subset=s, **shares) for s in ("train", "val", "test")}
    counts = {
        s: [sum(label == c for _, label in data.samples) for c in range(3)]
        for s, data in parts.items()
    }
    assert counts == {"train": [12, 6, 3], "val": [6, 3, 2], "test": [2, 1, 0]}
    whole = sorted(name for data in parts.values() for name in names(data))
    assert whole == sorted(names(build(flat, name="image_folder")))
    again = build(flat, subset="val", **shares)
    assert names(again) == names(parts["val"])
    other = build(flat, subset="val", **{**shares, "seed": 2})
    assert names(other) != names(parts["val"])


def test_lists_name_the_images(flat):
    (flat / "train.txt").write_text("ant/03.png\n\nbee/01.png\nant/05.png,cat\n")
    data = build(flat, name="image_folder", subset="train")
    assert names(data) == ["ant/03.png", "bee/01.png", "ant/05.png"]
    assert [label for _, label in data.samples] == [0, 1, 2]
    (flat / "val.txt").write_text("ant/03.png\nant/nosuch.png\n")
    with pytest.raises(ConfigError, match="val.txt, line 2: no image at .*nosuch"):
        build(flat, name="image_folder", subset="val")
    (flat / "val.txt").write_text("ant/03.png,aunt\n")
    with pytest.raises(ConfigError, match="line 1: no class aunt; did you mean 'ant'"):
        build(flat, name="image_folder", subset="val")


def test_filters_and_class_numbers(flat):
    data = build(
        flat,
        name="image_folder",
        include_filter=["ant/*", "cat/*"],
        exclude_filter=["*/0[0-3].png"],
        class_to_idx={"cat": 0, "ant": 2},
    )
    assert names(data)[:2] == ["cat/04.png", "ant/04.png"]
    assert (data.classes, data.num_classes, len(data)) == (["cat", "ant"], 3, 17)
    with pytest.raises(
        ConfigError, match="class_to_idx names caat.*did you mean 'cat'"
    ):
        build(flat, name="image_folder", class_to_idx={"caat": 0})


def test_images_without_classes(flat, tmp_path):
    (tmp_path / "loose").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "loose" / "a.png")
    with pytest.raises(ConfigError, match="no class folders; set labelled: false"):
        build(tmp_path, name="image_folder", root="loose")
    data = build(tmp_path, name="image_folder", root="loose", labelled=False)
    assert (len(data), data.num_classes, data[0][1]) == (1, None, -1)


def test_subsets_that_nothing_makes_are_refused(flat):
    with pytest.raises(ConfigError, match="subset=val.*val_size is 0; set one"):
        build(flat, name="image_folder", subset="val")
    with pytest.raises(ConfigError, match="val_size \\+ test_size = 1.2 of 1"):
        build(flat, name="image_folder", subset="val", val_size=0.7, test_size=0.5)


def test_a_filter_may_be_one_pattern(flat):
    data = build(flat, name="image_folder", include_filter="ant/*")
    assert {name.partition("/")[0] for name in names(data)} == {"ant"}
    data = build(flat, name="image_folder", exclude_filter="ant/*")
    assert "ant" not in {name.partition("/")[0] for name in names(data)}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"val_size": -0.3}, "val_size=-0.3 .*from 0 to below 1"),
        ({"test_size": "half"}, "test_size=half .*from 0 to below 1"),
        ({"seed": "x"}, "seed=x .*integer"),
        ({"subset": 3}, "subset=3 .*a text or a list"),
        ({"include_filter": [1]}, "include_filter=.*a text or a list"),
        ({"class_to_idx": ["ant"]}, "class_to_idx=.*{class: number}"),
        ({"class_to_idx": {"ant": -1}}, "numbers from 0 on"),
        ({"labels_per_class": 1, "labels_seed": "x"}, "labels_seed=x: .*integer"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused(flat, keys, words):
    with pytest.raises(ConfigError, match=words):
        build(flat, name="image_folder", **keys)
