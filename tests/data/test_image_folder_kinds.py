"""Files of every depth and number of channels; folders, names and lists as they are."""

import os
import struct
import zlib
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec

import numpy
import pytest
import tifffile
import torch
from PIL import Image

from stable_ssl.augment import build_ops
from stable_ssl.config import ConfigError
from stable_ssl.data import Loader, Unreadable
from stable_ssl.data.datasets import files_below_root, held_in_memory, recorded
from stable_ssl.data.fields import Fields
from stable_ssl.data.images.decode import Decode
from stable_ssl.data.pack import Packing, write_shards
from stable_ssl.data.sources.folder import ImageFolder
from stable_ssl.data.sources.huggingface import HuggingFace
from stable_ssl.data.sources.tar import Tar
from stable_ssl.splits import record

HAVE_DATASETS = find_spec("datasets") is not None
CHANCE = numpy.random.default_rng(0)
RGB = CHANCE.integers(0, 256, (9, 7, 3), "uint8")
GREY = RGB[..., 0]
FOUR = CHANCE.integers(0, 256, (9, 7, 4), "uint8")  # colours and an alpha
DEEP = CHANCE.integers(0, 65536, (9, 7, 4)).astype("uint16")
TWELVE = CHANCE.integers(0, 4096, (9, 7, 12)).astype("uint16")  # of 12 bits


def luma(rgb):
    """Return the grey of colours, as PIL and torchvision weigh them."""
    return rgb @ numpy.array([0.299, 0.587, 0.114])


# --- a file: (how it is written, {channels: right values (H, W[, C]) or words}) -------


def by_pil(array, mode=None, **options):
    image = Image.fromarray(array)
    image = image.convert(mode) if mode else image
    return lambda path: image.save(path, **options)


def by_tifffile(array, **options):
    return lambda path: tifffile.imwrite(path, array, **options)


def png_of_16_bits(array):
    """Write (H, W, C) uint16, which PIL cannot."""

    def chunk(kind, data):
        parts = kind + data
        return (
            struct.pack(">I", len(data)) + parts + struct.pack(">I", zlib.crc32(parts))
        )

    h, w, c = array.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[c]
    head = struct.pack(">IIBBBBB", w, h, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
    return lambda path: path.write_bytes(data)


def netpbm(array, kind, most):
    head = f"{kind}\n7 9\n{most}\n".encode()
    return lambda path: path.write_bytes(head + array.astype(">u2").tobytes())


def with_previews(path):
    with tifffile.TiffWriter(path) as file:
        file.write(RGB, photometric="rgb", subfiletype=0)
        file.write(RGB[::2, ::2].copy(), photometric="rgb", subfiletype=1)


def of_one(grey, **other):
    """Return what a file of one channel gives."""
    return {None: thrice(grey), "rgb": thrice(grey), "grey": grey, "all": grey, **other}


def of_colours(rgb, **other):
    """Return what a file of three channels gives."""
    return {None: rgb, "rgb": rgb, "grey": luma(rgb), "all": rgb, **other}


def thrice(grey):
    return numpy.stack([grey] * 3, 2)


def refused(words, **other):
    """Return that whatever is asked is refused, but for what is given."""
    return {**dict.fromkeys((None, "rgb", "grey", "all"), words), **other}


def also(found, words):
    """Return what is found, but refused unless channels are chosen."""
    return {**found, None: words}


DEEPER = ("deep", "float", "int", "twelve", "array.npy")  # names of more than 8 bits
BITS = "more than 8 bits a channel; set channels of its dataset to what it has"
ALPHA = "which is not all opaque; set channels of its dataset: rgb or grey drops it"
UNKNOWN = "PIL does not know such a TIFF file; `channels: all`"
PAGES = r"has \d+ pages, of which PIL reads one; split it, or set channels: all"
CONVERT = "has 16 bits a channel, of which PIL reads 8; convert it, such as to PNG"
OF_PIL = "has 16 bits a channel, of which PIL reads 8; convert it, or set channels: all"
RANGE = "set data.range"

palette = Image.fromarray(RGB).quantize(16)
PALETTE = numpy.asarray(palette.convert("RGB")) / 255
CLEAR = numpy.where(numpy.asarray(palette) == 3, 0, 1)[..., None]
KEYED = (RGB != RGB[0, 0]).any(2, keepdims=True)
INK = numpy.asarray(Image.fromarray(RGB).convert("CMYK")) / 255
rgb, grey, deep = RGB / 255, GREY / 255, DEEP / 65535
OPAQUE = numpy.ones((9, 7, 1))
FILES = {
    "bits.png": (by_pil(GREY > 127), of_one((GREY > 127) * 1.0)),
    "grey.png": (by_pil(GREY), of_one(grey)),
    "grey.tif": (by_pil(GREY), of_one(grey)),
    "colours.png": (by_pil(RGB), of_colours(rgb)),
    "colours.tif": (by_pil(RGB), of_colours(rgb)),
    "colours.bmp": (by_pil(RGB), of_colours(rgb)),
    "opaque.png": (
        by_pil(RGB, "RGBA"),
        of_colours(rgb, all=numpy.concatenate([rgb, OPAQUE], 2)),
    ),
    "opaque grey.png": (
        by_pil(GREY, "LA"),
        of_one(grey, all=numpy.concatenate([grey[..., None], OPAQUE], 2)),
    ),
    "clear.png": (
        by_pil(FOUR),
        also(of_colours(FOUR[..., :3] / 255, all=FOUR / 255), ALPHA),
    ),
    "clear grey.png": (
        lambda path: Image.fromarray(FOUR).convert("LA").save(path),
        also(
            of_one(
                luma(FOUR[..., :3] / 255),
                all=numpy.stack([luma(FOUR[..., :3] / 255), FOUR[..., 3] / 255], 2),
            ),
            ALPHA,
        ),
    ),
    "palette.png": (palette.save, of_colours(PALETTE)),
    "palette.tif": (palette.save, of_colours(PALETTE)),
    "clear palette.png": (
        lambda path: palette.save(path, transparency=3),
        also(of_colours(PALETTE, all=numpy.concatenate([PALETTE, CLEAR], 2)), ALPHA),
    ),
    "clear colour.png": (
        by_pil(RGB, transparency=tuple(RGB[0, 0].tolist())),
        also(of_colours(rgb, all=numpy.concatenate([rgb, KEYED], 2)), ALPHA),
    ),
    "ink.tif": (by_pil(RGB, "CMYK"), of_colours(rgb, all=INK)),
    "inverted.tif": (by_tifffile(GREY, photometric="miniswhite"), of_one(1 - grey)),
    "four bands.tif": (
        by_tifffile(FOUR, photometric="rgb"),
        also(of_colours(FOUR[..., :3] / 255, all=FOUR / 255), ALPHA),
    ),
    "previews.tif": (with_previews, of_colours(rgb)),
    "deep.png": (by_pil(DEEP[..., 0]), also(of_one(deep[..., 0]), BITS)),
    "deep.tif": (by_pil(DEEP[..., 0]), also(of_one(deep[..., 0]), BITS)),
    "deep.pgm": (netpbm(DEEP[..., 0], "P5", 65535), also(of_one(deep[..., 0]), BITS)),
    "deep big-endian.tif": (
        by_tifffile(DEEP[..., 0], byteorder=">"),
        also(of_one(deep[..., 0]), BITS),
    ),
    "deep colours.png": (
        png_of_16_bits(DEEP[..., :3]),
        also(of_colours(deep[..., :3], grey=OF_PIL), BITS),
    ),
    "deep alpha.png": (
        png_of_16_bits(DEEP),
        also(of_colours(deep[..., :3], grey=OF_PIL, all=deep), BITS),
    ),
    "deep grey alpha.png": (
        png_of_16_bits(DEEP[..., :2]),
        also(of_one(deep[..., 0], all=deep[..., :2]), BITS),
    ),
    "deep colours.ppm": (netpbm(DEEP[..., :3], "P6", 65535), refused(CONVERT)),
    "deep colours.tif": (
        by_tifffile(DEEP[..., :3], photometric="rgb"),
        refused(OF_PIL, all=deep[..., :3]),
    ),
    "float.tif": (
        by_pil(grey.astype("float32")),
        also(of_one(grey), BITS),
    ),
    "float colours.tif": (
        by_tifffile(rgb.astype("float32"), photometric="rgb"),
        refused(UNKNOWN, all=rgb),
    ),
    "float to 255.tif": (by_pil(GREY.astype("float32")), also(refused(RANGE), BITS)),
    "int32.tif": (by_pil(GREY.astype("int32")), also(refused(RANGE), BITS)),
    "int16.tif": (
        by_tifffile(GREY.astype("int16"), photometric="minisblack"),
        also(refused(RANGE), BITS),
    ),
    "twelve bands.tif": (
        by_tifffile(TWELVE, photometric="minisblack", planarconfig="contig"),
        refused(UNKNOWN, all=TWELVE / 65535),
    ),
    "twelve planes.tif": (
        by_tifffile(
            TWELVE.transpose(2, 0, 1).copy(),
            photometric="minisblack",
            planarconfig="separate",
        ),
        refused(UNKNOWN, all=TWELVE / 65535),
    ),
    "twelve pages.tif": (
        by_tifffile(TWELVE.transpose(2, 0, 1).copy(), photometric="minisblack"),
        also(refused(PAGES, all=TWELVE / 65535), BITS),
    ),
    "three pages.tif": (
        by_tifffile(RGB.transpose(2, 0, 1).copy(), photometric="minisblack"),
        refused(PAGES, all=rgb),
    ),
    "array.npy": (
        lambda path: numpy.save(path, DEEP.astype(">u2")),
        dict.fromkeys((None, "rgb", "grey", "all"), deep),
    ),
    "array of bands first.npy": (
        lambda path: numpy.save(path, RGB.transpose(2, 0, 1)),
        dict.fromkeys((None, "rgb", "grey", "all"), rgb),
    ),
}


@pytest.mark.parametrize("channels", [None, "rgb", "grey", "all"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_keeps_its_depth_and_channels_or_is_refused(tmp_path, name, channels):
    """Right to 1/255 of 8 bits, where colours become grey, and else to 1e-6."""
    write, right = FILES[name]
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / name)
    folder = ImageFolder(str(tmp_path), channels=channels)
    deeper = name.startswith(DEEPER)
    layouts = [None] if name.endswith(".npy") else [None, "chw", "hwc"]  # of arrays
    for decode in map(Decode, [None] * 3, layouts):
        expected = right[channels]
        if isinstance(expected, str):
            with pytest.raises(ConfigError, match=rf"^.*/{name} .*{expected}"):
                decode(folder[0][0], str(folder.samples[0][0]))
            continue
        x = decode(folder[0][0])
        assert x.dtype == (torch.float32 if deeper else torch.uint8)
        x = x.double().numpy() / (1 if deeper else 255)
        expected = expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1)
        assert x.shape == expected.shape
        assert numpy.abs(x - expected).max() <= (1e-6 if deeper else 1 / 255)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Write all of these to a folder, its files to a shard, and to a table."""
    root = tmp_path_factory.mktemp("everything")
    (root / "folder" / "a").mkdir(parents=True)
    for name, (write, _) in FILES.items():
        write(root / "folder" / "a" / name)
    folder = ImageFolder(str(root / "folder"))
    packing = Packing(folder, Fields(), Decode(), "all", 1)
    list(write_shards(packing, root))
    if HAVE_DATASETS:
        import datasets

        cells = [{"bytes": p.read_bytes(), "path": None} for p, _ in folder.samples]
        table = datasets.Dataset.from_dict({"image": cells})
        table = table.cast_column("image", datasets.Image(decode=False))
        table.to_parquet(root / "all.parquet")
    return root


@pytest.mark.parametrize("channels", [None, "rgb", "grey", "all"])
@pytest.mark.parametrize("kind", ["tar", "huggingface"])
def test_bytes_of_a_file_give_what_the_file_does(everything, channels, kind):
    if kind == "huggingface" and not HAVE_DATASETS:
        pytest.skip("datasets: extra 'huggingface'")
    folder = ImageFolder(str(everything / "folder"), channels=channels)
    if kind == "tar":
        other = Tar(str(everything), "all-0000.tar", channels=channels)
    else:
        other = HuggingFace(str(everything), "all.parquet", channels=channels)

    def found(dataset, i, name):
        try:
            return Decode()(dataset[i][0], name)
        except ConfigError as error:
            return str(error).removeprefix(name)

    for i, (path, _) in enumerate(folder.samples):
        if kind == "huggingface" and path.suffix == ".npy":
            continue
        name = other.paths[i] if kind == "tar" else f"all.parquet[{i}]"
        first, second = found(folder, i, str(path)), found(other, i, name)
        same = torch.equal if isinstance(first, torch.Tensor) else str.__eq__
        assert same(first, second), (path.name, second)


@pytest.mark.parametrize("channels", ["RGB", "gray", 3, ""])
def test_channels_that_are_none_are_refused(tmp_path, channels):
    with pytest.raises(ConfigError, match="channels=.* of a dataset: use rgb, grey or"):
        ImageFolder(str(tmp_path), channels=channels)


def test_twelve_bits_have_a_range(tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(2):
        tifffile.imwrite(tmp_path / "a" / f"{i}.tif", TWELVE[..., i])
    folder = ImageFolder(str(tmp_path), channels="grey")
    held = held_in_memory(folder, 2.0, False, Decode((0, 4095)))
    right = TWELVE.transpose(2, 0, 1)[:2, None] / 4095
    assert numpy.abs(held.images.double().numpy() - right).max() <= 1e-6


@pytest.mark.parametrize("limit", [0.0, 2.0], ids=["read", "held"])
@pytest.mark.parametrize("channels", ["rgb", "grey", "all"])
def test_grey_and_colours_in_one_folder(tmp_path, channels, limit):
    """Converted as asked; else refused, at the start where they would be held."""
    (tmp_path / "a").mkdir()
    Image.fromarray(GREY).save(tmp_path / "a" / "0.png")
    Image.fromarray(RGB).save(tmp_path / "a" / "1.png")
    folder = ImageFolder(str(tmp_path), channels=channels)

    def batches():
        held = held_in_memory(folder, limit, False, Decode())
        return list(Loader(held, [build_ops([])], batch_size=2))

    if channels == "all":
        with pytest.raises(ConfigError, match="channels.* rgb or grey"):
            batches()
        return
    ((x, _),) = batches()
    first = GREY if channels == "grey" else thrice(GREY).transpose(2, 0, 1)
    assert torch.allclose(x[0], torch.from_numpy(first / 255).float())


# --- folders --------------------------------------------------------------------------


def png(path, colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (colour, 0, 0)).save(path, "PNG")


def names(folder):
    return files_below_root(folder)


@pytest.fixture
def tree(tmp_path):
    for name in ("ant/0.png", "bee/0.png", "bee/deep/1.png"):
        png(tmp_path / "root" / name)
    return tmp_path / "root"


HIDDEN = [".ipynb_checkpoints", "__MACOSX", ".git"]


def test_hidden_folders_are_no_classes_and_are_said(tree):
    for name in (*HIDDEN, "ant/.thumbnails"):
        png(tree / name / "0.png")
    png(tree / "ant" / "._0.png")
    with pytest.warns(UserWarning, match="ignored the hidden folders .*__MACOSX"):
        folder = ImageFolder(str(tree))
    assert folder.classes == ["ant", "bee"]
    assert names(folder) == ["ant/0.png", "bee/0.png", "bee/deep/1.png"]
    unlabelled = ImageFolder(str(tree), labelled=False)
    assert names(unlabelled) == names(folder)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    ("files", "found"),
    [
        ([], "no files"),
        (["a.gif", "b.txt"], "but .gif, .txt"),
        ([".hidden.png"], "no files"),
        (["LICENSE"], "but LICENSE"),
    ],
)
def test_a_class_without_images_is_refused_unless_allowed(tree, files, found, split):
    """Else the numbers of the classes after it would shift between computers."""
    root = tree
    if split:
        root = tree.parent / "split"
        root.mkdir()
        tree.rename(root / "train")
    empty = (root / "train" if split else root) / "ape"
    empty.mkdir()
    for name in files:
        (empty / name).write_text("x")
    with pytest.raises(ConfigError, match=rf"folder {empty} has no image.*{found}"):
        ImageFolder(str(root))
    folder = ImageFolder(str(root), allow_empty=True)
    assert folder.classes == ["ant", "ape", "bee"]
    assert [label for _, label in folder.samples] == [0, 2, 2]
    chosen = ImageFolder(str(root), class_to_idx={"ant": 0, "bee": 1})
    assert [label for _, label in chosen.samples] == [0, 1, 1]


def test_links_to_folders_are_followed_once(tree):
    outside = tree.parent / "outside"
    png(outside / "2.png")
    (tree / "ant" / "link").symlink_to(outside)
    (tree / "ant" / "twin").symlink_to(outside)
    (tree / "cat").symlink_to(outside)
    folder = ImageFolder(str(tree))
    assert names(folder)[:2] == ["ant/0.png", "ant/link/2.png"]
    assert folder.classes == ["ant", "bee", "cat"]
    assert [label for _, label in folder.samples] == [0, 0, 1, 1, 2]
    assert folder[1][0].size == (4, 4)


def test_which_link_is_followed_does_not_depend_on_the_file_system(tree, monkeypatch):
    png(tree.parent / "outside" / "2.png")
    for name in "cabd":
        (tree / "ant" / name).symlink_to(tree.parent / "outside")
    scandir, found = os.scandir, []
    for reverse in (False, True):

        def in_another_order(path, reverse=reverse):
            with scandir(path) as entries:
                ordered = sorted(entries, key=lambda e: e.name, reverse=reverse)
            return nullcontext(ordered)

        monkeypatch.setenv("STABLE_SSL_CACHE", str(tree.parent / f"cache{reverse}"))
        monkeypatch.setattr(os, "scandir", in_another_order)
        found.append(names(ImageFolder(str(tree))))
    assert found[0] == found[1]


@pytest.mark.parametrize("target", ["", "bee", "bee/deep"])
def test_a_link_in_a_circle_is_refused(tree, target):
    (tree / "bee" / "deep" / "again").symlink_to(tree / target)
    with pytest.raises(ConfigError, match="deep/again is a link to a folder that"):
        ImageFolder(str(tree))


def test_a_link_to_nowhere_is_no_class(tree):
    (tree / "bee" / "gone.png").symlink_to(tree / "nowhere.png")
    (tree / "cat").symlink_to(tree / "nowhere")
    folder = ImageFolder(str(tree))
    assert folder.classes == ["ant", "bee"]
    loader = Loader(folder, [build_ops([])], batch_size=4)
    with pytest.raises(Unreadable, match="gone.png is not a readable image"):
        list(loader)


# --- names ----------------------------------------------------------------------------

ODD = [
    b"a b.png",
    "ü 漢字😀.png".encode(),
    b"q\"uo'te.png",
    b"com,ma.png",
    b"[br]*?.PNG",
]
ODD += [
    b"100%{x}.png",
    b"eq=al$.png",
    b"new\nline.png",
    b"tab\t.png",
    b"back\\slash.png",
]
ODD += [b"semi;#.png", b"caf\xe9.png", b"cr\rlf\r\n.png", b"-dash.png", b" space .png"]


def test_names_of_any_bytes_come_back_from_the_recorded_split(tree):
    for kind in (b"x y, z", b"=1+1", b"\xff", b"new\nline"):
        for name in ODD:
            path = os.fsdecode(os.path.join(os.fsencode(tree), kind, name))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                Image.new("L", (4, 4)).save(file, "PNG")
    shares = {"val_size": 0.3, "seed": 1}
    parts = {s: ImageFolder(str(tree), s, **shares) for s in ("train", "val")}
    run = tree.parent / "run"
    for _ in range(2):  # the second launch finds its own split
        record(run, partial(recorded, parts), {})
    for split, folder in parts.items():
        again = ImageFolder(str(tree), split, split_file=str(run / "splits.csv"))
        assert again.samples == folder.samples
        assert again.class_to_idx == folder.class_to_idx
        assert all(again[i][0].size == (4, 4) for i in range(len(again)))
    assert sum(map(len, parts.values())) == 4 * len(ODD) + 3


# --- lists ----------------------------------------------------------------------------


def listed(tree, text, **options):
    (tree / "train.txt").write_bytes(os.fsencode(text))
    folder = ImageFolder(str(tree), "train", **options)
    return list(zip(names(folder), [label for _, label in folder.samples], strict=True))


ANT, BEE, DEEP_BEE = ("ant/0.png", 0), ("bee/0.png", 1), ("bee/deep/1.png", 1)
LISTS = {
    "plain": ("ant/0.png\nbee/0.png\n", [ANT, BEE]),
    "no last line end": ("ant/0.png\nbee/0.png", [ANT, BEE]),
    "blank lines": ("\n\nant/0.png\n  \nbee/0.png\n", [ANT, BEE]),
    "crlf": ("ant/0.png\r\nbee/0.png\r\n", [ANT, BEE]),
    "byte order mark": ("\ufeffant/0.png\nbee/0.png\n", [ANT, BEE]),
    "dot": ("./ant/0.png\n./bee/../bee/0.png\n", [ANT, BEE]),
    "absolute": ("{root}/ant/0.png\n{root}/bee/0.png,bee\n", [ANT, BEE]),
    "class": ("ant/0.png,bee\nbee/0.png, ant\n", [("ant/0.png", 1), ("bee/0.png", 0)]),
    "number": ("ant/0.png,1\nbee/0.png,0\n", [("ant/0.png", 1), ("bee/0.png", 0)]),
    "space": ("ant/0.png 1\nbee/0.png ant\n", [("ant/0.png", 1), ("bee/0.png", 0)]),
    "tab": ("ant/0.png\t1\nbee/0.png\tant\n", [("ant/0.png", 1), ("bee/0.png", 0)]),
    "quoted": ('"ant/0.png","bee"\n"bee/0.png"\n', [("ant/0.png", 1), BEE]),
    "deep": ("bee/deep/1.png\n", [DEEP_BEE]),
    "twice": ("ant/0.png\nant/0.png\n", [ANT, ANT]),
    "comma in a name": ("ant/a, b.png\n", [("ant/a, b.png", 0)]),
    "comma and class": ('"ant/a, b.png",bee\n', [("ant/a, b.png", 1)]),
    "comma unquoted": ("ant/a, b.png,bee\n", [("ant/a, b.png", 1)]),
    "space in a name": ("ant/a b.png\n", [("ant/a b.png", 0)]),
    "space and number": ("ant/a b.png 1\n", [("ant/a b.png", 1)]),
    "bytes": ("ant/caf\udce9.png,1\n", [("ant/caf\udce9.png", 1)]),
}


@pytest.mark.parametrize(("text", "right"), LISTS.values(), ids=LISTS)
def test_a_list_as_people_write_it(tree, text, right):
    for name in ("a, b.png", "a b.png", "caf\udce9.png"):
        with open(tree / "ant" / name, "wb") as file:
            Image.new("L", (4, 4)).save(file, "PNG")
    assert listed(tree, text.replace("{root}", str(tree))) == right


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ant/0.png\nant/9.png\n", "train.txt, line 2: no image at .*ant/9.png"),
        ("ant/0.png,aunt\n", "line 1: no class aunt; did you mean 'ant'"),
        ("ant/0.png,7\n", "line 1: no class 7"),
        ("ant/0.png -1\n", "line 1: no class -1"),
        ("../outside.png\n", "line 1: no image at|line 1: no class"),
        ("", "no images in"),
        ("\n\n", "no images in"),
        ("ant\n", "line 1: no image at .*ant"),
        ("path,label\nant/0.png,1\n", "line 1: no image at .*path,label"),
        ('"ant/new\nline.png",bee\n', "line 1: no image at"),
    ],
)
def test_a_list_of_what_is_not_there_is_refused(tree, text, words):
    with pytest.raises(ConfigError, match=words):
        listed(tree, text)


def test_a_list_without_labels(tree):
    assert listed(tree, "ant/0.png\nbee/0.png,1\n", labelled=False) == [
        ("ant/0.png", -1),
        ("bee/0.png", -1),
    ]
