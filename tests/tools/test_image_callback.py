"""Pictures: what is kept, what is undone, who is near whom; any data there may be."""

import subprocess
import sys
from types import SimpleNamespace

import numpy
import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

from stable_ssl.augment import build_ops
from stable_ssl.config import Pictures
from stable_ssl.data.combined import Combined
from stable_ssl.tools.draw_images import (
    NEIGHBOURS,
    QUERIES,
    RIGHT,
    SHOWN,
    WRONG,
    draw_features,
    draw_neighbours,
    draw_views,
    names_of,
    plane,
    spread,
)
from stable_ssl.tools.feature_buffer import IMAGES, FeatureBuffer, thumbnails
from stable_ssl.tools.image_callback import ImageCallback

generator = torch.Generator().manual_seed(0)
NORMALIZE = {"name": "normalize", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


def normal(*shape):
    return torch.randn(*shape, generator=generator)


def uniform(*shape):
    return torch.rand(*shape, generator=generator)


def loader(views=1, batch_size=100, batches=3, classes=None, ops=(), **known):
    """Return what of a loader is read."""

    class Known(SimpleNamespace):
        def __len__(self):
            return batches

    return Known(
        views=[SimpleNamespace(ops=build_ops(ops))] * views,
        batch_size=batch_size,
        dataset=SimpleNamespace(classes=classes, **known),
    )


def buffer(n=60, classes=4, dim=8, labels=True):
    """Return an buffer of images of overlapping classes."""
    kept = FeatureBuffer(loader(batch_size=25, batches=-(-n // 25)))
    y = torch.randint(classes, (n,), generator=generator)
    centres = normal(classes, dim)
    for part in torch.arange(n).split(25):
        features = centres[y[part]] + normal(len(part), dim)
        own = y[part] if labels else torch.full((len(part),), -1)
        kept.collect(uniform(len(part), 1, 8, 8), features, own)
    return kept


def drawn(folder, batch, made_by, kept, epoch=7, step=63):
    """Return what a callback draws: [(name, path)]."""
    callback = ImageCallback(None)
    callback.buffer = kept
    return list(callback.draw(folder, epoch, step, batch, made_by))


def width(path):
    with Image.open(path) as image:
        return image.size[0]


# --- what is kept ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [130, 999])
def test_an_album_is_spread_over_a_split_in_the_order_of_its_classes(size):
    kept = FeatureBuffer(loader(batch_size=size, batches=7000 // size + 1))
    labels = torch.arange(7000) // 70
    for part in torch.arange(7000).split(size):
        x = labels[part].float().view(-1, 1, 1, 1) / 100
        kept.collect(x, normal(len(part), 2), labels[part])
    assert 1500 < len(kept) <= IMAGES
    counts = torch.bincount(kept.labels())
    assert len(counts) == 100 and counts.max() - counts.min() <= 1
    assert torch.allclose(kept.images()[:, 0, 0, 0] * 100, kept.labels().float())


def test_a_stream_without_a_length_fills_the_album_and_no_more():
    kept = FeatureBuffer(object())
    for _ in range(5):
        kept.collect(uniform(900, 1, 2, 2), normal(900, 2), torch.zeros(900).long())
    assert len(kept) == 2700  # the batch that fills it is whole


def test_thumbnails_undo_the_normalisation():
    x = uniform(5, 3, 8, 8)
    (normalize,) = build_ops([NORMALIZE])
    seen = normalize(x.clone(), torch.arange(5))
    got = thumbnails(seen, loader(ops=[NORMALIZE]), 0)
    torch.testing.assert_close(got, x)


def test_thumbnails_of_an_unknown_normalisation_use_the_whole_range():
    x = 100 * normal(5, 1, 8, 8)
    got = thumbnails(x, object(), 0)
    assert got.min() == 0 and got.max() == 1 and got.shape == (5, 3, 8, 8)
    noisy = uniform(5, 3, 8, 8) * 1.2 - 0.1
    torch.testing.assert_close(thumbnails(noisy, object(), 0), noisy.clamp(0, 1))


def test_thumbnails_are_small_and_keep_their_shape():
    assert thumbnails(uniform(2, 3, 96, 192), object(), 0).shape == (2, 3, 32, 64)
    assert thumbnails(uniform(2, 13, 8, 8), object(), 0).shape == (2, 3, 8, 8)


# --- what is drawn --------------------------------------------------------------------


def test_files_are_named_by_epoch_and_say_their_step(tmp_path):
    batch = [uniform(10, 3, 8, 8)] * 2, torch.arange(10)
    pictures = drawn(tmp_path, batch, loader(2), buffer())
    assert [name for name, _ in pictures] == ["views", "neighbours", "features"]
    for name, path in pictures:
        assert path == tmp_path / f"{name}_e007.png"
        with Image.open(path) as image:
            assert image.info["step"] == "63" and min(image.size) > 200
    assert len(list(tmp_path.iterdir())) == 3


def test_equal_runs_draw_equal_files(tmp_path):
    batch, kept = (uniform(10, 3, 8, 8), torch.arange(10)), buffer()
    files = []
    for _ in range(2):
        pictures = drawn(tmp_path, batch, loader(), kept)
        files.append([path.read_bytes() for _, path in pictures])
    assert files[0] == files[1]


def test_neighbours_are_the_nearest_by_cosine_and_never_the_image_itself():
    kept = buffer()
    figure = draw_neighbours(kept)
    features, labels = kept.features(), kept.labels()
    same = 0
    for query in spread(labels, len(kept)):
        near = cosine_similarity(features[query : query + 1], features)
        near[query] = -2
        same += int((labels[near.argsort()[-NEIGHBOURS:]] == labels[query]).sum())
    from matplotlib.colors import to_hex

    frames = [to_hex(patch.get_facecolor()).upper() for patch in figure.axes[0].patches]
    assert 0 < same < len(frames) == QUERIES * NEIGHBOURS
    assert frames.count(RIGHT) == same and frames.count(WRONG) == len(frames) - same
    assert f"same class, {same} of {QUERIES * NEIGHBOURS}" in [
        t.get_text() for t in figure.axes[0].texts
    ]


@pytest.mark.parametrize(("n", "classes"), [(60, 4), (60, 30), (6, 1)])
def test_images_of_different_classes_are_asked_first(n, classes):
    labels = torch.arange(n) % classes
    chosen = spread(labels, n)
    assert len(set(chosen)) == len(chosen) == min(QUERIES, n)
    assert len(labels[chosen].unique()) == min(QUERIES, classes)


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (30, 2)])
def test_the_plane_is_that_of_the_principal_components(shape):
    x = (normal(*shape) * torch.logspace(0, -1, shape[1])).double()
    left, singular, _ = numpy.linalg.svd((x - x.mean(0)).numpy(), full_matrices=False)
    points, shares = plane(x)
    expected = torch.from_numpy(left[:, :2] * singular[:2])
    torch.testing.assert_close(points.abs(), expected.abs(), rtol=1e-8, atol=1e-8)
    assert shares == pytest.approx(singular[:2] ** 2 / (singular**2).sum())
    assert torch.equal(points.abs().max(0).values, points.max(0).values)


def test_collapsed_features_still_have_a_map():
    kept = FeatureBuffer(loader())
    kept.collect(uniform(9, 1, 8, 8), torch.ones(9, 4), torch.arange(9))
    draw_features(kept)
    kept = FeatureBuffer(loader())
    kept.collect(uniform(9, 1, 8, 8), torch.full((9, 1), 2.0), torch.arange(9))
    draw_features(kept)


@pytest.mark.parametrize(("classes", "named"), [(3, True), (25, False), (None, False)])
def test_a_map_has_a_legend_of_up_to_ten_classes(classes, named):
    kept = buffer(120, classes or 4, labels=classes is not None)
    kept.loader.dataset.classes = [f"class {i}" for i in range(30)]
    figure = draw_features(kept)
    legend = figure.axes[0].get_legend()
    if named:
        assert [t.get_text() for t in legend.get_texts()] == [
            "class 0",
            "class 1",
            "class 2",
        ]
    else:
        assert legend is None


def test_names_of_classes():
    names = loader(classes=["cat", "dog"])
    assert names_of(torch.tensor([1, 0, 7]), names) == ["dog", "cat", "7"]
    assert names_of(torch.tensor([-1, 0]), names) == []
    assert names_of(torch.rand(3), names) == []
    assert names_of(torch.zeros(3, 4).long(), names) == []
    own = loader(classes=["cat", "dog"], class_to_idx={"cat": 1, "dog": 2})
    assert names_of(torch.tensor([1, 2]), own) == ["cat", "dog"]


# --- any data there may be ------------------------------------------------------------


def test_views_of_one_of_several_and_of_several_loaders():
    y = torch.arange(30)
    one = draw_views((uniform(30, 3, 8, 8), y), loader())
    assert len(one.axes[0].images) == 3 * SHOWN
    crops = [uniform(30, 3, 12, 12)] * 2 + [uniform(30, 3, 6, 6)] * 4
    assert len(draw_views((crops, y), loader(6)).axes[0].images) == 6 * SHOWN
    two = Combined({"labelled": loader(), "unlabelled": loader(2)})
    batch = {"labelled": (crops[0][:4], y), "unlabelled": (crops[:2], y)}
    figure = draw_views(batch, two)
    assert len(figure.axes[0].images) == 4 + 2 * SHOWN
    words = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "unlabelled\nview 2\n12 × 12 px" in words
    assert draw_views((normal(30, 5), y), object()) is None


def test_images_without_labels_have_neighbours_without_frames(tmp_path):
    kept = buffer(labels=False)
    assert kept.labels() is None
    assert not draw_neighbours(kept).axes[0].patches
    names = [name for name, _ in drawn(tmp_path, None, None, kept)]
    assert names == ["neighbours", "features"]


def test_few_images_are_no_album(tmp_path):
    assert not drawn(tmp_path, None, None, buffer(NEIGHBOURS))


def test_a_failing_picture_is_a_warning_and_the_others_are_drawn(tmp_path):
    kept = buffer()
    kept.parts[0][1][0] = float("nan")  # as of a model that diverges
    with pytest.warns(UserWarning, match="no picture of features was drawn"):
        names = [name for name, _ in drawn(tmp_path, None, None, kept)]
    assert names == ["neighbours"]
    (tmp_path / "full").write_text("a file")
    batch = uniform(9, 3, 8, 8), torch.arange(9)
    with pytest.warns(UserWarning, match="no picture of views was drawn"):
        assert not drawn(tmp_path / "full", batch, loader(), None)
    callback = ImageCallback(None)
    callback.open(loader())
    with pytest.warns(UserWarning, match="no picture of neighbours and features"):
        batch = uniform(9, 3, 8, 8), {"no": "tensor"}
        callback.see(batch, callback.buffer.loader, lambda x: x.flatten(1))
    assert callback.buffer is None


def test_pictures_are_due_every_few_epochs_and_at_the_end():
    def due(config, epochs=6):
        callback = ImageCallback(config)
        return [e for e in range(1, epochs + 1) if callback.draws(e, e == epochs)]

    assert due(Pictures()) == [6]
    assert due(Pictures(every_n_epochs=4)) == [4, 6]


def test_pyplot_is_not_touched(tmp_path):
    code = (
        "import sys, torch; from pathlib import Path;"
        "from stable_ssl.tools.image_callback import ImageCallback;"
        "batch = (torch.rand(9, 3, 8, 8), torch.arange(9));"
        f"folder = Path({str(tmp_path)!r});"
        "drawn = list(ImageCallback(None).draw(folder, 1, 1, batch, None));"
        "print(len(drawn), 'matplotlib.pyplot' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.split() == ["1", "False"], out.stderr
    assert width(tmp_path / "views_e001.png") > 500
