"""Arrays in files, and what the library of Hugging Face reads from the disk."""

import io
import pickle

import numpy
import pytest
import torch
from PIL import Image

from stable_ssl.augment import build_ops
from stable_ssl.config import ConfigError, load_config
from stable_ssl.data import Loader, Unreadable, build_dataset
from stable_ssl.data.build import build_loaders
from stable_ssl.data.datasets import Images, held_in_memory
from stable_ssl.data.images.decode import Decode

CHANCE = numpy.random.default_rng(0)
IMAGES = CHANCE.integers(0, 256, (12, 8, 8, 3), "uint8")
LABELS = numpy.arange(12) % 3


def build(root, name, **node):
    return build_dataset({"name": name, **node}, str(root))


def epoch(dataset, workers=0, decode=None, **options):
    """Return the views and labels of one batch of all."""
    options = {"batch_size": len(dataset), "num_workers": workers, **options}
    loader = Loader(dataset, [build_ops([])], decode=decode or Decode(), **options)
    try:
        ((x, y, *rest),) = loader
        return x, y, *rest
    finally:
        loader.close()


# --- arrays ---------------------------------------------------------------------------


@pytest.fixture
def arrays(tmp_path):
    numpy.save(tmp_path / "x.npy", IMAGES)
    numpy.save(tmp_path / "y.npy", LABELS)
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("held", [True, False])
def test_rows_of_arrays_are_samples(arrays, held, workers):
    data = build(arrays, "array", images="x.npy", labels="y.npy")
    assert (len(data), data.num_classes) == (12, 3)
    assert data.labels.tolist() == LABELS.tolist()
    seen = held_in_memory(data, 2.0 if held else 0.0, False, Decode())
    assert isinstance(seen, Images) is held
    x, y = epoch(seen, workers)
    assert torch.equal(x, torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255)
    assert y.tolist() == LABELS.tolist()


LABEL_KINDS = {
    "bytes": LABELS.astype("uint8"),
    "deep": LABELS.astype("uint16"),
    "unsigned": LABELS.astype("uint64"),
    "big-endian": LABELS.astype(">i4"),
    "column": LABELS[:, None],
    "bits": LABELS > 0,
}


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_labels_of_arrays_are_of_any_whole_type(arrays, kind):
    numpy.save(arrays / "y.npy", LABEL_KINDS[kind])
    data = build(arrays, "array", images="x.npy", labels="y.npy")
    right = LABEL_KINDS[kind].astype(int).ravel().tolist()
    assert data.num_classes == max(right) + 1
    for held in (0.0, 2.0):
        _, y = epoch(held_in_memory(data, held, False, Decode()))
        assert y.dtype == torch.int64 and y.tolist() == right
    few = build(arrays, "array", images="x.npy", labels="y.npy", labels_per_class=2)
    assert len(few) == 2 * len(set(right))
    assert sorted(few.labels.tolist()) == sorted([*set(right)] * 2)


def test_arrays_without_labels_and_of_other_data(arrays):
    data = build(arrays, "array", images="x.npy")
    assert data.num_classes is None and data[0][1] == -1
    assert epoch(data)[1].tolist() == [-1] * 12
    series = CHANCE.random((6, 2, 30)).astype(">f4")
    numpy.save(arrays / "s.npy", series)
    numpy.save(arrays / "t.npy", CHANCE.random((6, 4)))
    data = build(arrays, "array", images="s.npy", labels="t.npy")
    data = held_in_memory(data, 2.0, False, Decode())
    assert data.num_classes is None
    x, y = epoch(data)
    assert (x.numpy() == series).all() and y.shape == (6, 4)
    numpy.save(arrays / "none.npy", numpy.full(12, -1))
    assert build(arrays, "array", images="x.npy", labels="none.npy").num_classes is None


def test_rows_of_deep_pixels_are_scaled_or_refused(arrays):
    deep = CHANCE.integers(0, 65536, (4, 3, 16, 16)).astype("uint16")
    numpy.save(arrays / "x.npy", deep)
    numpy.save(arrays / "i.npy", deep.astype("int32"))
    data = build(arrays, "array", images="x.npy")
    x, _ = epoch(held_in_memory(data, 2.0, False, Decode()))
    assert numpy.abs(x.double().numpy() - deep / 65535).max() <= 1e-6
    data = build(arrays, "array", images="i.npy")
    with pytest.raises(ConfigError, match=r"Arrays\[0\] is a ndarray of int32 .*range"):
        held_in_memory(data, 2.0, False, Decode())
    x, _ = epoch(held_in_memory(data, 2.0, False, Decode((0, 65535))))
    assert numpy.abs(x.double().numpy() - deep / 65535).max() <= 1e-6


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"images": "z.npy"}, "z.npy is no file of numpy: .*No such file"),
        ({"images": "text.npy"}, "text.npy is no file of numpy"),
        ({"images": "pickle.npy"}, "pickle.npy is no file of numpy"),
        ({"images": "several.npz"}, "several.npz holds no array of rows; save one"),
        ({"images": "one.npy"}, "one.npy holds no array of rows; save one"),
        (
            {"images": "x.npy", "labels": "few.npy"},
            "12 rows, and few.npy has 2",
        ),
        ({"images": "x.npy", "label": "y.npy"}, "no label; did you mean 'labels'"),
    ],
)
def test_files_that_are_no_arrays_are_refused(arrays, node, words):
    (arrays / "text.npy").write_text("no array")
    numpy.save(arrays / "pickle.npy", numpy.array([{}, {}], "O"))
    numpy.savez(arrays / "several.npz", a=IMAGES)
    numpy.save(arrays / "one.npy", 3)
    numpy.save(arrays / "few.npy", LABELS[:2])
    with pytest.raises(ConfigError, match=words):
        build(arrays, "array", **node)


# --- Hugging Face ---------------------------------------------------------------------

NAMES = ["cat", "ant", "bee"]  # in the order of their numbers, and of no alphabet


@pytest.fixture(scope="module")
def hugging(tmp_path_factory):
    """Write one dataset of images in every form that is read without a network."""
    datasets = pytest.importorskip("datasets", reason="datasets: extra 'huggingface'")
    datasets.disable_progress_bars()
    root = tmp_path_factory.mktemp("hugging")
    pictures = [Image.fromarray(image) for image in IMAGES]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=NAMES),
            "text": datasets.Value("string"),
        }
    )
    columns = {"image": pictures, "label": LABELS, "text": [NAMES[y] for y in LABELS]}
    table = datasets.Dataset.from_dict(columns, features=features)
    table.to_parquet(str(root / "images.parquet"))
    table.save_to_disk(str(root / "disk"))
    parts = {"train": table.select(range(8)), "test": table.select(range(8, 12))}
    datasets.DatasetDict(parts).save_to_disk(str(root / "parts"))
    (root / "folder").mkdir()
    parts["train"].to_parquet(str(root / "folder" / "train-0.parquet"))
    parts["test"].to_parquet(str(root / "folder" / "test-0.parquet"))
    for i, picture in enumerate(pictures):
        place = root / "pictures" / NAMES[LABELS[i]]
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{i}.png")
    renamed = {"scan": "image", "kind": "label"}
    odd = table.rename_columns({old: new for new, old in renamed.items()})
    odd.to_parquet(str(root / "odd.parquet"))
    plain = {"x": CHANCE.random((4, 3, 5)).tolist(), "y": [0, 1, None, 2]}
    datasets.Dataset.from_dict(plain).to_parquet(str(root / "series.parquet"))
    return root


RIGHT = torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255


@pytest.mark.parametrize("path", ["images.parquet", "disk"])
@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_a_table(hugging, path, workers):
    """Names of the classes are kept; other columns follow as one dict."""
    data = build(hugging, "huggingface", path=path)
    assert list(data.classes) == NAMES and data.num_classes == 3
    assert data.labels.tolist() == LABELS.tolist()
    x, y, rest = epoch(data, workers)
    assert torch.equal(x, RIGHT) and y.tolist() == LABELS.tolist()
    assert rest == {"text": [NAMES[y] for y in LABELS]}
    few = build(hugging, "huggingface", path=path, labels_per_class=1)
    assert sorted(few.labels.tolist()) == [0, 1, 2]
    assert (numpy.asarray(few[0][0]) == IMAGES).reshape(12, -1).all(1).any()


@pytest.mark.parametrize("path", ["parts", "folder"])
def test_splits_are_chosen_by_either_word(hugging, path):
    for key in ("split", "subset"):
        data = build(hugging, "huggingface", path=path, **{key: "test"})
        x, y, _ = epoch(data)
        assert torch.equal(x, RIGHT[8:]) and y.tolist() == LABELS[8:].tolist()
        assert list(data.classes) == NAMES


def test_a_folder_of_pictures(hugging):
    data = build(hugging, "huggingface", path="pictures", split="train")
    assert list(data.classes) == sorted(NAMES) and len(data) == 12
    image, label, *_ = data[0]
    matches = (numpy.asarray(image) == IMAGES).reshape(12, -1).all(1).nonzero()[0]
    assert sorted(NAMES)[label] == NAMES[LABELS[matches[0]]]


def test_columns_of_other_names(hugging):
    """The only one of images, and of classes; texts are numbered by the alphabet."""
    data = build(hugging, "huggingface", path="odd.parquet")
    assert list(data.classes) == NAMES
    assert torch.equal(epoch(data)[0], RIGHT)
    data = build(hugging, "huggingface", path="odd.parquet", label="text")
    assert list(data.classes) == sorted(NAMES)
    right = [sorted(NAMES).index(NAMES[y]) for y in LABELS]
    assert data.labels.tolist() == epoch(data)[1].tolist() == right


def test_numbers_are_data_and_a_label_may_be_missing(hugging):
    data = build(hugging, "huggingface", path="series.parquet")
    assert data.num_classes == 3 and data.labels.tolist() == [0, 1, -1, 2]
    x, y = epoch(data)
    assert x.shape == (4, 3, 5) and x.dtype == torch.float32
    assert y.tolist() == [0, 1, -1, 2]


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (
            {"path": "images.parquet", "image": "pixels"},
            "image=pixels of the dataset",
        ),
        ({"path": "images.parquet", "label": "labl"}, "label=labl .* mean 'label'"),
        ({"path": "parts"}, "has the splits train, test; set split to one of them"),
        ({"path": "folder"}, "has the splits .*train.*; set split to one of them"),
        ({"path": "parts", "split": "val"}, "no split val .there are: train, test"),
        ({"path": "folder", "split": "val"}, 'Unknown split "val"'),
        ({"path": "images.parquet", "split": "val"}, 'Unknown split "val"'),
        ({"path": "disk", "split": "val"}, "no split val .set split: null"),
        ({"path": "nosuch.parquet"}, "path=nosuch.parquet: .*no file at .*/nosuch"),
        ({"path": "broken.parquet"}, "path=broken.parquet"),
        ({"path": "odd.parquet", "channels": "RGB"}, "use rgb, grey or all"),
        (
            {"path": "numbers.csv"},
            "has the columns a, b; set image to",
        ),
        ({"path": "x", "spilt": "train"}, "takes no spilt; did you mean 'split'"),
    ],
)
def test_what_is_not_there_is_said(hugging, node, words):
    (hugging / "broken.parquet").write_bytes(b"PAR1 no table")
    (hugging / "numbers.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=words) as caught:
        build(hugging, "huggingface", **node)
    assert "\n" not in str(caught.value)


def test_a_broken_image_in_a_table_is_named_or_counted(hugging):
    import datasets

    cells = [{"bytes": (hugging / "pictures/cat/0.png").read_bytes(), "path": None}] * 3
    cells[1] = {"bytes": cells[1]["bytes"][:60], "path": None}
    features = datasets.Features({"image": datasets.Image()})
    table = datasets.Dataset.from_dict({"image": cells}, features=features)
    table.to_parquet(str(hugging / "cut.parquet"))
    data = build(hugging, "huggingface", path="cut.parquet")
    with pytest.raises(Unreadable, match=r"cut.parquet\[1\] is not a readable image"):
        epoch(data)
    with pytest.warns(UserWarning, match=r"skipped: cut.parquet\[1\]"):
        assert len(epoch(data, on_error="skip")[1]) == 2


# --- what splits and workers share ----------------------------------------------------


def test_a_worker_opens_the_file_of_an_array_itself(arrays):
    data = build(arrays, "array", images="x.npy", labels="y.npy")
    assert len(pickle.dumps(data)) < IMAGES.nbytes / 2
    assert numpy.array_equal(pickle.loads(pickle.dumps(data))[3][0], IMAGES[3])


@pytest.mark.parametrize("unlabelled", [0, 2])
def test_labels_from_one_are_refused(tmp_path, unlabelled):
    labels = numpy.arange(12) % 3 + 1
    labels[:unlabelled] = -1
    numpy.save(tmp_path / "x.npy", IMAGES)
    numpy.save(tmp_path / "y.npy", labels)
    data = build(tmp_path, "array", images="x.npy", labels="y.npy")
    with pytest.raises(ConfigError, match="from 1 to 3, .* from 0; subtract 1"):
        _ = data.num_classes


def table_of(root, labels, name):
    datasets = pytest.importorskip("datasets", reason="datasets: extra 'huggingface'")
    images = [Image.fromarray(image) for image in IMAGES[: len(labels)]]
    features = {"image": datasets.Image(), "label": datasets.Value("string")}
    columns = {"image": images, "label": labels}
    table = datasets.Dataset.from_dict(columns, datasets.Features(features))
    table.to_parquet(root / name)


def test_a_class_has_one_number_in_all_files_or_is_refused(tmp_path):
    table_of(tmp_path, ["a", "b", "c"] * 2, "train.parquet")
    table_of(tmp_path, ["a", "c"] * 2, "val.parquet")

    def loaders(**more):
        config = load_config("base", [f"data.root={tmp_path}", "data.batch_size=2"])
        for split, file in (("train", "train"), ("val", "val"), ("test", "val")):
            node = {"name": "huggingface", "path": f"{file}.parquet", **more}
            config.data[split] = {"dataset": {**node, "image_transform": []}}
        return build_loaders(config, torch.device("cpu"))

    with pytest.raises(ConfigError, match="class c is number 1 in data.val and 2"):
        loaders()
    found = loaders(classes=["c", "b", "a"])
    assert [int(y) for _, batch in found["val"] for y in batch] == [2, 0, 2, 0]
    assert found["train"].dataset.class_to_idx == {"c": 0, "b": 1, "a": 2}


@pytest.mark.parametrize("encoded", [False, True])
def test_a_negative_number_among_names_is_no_label(tmp_path, encoded):
    table_of(tmp_path, ["cat", "-1", "dog", None], "x.parquet")
    if encoded:
        import datasets

        table = datasets.Dataset.from_parquet(str(tmp_path / "x.parquet"))
        table.class_encode_column("label").to_parquet(tmp_path / "x.parquet")
    data = build(tmp_path, "huggingface", path="x.parquet")
    assert data.class_to_idx == {"cat": 0, "dog": 1}
    assert data.labels.tolist() == [0, -1, 1, -1]
    with pytest.raises(ConfigError, match="classes .*names -1, .* is no label"):
        build(tmp_path, "huggingface", path="x.parquet", classes=["-1", "cat", "dog"])


def test_a_deep_picture_in_a_table_is_not_cut(tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets: extra 'huggingface'")
    deep = Image.fromarray(numpy.full((4, 4), 300, "uint16"))
    content = io.BytesIO()
    deep.save(content, "PNG")
    cell = {"bytes": content.getvalue(), "path": None}
    table = datasets.Dataset.from_dict({"image": [cell]})
    table = table.cast_column("image", datasets.Image())
    table.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(Unreadable, match="more than 8 bits"):
        _ = build(tmp_path, "huggingface", path="x.parquet")[0]
    image, _ = build(tmp_path, "huggingface", path="x.parquet", channels="grey")[0]
    assert (numpy.asarray(image) == 300).all()
