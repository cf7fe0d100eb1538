"""What a dataset may return for an image: taken right, or refused in one line."""

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import Dataset

from stable_ssl.augment import build_ops
from stable_ssl.config import ConfigError
from stable_ssl.data import Loader
from stable_ssl.data.images.decode import Decode

CODES = "?bBhHiIlLqQefdgFDG"  # of numpy's numeric types
NUMPY = sorted({numpy.dtype(c).newbyteorder(o) for c in CODES for o in "<>"}, key=str)
TORCH = (
    "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float32"
    " float64 float8_e4m3fn float8_e5m2 complex64 complex128"
).split()
LARGEST = {"uint8": 255, "uint16": 65535}  # what becomes 1; of other types 1 does


def values_of(draw, kind, shape):
    """Draw values of a numpy type: of its whole range, of bytes, from 0 to 1, ..."""
    chance = numpy.random.default_rng(draw(st.integers(0, 2**32)))
    if kind.kind == "b":
        return chance.integers(0, 2, shape).astype(kind)
    if kind.kind in "ui":
        info = numpy.iinfo(kind)
        least, most = int(info.min), int(info.max)
        ranges = [(least, most), (0, most), (0, 1), (0, min(255, most))]
        low, high = draw(st.sampled_from(ranges))
        native = kind.newbyteorder("=")
        return chance.integers(low, high, shape, native, endpoint=True).astype(kind)
    scale, shift = draw(st.sampled_from([(1, 0), (1, -0.5), (255, 0), (1e4, -2e3)]))
    return (chance.random(shape) * scale + shift).astype(kind)


@st.composite
def images(draw):
    """Draw (image, its pixels (C, H, W), name of their type, the `Decode` to use)."""
    container = draw(st.sampled_from(["array", "tensor", "list"]))
    layout = draw(st.sampled_from(["hw", "hwc", "chw"]))
    bands = 1 if layout == "hw" else draw(st.integers(1, 12))
    told = draw(st.booleans())
    least = 1 if told else max(bands, 4) + 1  # so that the sizes tell
    height = draw(st.integers(least, least + 8))
    width = draw(st.one_of(st.just(height), st.integers(least, least + 8)))
    shape = (bands, height, width)
    if container == "tensor":
        name = draw(st.sampled_from(TORCH))
        known = name in {kind.name for kind in NUMPY}
        pixels = values_of(draw, numpy.dtype(name if known else "float32"), shape)
        pixels = torch.from_numpy(pixels).to(getattr(torch, name))
        wide = torch.complex128 if pixels.is_complex() else torch.float64
        truth = pixels.to(wide).numpy()
        flat, last = pixels[0], pixels.permute(1, 2, 0)
    else:
        kind = draw(st.sampled_from(NUMPY))
        pixels = truth = values_of(draw, kind, shape)
        flat, last = pixels[0], pixels.transpose(1, 2, 0)
    image = {"hw": flat, "hwc": last, "chw": pixels}[layout]
    if container == "list":
        image = image.tolist()
    if container != "tensor":
        kind = numpy.asarray(image).dtype
        name = {"g": "float64", "G": "complex128"}.get(kind.char, kind.name)
    real = numpy.nan_to_num(truth.real.astype(float))
    own = real.min(), real.max() + max(1, abs(real.max()))
    pair = draw(st.sampled_from([None, own, (0, 1), (0, 2**64 - 1)]))
    decode = Decode(pair, ("chw" if layout == "chw" else "hwc") if told else None)
    return image, truth, name, decode


def agrees(x, truth, name, decode):
    """Check a tensor (C, H, W), uint8 or float32, against its pixels in float64."""
    assert x.dtype in (torch.uint8, torch.float32)
    x = x.to(torch.float64).numpy() / (255 if x.dtype == torch.uint8 else 1)
    low, high = decode.range or (0, LARGEST.get(name, 1))
    expected = (truth.astype(float) - low) / (high - low)
    assert x.shape == expected.shape
    assert numpy.abs(x - expected).max() <= 1e-6


def said(error, truth, name):
    """Check that one line names the sample, its type, its values and its shape."""
    text, (c, h, w) = str(error), truth.shape
    assert text.startswith("row 7 is a ") and "\n" not in text
    assert name in text and ("data.range" in text or "data.layout" in text), text
    assert any(str(s) in text for s in (truth.shape, (h, w, c), (1, h, w)))
    if truth.dtype.kind != "c":
        low, high = float(truth.min()), float(truth.max())
        assert f"from {low:g} to {high:g}" in text


@settings(max_examples=600, deadline=None)
@given(images())
def test_an_array_is_taken_right_or_refused(drawn):
    image, truth, name, decode = drawn
    try:
        x = decode(image, "row 7")
    except ConfigError as error:
        said(error, truth, name)
    else:
        agrees(x, truth, name, decode)


# --- images of PIL --------------------------------------------------------------------

COLOURS = numpy.random.default_rng(0).integers(0, 256, (9, 7, 3), "uint8")
GREY = COLOURS[..., 0]
DEEP = GREY.astype("uint16") * 257 + 1


def images_of_pil():
    """Return {mode: (an image, its right values (C, H, W) from 0 to 1, or words)}."""
    rgb, grey = Image.fromarray(COLOURS), Image.fromarray(GREY)
    bits = Image.fromarray(GREY > 127)
    palette = rgb.quantize(16)
    opaque, clear = rgb.convert("RGBA"), rgb.convert("RGBA")
    clear.putalpha(grey)
    keyed_grey, keyed, keyed_palette = grey.copy(), rgb.copy(), palette.copy()
    keyed_grey.info["transparency"] = int(GREY[0, 0])
    keyed.info["transparency"] = tuple(COLOURS[0, 0].tolist())
    keyed_palette.info["transparency"] = palette.getpixel((0, 0))
    unused = rgb.copy()
    unused.info["transparency"] = (1, 2, 3)
    cmyk = rgb.convert("CMYK")
    ink = 255 - numpy.asarray(cmyk).astype(float)
    told = "which is not all opaque; return numpy.asarray"
    return {
        "1": (bits, (GREY > 127)[None]),
        "L": (grey, GREY[None] / 255),
        "RGB": (rgb, COLOURS.transpose(2, 0, 1) / 255),
        "P": (palette, numpy.asarray(palette.convert("RGB")).transpose(2, 0, 1) / 255),
        "RGBA, opaque": (opaque, COLOURS.transpose(2, 0, 1) / 255),
        "LA, opaque": (grey.convert("LA"), GREY[None] / 255),
        "RGBa, opaque": (opaque.convert("RGBa"), COLOURS.transpose(2, 0, 1) / 255),
        "CMYK": (cmyk, (ink[..., :3] * ink[..., 3:] / 255).transpose(2, 0, 1) / 255),
        "I;16": (Image.fromarray(DEEP), DEEP[None] / 65535),
        "I;16B": (
            Image.frombytes("I;16B", (7, 9), DEEP.astype(">u2").tobytes()),
            DEEP[None] / 65535,
        ),
        "F": (Image.fromarray((GREY / 255).astype("float32")), GREY[None] / 255),
        "unused colour": (unused, COLOURS.transpose(2, 0, 1) / 255),
        "RGBA": (clear, told),
        "RGBa": (clear.convert("RGBa"), told),
        "LA": (clear.convert("LA"), told),
        "La": (clear.convert("LA").convert("La"), told),
        "PA": (Image.new("PA", (7, 9)), told),
        "RGBX": (Image.new("RGBX", (7, 9)), told),
        "clear grey": (keyed_grey, told),
        "clear colour": (keyed, told),
        "clear palette": (keyed_palette, told),
        "I": (Image.fromarray(DEEP.astype("int32")), "int32 from .* set data.range"),
        "F of bytes": (Image.fromarray(GREY.astype("float32")), "set data.range"),
        "empty": (Image.new("L", (0, 0)), "shape .* expected"),
    }


MODES = images_of_pil()


@pytest.mark.parametrize("layout", [None, "chw", "hwc"])  # of arrays alone
@pytest.mark.parametrize(("image", "right"), MODES.values(), ids=MODES)
def test_each_mode_of_pil(image, right, layout):
    decode = Decode(layout=layout)
    if isinstance(right, str):
        with pytest.raises(ConfigError, match=f"^row 7 (is|has) a .*{right}"):
            decode(image, "row 7")
        return
    x = decode(image, "row 7")
    x = x.double().numpy() / (255 if x.dtype == torch.uint8 else 1)
    assert x.shape == right.shape and numpy.abs(x - right).max() <= 1 / 255


@pytest.mark.parametrize("mode", ["HSV", "YCbCr", "LAB"])
def test_colours_of_another_space_become_red_green_and_blue(mode):
    image = Image.new("RGB", (7, 9), (200, 60, 90)).convert(mode)
    x = Decode()(image, "an image")
    assert (x.flatten(1).double() - torch.tensor([[200], [60], [90]])).abs().max() <= 4


# --- containers and sizes that tell too little ----------------------------------------

BYTES = numpy.zeros((9, 9, 200), "uint8")


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (BYTES, r"of shape \(9, 9, 200\): set data.layout: chw or hwc"),
        (BYTES.transpose(2, 0, 1), r"\(200, 9, 9\): set data.layout"),
        (torch.from_numpy(BYTES), r"\(9, 9, 200\): set data.layout"),
        (numpy.zeros((28, 28, 28), "uint8"), r"\(28, 28, 28\): set data.layout"),
        (torch.zeros(20, 20, 6), r"\(20, 20, 6\): set data.layout"),
        (BYTES[None], r"expected \(H, W\) and channels"),
        (BYTES[:0], r"of shape \(0, 9, 200\): expected \(H, W\) and channels"),
        (numpy.float32(3), r"of shape \(\): expected \(H, W\) and channels"),
        (numpy.ma.masked_less(numpy.eye(5), 1), "masked pixels; return image.filled"),
        (torch.eye(5).to_sparse(), r"packed or not there; return a dense one"),
        (torch.zeros(3, 5, 5, device="meta"), "packed or not there"),
        (numpy.full((5, 5), numpy.nan), "float64 from nan to nan"),
        (numpy.zeros((5, 5), "O"), "is a ndarray; expected .* of numbers"),
        (numpy.zeros((5, 5), "u1,u1"), "is a ndarray; expected .* of numbers"),
        ([[1, 2], [1]], "is no image: .*inhomogeneous"),
        ([["a"]], "is a list; expected an image of PIL, an array"),
        ("a.png", "is a str; expected an image of PIL, an array"),
        (None, "is a NoneType; expected an image of PIL, an array"),
        ({}, "is a dict; expected an image of PIL, an array"),
    ],
)
def test_what_is_no_image_or_may_be_two_is_refused(image, words):
    with pytest.raises(ConfigError, match=f"^row 7 .*{words}"):
        Decode()(image, "row 7")


def test_torch_has_channels_first_where_the_sizes_do_not_say_otherwise():
    assert Decode()(torch.zeros(200, 9, 9), "an image").shape == (200, 9, 9)
    assert Decode()(torch.zeros(28, 28, 28), "an image").shape == (28, 28, 28)
    assert Decode()(torch.zeros(32, 32, 3), "an image").shape == (3, 32, 32)
    assert Decode()(numpy.ma.masked_array(numpy.eye(5)), "an image").shape == (1, 5, 5)


@pytest.mark.parametrize("pair", [[1], [1, 0], [0, 0], [0, float("inf")]])
def test_a_range_that_is_none_is_refused(pair):
    with pytest.raises(ConfigError, match="data.range=.*write .low, high"):
        Decode(pair)


def test_the_image_of_a_dataset_is_not_changed():
    image = numpy.arange(75, dtype="float64").reshape(5, 5, 3) / 75
    before = image.copy()
    Decode((0, 1))(image).zero_()
    assert (image == before).all()


# --- through a loader -----------------------------------------------------------------


class Samples(Dataset):
    """Return the same images, each with a label."""

    def __init__(self, *images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], 0


def read(images, decode, workers=0, ops=({"name": "horizontal_flip", "p": 0.0},)):
    """Return the one view of the images, by an op for images that changes nothing."""
    loader = Loader(
        Samples(*images),
        [build_ops(ops)],
        batch_size=len(images),
        decode=decode,
        num_workers=workers,
    )
    try:
        ((x, _),) = loader
        return x
    finally:
        loader.close()


@settings(max_examples=100, deadline=None)
@given(images())
def test_a_loader_takes_the_same_images(drawn):
    image, truth, name, decode = drawn
    try:
        x = read([image, image], decode)
    except ConfigError as error:
        assert "\n" not in str(error) and str(error).startswith("Samples[0] is a ")
        with pytest.raises(ConfigError):
            decode(image)
    else:
        assert x.dtype == torch.float32
        agrees(x[1], truth, name, decode)


@pytest.mark.parametrize(
    "image",
    [DEEP, COLOURS, GREY > 127, Image.fromarray(DEEP), (COLOURS / 255).tolist()],
    ids=["deep", "colours", "bits", "pil", "list"],
)
def test_workers_take_the_same_images(image):
    one, two = (read([image] * 4, Decode(), workers) for workers in (0, 2))
    assert one.dtype == two.dtype == torch.float32 and torch.equal(one, two)
    right = Decode()(image, "an image")
    right = right / 255 if right.dtype == torch.uint8 else right
    assert torch.equal(one[3], right)


def test_workers_refuse_the_same_images():
    with pytest.raises(ConfigError, match=r"^Samples\[0\] is a ndarray of int64"):
        read([COLOURS.astype(int)] * 4, Decode(), 2)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["u1", "u2", "b1"])
def test_grey_arrays_are_images_without_an_op_for_images(order, kind):
    """Of any byte order; floats of two axes may be a series."""
    image = GREY.astype(f"{order}{kind}")
    x = read([image], Decode(), ops=())
    assert x.shape == (1, 1, 9, 7) and x.dtype == torch.float32
    largest = {"u1": 255, "u2": 65535, "b1": 1}[kind]
    assert x.max().item() == pytest.approx(float(image.max()) / largest)


OTHER = {
    "series": numpy.random.rand(3, 50),
    "big-endian series": numpy.random.rand(3, 50).astype(">f4"),
    "long doubles": numpy.random.rand(50).astype("g"),
    "volume": numpy.random.randint(0, 9, (2, 4, 5, 6)),
    "video": torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8),
    "tokens": torch.arange(12),
    "tokens in a list": list(range(12)),
}


@pytest.mark.parametrize("entry", OTHER.values(), ids=OTHER)
def test_data_of_other_kinds_come_as_they_are(entry):
    x = read([entry, entry], Decode(), ops=())
    right = torch.as_tensor(numpy.asarray(entry).astype(float))
    assert x.shape == (2, *right.shape)
    assert (x.double() == right).all()
    assert torch.equal(x, read([entry, entry], Decode(images=False), ops=()))
