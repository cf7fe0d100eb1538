"""The index of a folder: listed once, mapped by all, never older than the folder."""

import os
import pickle
import random
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image

from stable_ssl.augment import build_ops
from stable_ssl.data import Loader
from stable_ssl.data.datasets import files_below_root
from stable_ssl.data.index import cache
from stable_ssl.data.index.listing import Scan, is_hidden, is_image
from stable_ssl.data.sources.folder import ImageFolder


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return the folder of this test's indexes."""
    monkeypatch.setenv("STABLE_SSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "indexes"


@pytest.fixture
def scans(monkeypatch):
    """Return a list that grows by each folder that is listed."""
    walk, found = Scan.walk, []

    def counted(self, below, seen):
        found.append(below)
        return walk(self, below, seen)

    monkeypatch.setattr(Scan, "walk", counted)
    return found


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.fixture
def settled(monkeypatch):
    """Let indexes trust the stamps of a moment ago, which they do after 50 ms."""
    monkeypatch.setattr(cache, "TICK", -(10**9))
    monkeypatch.setattr(cache, "COARSE", -(10**9))


@pytest.fixture
def tree(tmp_path, settled):
    for name in ("ant/0.png", "bee/0.png", "bee/deep/1.png"):
        touch(tmp_path / "root" / name)
    return tmp_path / "root"


def names(root, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return files_below_root(ImageFolder(str(root), **options))


# --- the list is that of the folder ---------------------------------------------------


def listed_slowly(top):
    """Return the images below a folder as sorted lists of components give them."""
    found = []
    for folder, inner, files in os.walk(top):
        inner[:] = [name for name in inner if not is_hidden(name)]
        kept = (name for name in files if not is_hidden(name) and is_image(name))
        found += [os.path.relpath(os.path.join(folder, name), top) for name in kept]
    return sorted(found, key=lambda path: path.split(os.sep))


@pytest.mark.parametrize("labelled", [True, False])
def test_the_order_is_that_of_the_components(tmp_path, own, labelled):
    chance = random.Random(0)
    parts = ["a", "b", "B", "a b", "a.png", "é", "a-", "aa", "z.d", ".h", "__MACOSX"]
    ends = ["0.png", "1.JPEG", "a.png", "-.npy", "x.txt", "é.png", ".png", "png"]
    for _ in range(300):
        path = tmp_path / "root"
        for _ in range(chance.randrange(1, 4)):
            path /= chance.choice(parts)
        path /= chance.choice(ends)
        if not path.exists() and not any(p.is_file() for p in path.parents):
            touch(path)
    touch(tmp_path / "root" / "loose.png")
    with pytest.warns(UserWarning, match="ignored the hidden folders .h, __MACOSX"):
        folder = ImageFolder(
            str(tmp_path / "root"), labelled=labelled, allow_empty=True
        )
    right = listed_slowly(tmp_path / "root")
    assert len(right) > 80
    right = [path for path in right if not labelled or path != "loose.png"]
    assert files_below_root(folder) == right
    assert [str(path) for path, _ in folder.samples] == [
        str(tmp_path / "root" / path) for path in right
    ]
    assert [folder.paths[i] for i in range(len(folder))] == [*folder.paths]


def test_a_folder_that_cannot_be_listed_is_left_out_and_said(tree, own, monkeypatch):
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    for _ in range(2):
        with pytest.warns(UserWarning, match="left out .*bee/deep, which cannot be"):
            folder = ImageFolder(str(tree))
        assert files_below_root(folder) == ["ant/0.png", "bee/0.png"]


# --- once -----------------------------------------------------------------------------


def test_a_folder_is_listed_once_and_again_when_it_has_changed(tree, own, scans):
    def anew(count, **options):
        """Return the names, listed anew, which is said."""
        before = len(scans)
        with pytest.warns(UserWarning, match="is indexed anew: .* has changed since"):
            found = files_below_root(ImageFolder(str(tree), **options))
        assert len(scans) - before == count
        return found

    first = names(tree)
    assert len(scans) == 3
    assert names(tree) == first == names(tree, class_to_idx={"ant": 0, "bee": 1})
    assert names(tree, include_filter="bee/*") == first[1:]
    assert len(scans) == 3 and len(list(own.glob("*/*.index"))) == 1
    touch(tree / "bee" / "deep" / "2.png")
    assert anew(3) == [*first, "bee/deep/2.png"]
    (tree / "ant" / "0.png").rename(tree / "ant" / "9.png")
    assert anew(3)[0] == "ant/9.png"
    touch(tree / "cat" / "0.png")
    assert anew(4)[-1] == "cat/0.png"
    (tree / "cat" / "link").symlink_to(tree.parent / "later")
    assert len(anew(4)) == 5
    touch(tree.parent / "later" / "3.png")
    assert anew(5)[-1] == "cat/link/3.png"
    other = tree.parent / "other"
    touch(other / "4.png")
    (tree / "cat" / "link").unlink()
    (tree / "cat" / "link").symlink_to(other)
    assert anew(5)[-1] == "cat/link/4.png"
    (tree / "cat" / "notes.txt").touch()  # another listing, of the same images
    assert len(anew(5)) == 6
    assert names(tree, labelled=False) == names(tree)


def test_what_changed_a_moment_before_is_listed_again_in_silence(tmp_path, own, scans):
    for name in ("ant/0.png", "bee/0.png"):
        touch(tmp_path / "root" / name)
    for _ in range(2):
        assert len(names(tmp_path / "root")) == 2
    assert len(scans) == 4
    time.sleep(0.1)
    for _ in range(3):
        names(tmp_path / "root")
    assert len(scans) == 6


def test_several_at_once_list_it_once(tree, own, scans):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: [*ImageFolder(str(tree)).files()], range(4)))
    assert len(scans) == 3 and found == found[:1] * 4


def test_a_damaged_index_is_made_again(tree, own):
    right = names(tree)
    (path,) = own.glob("*/*.index")
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-64], b"other" + whole, whole[:40]):
        path.write_bytes(damaged)
        assert names(tree) == right
        for other in own.glob("*/*.index"):
            if other != path:
                other.unlink()


def test_what_nobody_used_for_a_month_is_deleted(tree, own):
    names(tree)
    (path,) = own.glob("*/*.index")
    os.utime(path, (0, 0))
    names(tree)  # uses it
    assert time.time() - path.stat().st_mtime < 60
    os.utime(path, (0, 0))
    names(tree, labelled=False)
    assert not path.exists()


def test_where_no_index_can_be_kept_there_is_one_in_memory(tree, own, monkeypatch):
    right = names(tree)
    (tree.parent / "file").touch()
    monkeypatch.setenv("STABLE_SSL_CACHE", str(tree.parent / "file" / "below"))
    with pytest.warns(UserWarning, match="cannot be kept .*set STABLE_SSL_CACHE to"):
        folder = ImageFolder(str(tree))
    assert files_below_root(folder) == right
    assert files_below_root(pickle.loads(pickle.dumps(folder))) == right


# --- workers --------------------------------------------------------------------------


def test_a_worker_gets_the_path_of_the_index(tmp_path, own):
    for i in range(3000):
        touch(tmp_path / "root" / "ant" / f"{i:04}.png")
    folder = ImageFolder(str(tmp_path / "root"))
    sent = pickle.dumps(folder.paths)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert [*again] == [*folder.paths] and again[2999] == folder.paths[2999]
    assert folder.paths.are_those_of(again)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_what_the_process_does(tmp_path, own, settled, method):
    for c, name in enumerate(("ant", "bee")):
        for i in range(4):
            path = tmp_path / "root" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 9), (100 * c + i, 0, 0)).save(path)
    folder = ImageFolder(str(tmp_path / "root"))
    views = [build_ops([{"name": "random_resized_crop", "size": 8}])]
    settings = {"batch_size": 4, "shuffle": True}
    whole = Loader(folder, views, **settings)
    touch(tmp_path / "root" / "ant" / "00.png")  # and another run indexes anew
    with pytest.warns(UserWarning):
        ImageFolder(str(tmp_path / "root"))
    settings |= {"num_workers": 2, "multiprocessing_context": method}
    parts = Loader(folder, views, **settings)
    for (x, y), (u, v) in zip(whole, parts, strict=True):
        assert torch.equal(x, u) and torch.equal(y, v)
    parts.close()
