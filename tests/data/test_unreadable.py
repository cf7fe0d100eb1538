"""Broken files: named by `raise`, counted by `skip`, in a folder and a dataset."""

import io
import struct
import tarfile
import zlib
from random import Random

import numpy
import pytest
import tifffile
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from stable_ssl.augment import build_ops
from stable_ssl.config import ConfigError
from stable_ssl.data import Loader, Unreadable
from stable_ssl.data.images.unreadable import READ_ERRORS
from stable_ssl.data.sources.folder import ImageFolder

ROWS = numpy.random.default_rng(0).integers(0, 256, (16, 12, 3), "uint8")
OTHERS = (NotImplementedError, PermissionError, UnicodeDecodeError, tarfile.ReadError)
OTHERS += (Image.DecompressionBombError, tifffile.TiffFileError)


def error_of(kind):
    """Return an error of a kind, in two lines."""
    if kind is UnicodeDecodeError:
        return kind("utf-8", b"\xff", 0, 1, "bad\nbyte")
    return kind("broken\nin the middle")


class Own(Dataset):
    """8 images, of which number 5 raises an error."""

    num_classes = 2

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5:
            raise self.error
        return torch.zeros(3, 8, 8, dtype=torch.uint8), index % 2


def read(dataset, on_error, workers=0, ops=()):
    """Return the labels of an epoch, and how many samples were skipped."""
    options = {"batch_size": 4, "on_error": on_error, "num_workers": workers}
    loader = Loader(dataset, [build_ops(ops)], **options)
    try:
        return [y.tolist() for _, y in loader], loader.skipped
    finally:
        loader.close()


@pytest.mark.parametrize("kind", [*READ_ERRORS, *OTHERS], ids=lambda k: k.__name__)
@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_reading_names_the_sample_or_is_counted(kind, workers):
    data = Own(error_of(kind))
    words = r"^Own\[5\]: .*b(roken|ad).*; mend or remove it, or set data.on_error=skip"
    with pytest.raises(Unreadable, match=words) as caught:
        read(data, "raise", workers)
    assert "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match=r"skipped: Own\[5\]: "):
        assert read(data, "skip", workers) == ([[0, 1, 0, 1], [0, 0, 1]], 1)
    with pytest.warns(UserWarning, match=r"skipped: Own\[5\]: "):
        assert read(data, "replace", workers) == ([[0, 1, 0, 1], [0, 0, 0, 1]], 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_one_that_was_chosen_takes_the_place_with_views_of_its_own(workers):
    chosen, broken = [4, 5, 2, 7, 5], OSError("broken")

    def read(**options):
        options = {"batch_size": 4, "num_workers": workers, **options}
        ops = [build_ops([{"name": "noise", "std": 0.1}])]
        loader = Loader(Own(broken), ops, on_error="replace", sampler=chosen, **options)
        found = [(x, loader.index.tolist()) for x, _ in loader]
        loader.close()
        return found

    with pytest.warns(UserWarning, match=r"skipped: Own\[5\]: "):
        whole = read()
    assert [index for _, index in whole] == [[4, 2, 2, 7], [4]]
    views = torch.cat([x for x, _ in whole]).flatten(1)
    assert torch.cdist(views, views).fill_diagonal_(1).min() > 0.01
    with pytest.warns(UserWarning):
        parts = [read(rank=rank, world_size=2) for rank in (0, 1)]
    first = [x for x, _ in (parts[0][0], parts[1][0], parts[0][1])]
    assert torch.equal(torch.cat(first).flatten(1), views)


@pytest.mark.parametrize("kind", [TypeError, KeyError, AttributeError, AssertionError])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_mistake_in_the_code_of_a_dataset_is_not_hidden(kind, on_error):
    with pytest.raises(kind, match="broken"):
        read(Own(kind("broken")), on_error)


class Lazy(Own):
    """Files of images that are opened, and not read."""

    def __init__(self, *files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return Image.open(io.BytesIO(self.files[index])), index


def encoded(kind, array=ROWS, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


RESIZE = {"_target_": "torchvision.transforms.Resize", "size": 8}


@pytest.mark.parametrize("op", [None, "torchvision", "own"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM"])
def test_an_image_that_is_read_by_an_op_is_named_too(kind, op):
    from torchvision.transforms import Resize

    whole = encoded(kind)
    ops = {"torchvision": [Resize((8, 8))], "own": [lambda x: x.rotate(90)], None: []}
    data = Lazy(whole, whole[: len(whole) * 2 // 3], whole, whole)
    with pytest.raises(Unreadable, match=r"^Lazy\[1\].*; mend or remove it, or set"):
        read(data, "raise", ops=ops[op])
    with pytest.warns(UserWarning, match=r"skipped: Lazy\[1\]"):
        assert read(data, "skip", ops=ops[op]) == ([[0, 2, 3]], 1)


class Partly(IterableDataset):
    """Twelve images by number, of which two cannot be read."""

    def __iter__(self):
        for number in range(12):
            file = io.BytesIO(encoded("PNG")[: 80 if number in (0, 10) else None])
            yield Image.open(file), number


@pytest.mark.filterwarnings("ignore:skipped")
@pytest.mark.parametrize("start", [0, 1])
def test_a_stream_keeps_its_batches_whole(start):
    def read(rank=0, world_size=1, **options):
        loader = Loader(
            Partly(),
            [build_ops([{"name": "noise", "std": 0.1}])],
            batch_size=4,
            rank=rank,
            world_size=world_size,
            **options,
        )
        loader.set_epoch(0, start)
        found = [y.tolist() for _, y in loader]
        loader.close()
        return found

    whole = [[1, 1, 2, 3], [4, 5, 6, 7], [8, 9, 11, 11]]
    assert read(on_error="replace") == whole[start:]
    assert read(on_error="skip")[-1] == [8, 9, 11]
    parts = zip(*(read(rank, 2, on_error="replace") for rank in (0, 1)), strict=True)
    assert [[*first, *second] for first, second in parts] == whole[start:]


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(3, 8, 8, dtype=torch.uint8), 0
        raise tarfile.ReadError("unexpected end")


def test_a_broken_stream_is_said_in_words():
    with pytest.raises(
        ConfigError, match="^Stream: ReadError: unexpected end .*stream"
    ):
        read(Stream(), "raise")


# --- folders --------------------------------------------------------------------------


def bomb():
    """Return a PNG file whose head promises 10 gigapixels."""
    data = bytearray(encoded("PNG"))
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


BROKEN = {
    "bomb.png": bomb(),
    "empty.png": b"",
    "text.png": b"no image at all",
    "cut.png": encoded("PNG")[:80],
    "cut.jpg": encoded("JPEG")[:300],
    "cut.tif": encoded("TIFF")[:100],
    "cut.npy": b"\x93NUMPY\x01\x00",
    "pickle.npy": b"\x80\x04N.",
    "page.jpg": b"<html>404</html>",
}


@pytest.mark.parametrize("channels", [None, "all"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_or_counted(tmp_path, name, channels):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_bytes(BROKEN[name])
    (tmp_path / "a" / "whole.png").write_bytes(encoded("PNG"))
    folder = ImageFolder(str(tmp_path), channels=channels)
    with pytest.raises(Unreadable, match=rf"/a/{name} is not a readable image: "):
        read(folder, "raise")
    with pytest.warns(UserWarning, match=f"skipped: .*/a/{name}"):
        assert read(folder, "skip") == ([[0]], 1)


def test_a_file_with_the_suffix_of_another_kind_is_read_as_what_it_is(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.jpg").write_bytes(encoded("PNG"))
    image, _ = ImageFolder(str(tmp_path))[0]
    assert (numpy.asarray(image) == ROWS).all()


def encodings():
    """Return 20 files of images: {name: bytes}."""
    grey, deep = ROWS[..., 0], ROWS[..., 0].astype("uint16") * 257
    bands = numpy.concatenate([ROWS, ROWS], 2)

    def tiff(array, **options):
        file = io.BytesIO()
        tifffile.imwrite(file, array, **options)
        return file.getvalue()

    def npy(array):
        file = io.BytesIO()
        numpy.save(file, array)
        return file.getvalue()

    palette = io.BytesIO()
    Image.fromarray(ROWS).quantize(8).save(palette, "PNG", transparency=1)
    return {
        "png": encoded("PNG"),
        "grey.png": encoded("PNG", grey),
        "deep.png": encoded("PNG", deep),
        "palette.png": palette.getvalue(),
        "jpg": encoded("JPEG"),
        "progressive.jpg": encoded("JPEG", progressive=True),
        "grey.jpeg": encoded("JPEG", grey),
        "bmp": encoded("BMP"),
        "grey.bmp": encoded("BMP", grey),
        "ppm": encoded("PPM"),
        "pgm": encoded("PPM", deep),
        "webp": encoded("WEBP"),
        "lossless.webp": encoded("WEBP", lossless=True),
        "tif": encoded("TIFF"),
        "lzw.tif": encoded("TIFF", compression="tiff_lzw"),
        "jpeg.tiff": encoded("TIFF", compression="jpeg"),
        "deep.tif": encoded("TIFF", deep),
        "bands.tif": tiff(bands, photometric="minisblack", planarconfig="contig"),
        "pages.tif": tiff(bands.transpose(2, 0, 1).copy(), photometric="minisblack"),
        "npy": npy(bands),
    }


def mutated(data, chance):
    """Return bytes with a few changed, cut off, doubled or left out."""
    data = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data)) if len(data) else 0
        head = chance.randrange(min(len(data), 64)) if len(data) else 0
        kind = chance.randrange(5)
        if kind < 2 and data:
            data[(at, head)[kind]] = chance.randrange(256)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data[at:at] = data[head : head + chance.randrange(9)]
        else:
            del data[head : head + chance.randrange(5)]
    return bytes(data)


def fuzz(tmp_path, count):
    """Return what is raised for mutated files beside `Unreadable`."""
    escaped = []
    for name, data in encodings().items():
        chance = Random(name)
        (tmp_path / "a").mkdir(exist_ok=True)
        path = tmp_path / "a" / (name if "." in name else f"0.{name}")
        path.write_bytes(data)
        folders = [ImageFolder(str(tmp_path), channels=c) for c in (None, "rgb", "all")]
        for _ in range(count):
            path.write_bytes(mutated(data, chance))
            for folder in folders:
                for read in (folder.__getitem__,):
                    try:
                        read(0)
                    except Unreadable as error:
                        assert str(path) in str(error)
                    except BaseException as error:
                        escaped.append((name, folder.channels, error))
        path.unlink()
    return escaped


@pytest.mark.filterwarnings("ignore")
def test_nothing_else_escapes_from_files_with_a_few_wrong_bytes(tmp_path):
    assert fuzz(tmp_path, 8) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_nothing_else_escapes_from_a_fuzz_of_20_encodings(tmp_path):
    assert fuzz(tmp_path, 400) == []
