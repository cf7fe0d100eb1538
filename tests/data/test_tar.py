"""Tar shards: the views of the folder they were made of, and every wrong input."""

import io
import itertools
import json
import shutil
import subprocess
import tarfile

import numpy
import pytest
import torch
from PIL import Image

from stable_ssl.augment import build_ops
from stable_ssl.config import ConfigError
from stable_ssl.data import BlockShuffle, Loader, build_dataset
from stable_ssl.data.sources import copies
from stable_ssl.data.sources.copies import local_copies
from stable_ssl.data.sources.shards import expanded, find_shards
from stable_ssl.data.sources.tar_file import members

CROP = {"name": "random_resized_crop", "size": 32, "scale": [0.2, 1.0]}


def tar(root, shards, **keys):
    return build_dataset({"name": "tar", "shards": shards, **keys}, str(root))


def loader(dataset, **options):
    settings = {"batch_size": 6, "seed": 3, "shuffle": True, **options}
    return Loader(dataset, [build_ops([CROP, {"name": "horizontal_flip"}])], **settings)


def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (6, 5), (colour, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write(path, files, **options):
    """Write {name: bytes or text} as a tar file."""
    with tarfile.open(path, "w", **options) as file:
        for name, content in files:
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    """Write 3 shards of 4 samples: an image, the number of a class, a description."""
    for s in range(3):
        files = []
        for i in range(4):
            key = f"{s}{i}"
            about = json.dumps({"label": i, "about": {"name": f"n{i % 2}"}})
            files += [(f"{key}.png", png(10 * s + i)), (f"{key}.cls", str(i % 2))]
            files += [(f"{key}.json", about), (f"{key}.txt", f"text {key}")]
        write(tmp_path / f"some-{s:03}.tar", files)
    return tmp_path


def pack_like(photos, folder, root):
    """Write the images of an `ImageFolder`, in its order, to two shards."""
    samples = [(str(path), label) for path, label in folder.samples]
    for s in range(2):
        files = []
        for i, (path, label) in list(enumerate(samples))[s * 12 : s * 12 + 12]:
            with open(path, "rb") as file:
                files += [(f"{i:06}.jpg", file.read()), (f"{i:06}.cls", str(label))]
        write(root / f"train-{s}.tar", files)


@pytest.mark.parametrize("workers", [0, 2])
def test_views_are_those_of_the_folder(photos, tmp_path, workers):
    folder = build_dataset({"name": "image_folder"}, str(photos))
    pack_like(photos, folder, tmp_path)
    data = tar(tmp_path, "train-{0..1}.tar", classes=["china", "flower"])
    assert data.class_to_idx == folder.class_to_idx
    whole, packed = loader(folder), loader(data, num_workers=workers)
    for some in (whole, packed):
        some.set_epoch(2, 1)
    batches = list(zip(whole, packed, strict=True))
    assert len(batches) == 3
    for (x, y), (u, v) in batches:
        assert torch.equal(x, u) and torch.equal(y, v)
    for rank in range(2):
        part = loader(data, rank=rank, world_size=2)
        part.set_epoch(2, 1)
        for (x, _), (u, _) in zip(batches, part, strict=True):
            assert torch.equal(x[0].tensor_split(2)[rank], u)


def test_entries_and_labels(shards):
    data = tar(shards, "some-{000..002}.tar")
    assert (len(data), data.num_classes) == (12, 2)
    assert data[5][0].getpixel((0, 0)) == (11, 0, 0) and data[5][1] == 1
    assert next(data.files_below_root()) == "some-000.tar/00.png"
    data = tar(shards, "some-*.tar", label="json.label", more=["txt", "json"])
    image, label, more = data[7]
    assert (label, more["txt"], more["json"]["label"]) == (3, "text 13", 3)
    data = tar(shards, ["some-002.tar", "some-000.tar"], label="json.about.name")
    assert data.classes == ["n0", "n1"] and data[4][1] == 0
    assert data[0][0].getpixel((0, 0))[0] == 20
    data = tar(shards, "some-000.tar", label="json.about.name", classes=["n1", "n0"])
    assert [data[i][1] for i in range(4)] == [1, 0, 1, 0]
    assert tar(shards, "some-000.tar", labelled=False)[0][1] == -1


def labelled(path, entry, labels):
    """Write a shard of images with a label each."""
    files = [[(f"{i}.png", png(i)), (f"{i}.{entry}", y)] for i, y in enumerate(labels)]
    write(path, sum(files, []))


@pytest.mark.parametrize("minus", ["-1", "-100", '{"a": -1}', '{"a": "-9"}'])
def test_a_negative_number_among_names_is_no_label(tmp_path, minus):
    json_ = minus[0] == "{"
    texts = ["cat", "dog", None, "dog"]
    about = [
        minus if t is None else json.dumps({"a": t}) if json_ else t for t in texts
    ]
    labelled(tmp_path / "a.tar", "json" if json_ else "cls", about)
    label = "json.a" if json_ else None
    data = tar(tmp_path, "a.tar", label=label)
    assert data.class_to_idx == {"cat": 0, "dog": 1}
    assert [max(data[i][1], -1) for i in range(4)] == [0, 1, -1, 1]
    given = tar(tmp_path, "a.tar", label=label, classes=["dog", "ox", "cat"])
    assert [max(given[i][1], -1) for i in range(4)] == [2, 0, -1, 0]
    with pytest.raises(ConfigError, match="classes .*names -1, .* is no label"):
        tar(tmp_path, "a.tar", label=label, classes=["-1", "cat", "dog"])


def test_names_beside_numbers_are_refused(tmp_path):
    labelled(tmp_path / "a.tar", "cls", ["cat", "3", "-1"])
    with pytest.raises(ConfigError, match="cls .*a.tar: .* as cat, .* as 3; write one"):
        tar(tmp_path, "a.tar")
    labelled(tmp_path / "b.tar", "json", ['{"a": "10"}', '{"a": "9"}', '{"a": "x"}'])
    assert tar(tmp_path, "b.tar", label="json.a").classes == ["10", "9", "x"]


def test_what_is_no_sample_is_left_out(tmp_path):
    files = [("._a.png", b"x"), ("README", b"x"), ("./deep.d/a.b.png", png(1))]
    write(tmp_path / "a.tar", [*files, ("./deep.d/a.cls", "0")])
    with pytest.raises(ConfigError, match=r"a.tar/deep.d/a has 0 images.*b.png, cls"):
        tar(tmp_path, "a.tar")
    data = tar(tmp_path, "a.tar", image="b.png")
    assert next(data.files()) == f"{tmp_path}/a.tar/deep.d/a.b.png"
    assert data[0][0].size == (6, 5)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_any_bytes(tmp_path, form):
    names = ["d" * 90 + "/" + "k" * 90, "ü漢 ", "caf\udce9"]
    files = [(f"{name}.png", png(i)) for i, name in enumerate(names)]
    write(tmp_path / "a.tar", files, format=form, errors="surrogateescape")
    data = tar(tmp_path, "a.tar")
    assert [path.partition("a.tar/")[2][:-4] for path in data.files()] == names
    assert [data[i][0].getpixel((0, 0))[0] for i in range(3)] == [0, 1, 2]


def test_arrays_are_samples(tmp_path):
    file = io.BytesIO()
    numpy.save(file, numpy.arange(24, dtype="uint16").reshape(2, 3, 4))
    write(tmp_path / "a.tar", [("0.npy", file.getvalue())])
    assert tar(tmp_path, "a.tar")[0][0].dtype == numpy.uint16


def test_wrong_shards_are_named(shards):
    good = (shards / "some-001.tar").read_bytes()

    def refused(words, shards_=("some-{000..001}.tar",), **keys):
        with pytest.raises(ConfigError, match=words):
            tar(shards, list(shards_), **keys)

    refused("no shard at .*some-003.tar", ["some-{000..003}.tar"])
    refused("no shards match .*none-", ["none-*.tar"])
    refused("names .*some-000.tar 2 times", ["some-000.tar", "some-*.tar"])
    refused("no entry jpg.*there are: cls, json, png, txt", image="jpg")
    refused("8 of 8 samples have no json.lable, such as .*00", label="json.lable")
    refused("about of 00.json is a dict", label="json.about")
    for length in (len(good) // 2, 512 * 4, 1000):
        (shards / "some-001.tar").write_bytes(good[:length].rstrip(b"\0"))
        refused("some-001.tar is truncated")
    (shards / "some-001.tar").write_bytes(good[:512] + b"\1" * 512 + good[1024:])
    tar(shards, "some-000.tar")
    (shards / "some-001.tar").write_bytes(good[:1024] + b"\1" * 512 + good[1536:])
    refused("some-001.tar is damaged at byte 1,024")
    (shards / "some-001.tar").write_bytes(b"x" * 2000)
    refused("some-001.tar is no tar file")
    for mode, tool in (("w:gz", "gunzip"), ("w:bz2", "bunzip2"), ("w:xz", "unxz")):
        with tarfile.open(shards / "some-001.tar", mode) as file:
            file.add(shards / "some-000.tar")
        refused(f"some-001.tar is compressed.*{tool}")
    write(shards / "some-001.tar", [("a.png", png(0)), ("b.png", png(0))] * 2)
    refused("some-001.tar has the key a twice")
    write(shards / "some-001.tar", [("a.png", png(0)), ("a.PNG", png(0))])
    refused("some-001.tar has the file a.PNG twice")
    write(shards / "some-001.tar", [("a.png", png(0)), ("a.cls", "0"), ("b.png", b"")])
    refused("1 of 6 samples have no cls, such as .*some-001.tar/b; .*labelled: false")
    write(shards / "some-001.tar", [("a.png", png(0)), ("a.jpg", png(0))])
    refused("some-001.tar/a has 2 images .*png, jpg.*set image", labelled=False)


def test_links_in_a_tar_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(png(0))
    (tmp_path / "b.png").hardlink_to(tmp_path / "a.png")
    line = ["tar", "-C", tmp_path, "-cf", tmp_path / "a.tar", "a.png", "b.png"]
    subprocess.run(line, check=True)
    with pytest.raises(ConfigError, match="b.png as a link .*--hard-dereference"):
        tar(tmp_path, "a.tar")
    subprocess.run([*line, "--hard-dereference"], check=True)
    assert len(tar(tmp_path, "a.tar")) == 2


def test_what_follows_the_end_of_a_tar_is_refused(tmp_path):
    for i, name in enumerate("ab"):
        write(tmp_path / f"{name}.tar", [(f"{name}.png", png(i))])
    first, second = ((tmp_path / f"{name}.tar").read_bytes() for name in "ab")
    padded = tmp_path / "c.tar"
    for behind in (second, b"\0" * 2**21 + b"x"):
        padded.write_bytes(first + behind)
        with pytest.raises(ConfigError, match="c.tar goes on .*--concatenate"):
            tar(tmp_path, "c.tar")
    padded.write_bytes(first + b"\0" * 2**21)
    assert len(tar(tmp_path, "c.tar")) == 1
    padded.write_bytes(first)
    line = ["tar", "--concatenate", f"--file={padded}", tmp_path / "b.tar"]
    subprocess.run(line, check=True)
    assert len(tar(tmp_path, "c.tar")) == 2


def test_a_shard_that_changes_is_indexed_anew_and_never_misread(shards):
    data = tar(shards, "some-000.tar")
    files = [(f"0{i}.png", png(90 + i)) for i in range(3, -1, -1)]
    write(shards / "some-000.tar", files)
    with pytest.raises(ConfigError, match="some-000.tar is not what it was"):
        data[0]
    again = tar(shards, "some-000.tar")
    assert [again[i][0].getpixel((0, 0))[0] for i in range(4)] == [93, 92, 91, 90]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{0..2}", ["0", "1", "2"]),
        ("{08..10}", ["08", "09", "10"]),
        ("{2..1}x{a,b}", ["2xa", "2xb", "1xa", "1xb"]),
        ("{x}", ["{x}"]),
    ],
)
def test_braces_are_those_of_a_shell(pattern, names):
    assert expanded(pattern) == names
    said = subprocess.run(["bash", "-c", f"echo {pattern}"], capture_output=True)
    assert said.stdout.decode().split() == names


def test_remote_shards_are_copied_once(shards, tmp_path, monkeypatch):
    import fsspec

    store = fsspec.filesystem("memory")
    for s in range(2):
        store.pipe(f"/bucket/{s}.tar", (shards / f"some-00{s}.tar").read_bytes())
    here = tar(shards, "some-{000..001}.tar")
    cache = str(tmp_path / "copies")
    for names in ("memory://bucket/{0..1}.tar", "memory://bucket/*.tar"):
        there = tar(shards, names, cache=cache)
        assert [there[i][1] for i in range(8)] == [here[i][1] for i in range(8)]
    assert next(there.files()).startswith("memory://")
    store.rm("/bucket", recursive=True)
    with pytest.warns(UserWarning, match="2 of 2 shards have changed .*0.tar .FileNot"):
        assert len(tar(shards, "memory://bucket/{0..1}.tar", cache=cache)) == 8
    with pytest.raises(ConfigError, match="memory://bucket/2.tar cannot be copied"):
        tar(shards, "memory://bucket/2.tar", cache=cache)
    with pytest.raises(ConfigError, match=r"nosuch://a.tar needs .*stable-ssl\[shards"):
        tar(shards, "nosuch://a.tar", cache=cache)


@pytest.fixture(params=["memory", "file"])
def bucket(request, tmp_path):
    """Return a function that writes a remote shard of one image, and its URL."""
    import fsspec

    url = f"{request.param}://{'' if request.param == 'memory' else tmp_path}/bucket"

    def overwrite(colour):
        write(tmp_path / "new.tar", [("0.png", png(colour))])
        with fsspec.open(f"{url}/0.tar", "wb", auto_mkdir=True) as file:
            file.write((tmp_path / "new.tar").read_bytes())

    return overwrite, f"{url}/0.tar"


def test_a_remote_shard_that_is_overwritten_is_copied_anew(bucket, tmp_path):
    (overwrite, url), cache = bucket, tmp_path / "copies"

    def colour(data):
        return data[0][0].getpixel((0, 0))[0]

    overwrite(7)
    old = tar(tmp_path, url, cache=str(cache))
    overwrite(9)
    with pytest.warns(UserWarning, match="0.tar has changed since it was copied"):
        assert colour(tar(tmp_path, url, cache=str(cache))) == 9
    assert colour(old) == 7  # who reads the old copy goes on
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*.tar")}
    assert colour(tar(tmp_path, url, cache=str(cache))) == 9 and len(files) == 2
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())


def test_without_a_network_the_newest_copies_are_read(bucket, tmp_path, monkeypatch):
    (overwrite, url), asked = bucket, []
    for colour in (7, 9):
        overwrite(colour)
        local_copies([url], str(tmp_path / "copies"))

    def unreachable(system, remote):
        asked.append(remote)
        raise OSError("no network")

    monkeypatch.setattr(copies, "_fingerprint", unreachable)
    monkeypatch.setattr("fsspec.AbstractFileSystem.glob", unreachable)
    monkeypatch.setattr(copies, "DOWNLOADS", 1)
    with pytest.warns(UserWarning, match="1 of 3 shards .* not known.*no network"):
        here, other, again = local_copies(
            [url, __file__, url], str(tmp_path / "copies")
        )
    assert len(asked) == 1 and here == again and other == __file__
    (member,) = members(here)
    assert open(here, "rb").read()[member.offset :].startswith(png(9))
    with pytest.raises(ConfigError, match="1.tar cannot be copied .*no network"):
        local_copies([url.replace("0.tar", "1.tar")], str(tmp_path / "copies"))
    with pytest.raises(ConfigError, match="cannot be listed: .*no network.*by braces"):
        find_shards(url.replace("0", "*"), tmp_path)


def test_a_shard_that_is_overwritten_while_it_is_copied_is_refused(
    tmp_path, monkeypatch
):
    import fsspec

    store = fsspec.filesystem("memory")
    store.pipe("/busy/0.tar", b"old")

    def copied(source, target, size, copy=shutil.copyfileobj):
        copy(source, target, size)
        store.pipe("/busy/0.tar", b"new")

    monkeypatch.setattr(shutil, "copyfileobj", copied)
    with pytest.raises(ConfigError, match="0.tar cannot be copied .* meanwhile"):
        local_copies(["memory://busy/0.tar"], str(tmp_path))
    assert not list(tmp_path.rglob("*.tar"))


# --- the shuffle for slow disks -------------------------------------------------------


def epoch_of(data, epoch, start=0, **options):
    """Return the index of the samples of an epoch, in order."""
    sampler = BlockShuffle(data, **options.pop("blocks", {"window": 2}))
    some = Loader(data, [[]], batch_size=4, seed=3, sampler=sampler, **options)
    some.set_epoch(epoch, start)
    return [i for _ in some for i in some.index.tolist()]


def test_blocks_come_a_few_at_a_time_as_a_function_of_the_epoch(tmp_path):
    for s in range(6):
        files = [(f"{s}{i}.png", png(s)) for i in range(8)]
        write(tmp_path / f"{s}.tar", files)
    data = tar(tmp_path, "{0..5}.tar")
    whole = epoch_of(data, 1)
    assert sorted(whole) == list(range(48)) and whole != sorted(whole)
    windows = [{i // 8 for i in whole[n : n + 16]} for n in range(0, 48, 16)]
    assert all(len(window) == 2 for window in windows)
    assert epoch_of(data, 1) == whole != epoch_of(data, 2)
    assert epoch_of(data, 1, start=5) == whole[20:]
    parts = [epoch_of(data, 1, rank=r, world_size=2) for r in range(2)]
    joined = [p[n : n + 2] for n in range(0, 24, 2) for p in parts]
    assert sum(joined, []) == whole
    starts = {tuple(sorted(epoch_of(data, e)[:16])) for e in range(40)}
    assert len(starts) > 9  # of 15 pairs of shards
    few = epoch_of(data, 1, blocks={"window": 1, "block_size": 3})
    assert all(len({i // 8 for i in few[n : n + 8]}) == 1 for n in range(0, 48, 8))


def test_blocks_of_a_folder_are_neighbours(photos):
    data = build_dataset({"name": "image_folder"}, str(photos))
    order = list(BlockShuffle(data, window=1, block_size=5))
    assert sorted(order) == list(range(24))
    runs = [order[0] // 5]
    runs += [b // 5 for a, b in itertools.pairwise(order) if a // 5 != b // 5]
    assert sorted(runs) == list(range(5))
    with pytest.raises(ConfigError, match="window=0 of BlockShuffle: use 1 or more"):
        BlockShuffle(data, window=0)
