"""Every op is torchvision's, image by image, whatever the batch; so are its draws."""

import math

import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from stable_ssl import augment, seeding
from stable_ssl.augment import OPS, View, build_ops
from stable_ssl.config import ConfigError
from stable_ssl.data.build import build_views

TOLERANCE = 1e-4  # a grey level is 4e-3
KEYS = seeding.sample_keys(0, 0, torch.arange(4000))
SIMCLR = (
    {"name": "random_resized_crop", "size": 24, "scale": (0.2, 1.0)},
    {"name": "horizontal_flip"},
    {
        "name": "color_jitter",
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.4,
        "hue": 0.1,
        "p": 0.8,
    },
    {"name": "grayscale", "p": 0.2},
    {"name": "gaussian_blur", "kernel_size": 5, "p": 0.5},
    {"name": "solarize", "threshold": 0.5, "p": 0.2},
    {"name": "normalize", "mean": (0.49, 0.48, 0.45), "std": (0.25, 0.24, 0.26)},
)


def pictures(n=12, channels=3, height=32, width=32, dtype=torch.uint8):
    """Blocks, greys, black and white beside noise: hues and edges at their limits."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, channels, height, width), generator=generator)
    x[1::3] = (x[1::3] // 128) * 255
    x[2::3, :, : height // 2] = x[2::3, :1, : height // 2]
    x[2::3, :, :2], x[2::3, :, -2:] = 0, 255
    return x.byte() if dtype == torch.uint8 else x.float() / 255


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def close(ours, theirs, tolerance=TOLERANCE):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance


def against(op, x, reference):
    """Compare op with reference(image (C, H, W), **its own parameters) per image."""
    params = op.draw(KEYS[: len(x)], *x.shape[-2:])
    before = x.clone()
    ours = op.apply(x, **params)
    assert torch.equal(x, before)
    assert ours.dtype == torch.float32
    theirs = [
        reference(image, **{name: value[i].tolist() for name, value in params.items()})
        for i, image in enumerate(x)
    ]
    close(ours, torch.stack(theirs))
    assert tuple(ours.shape[-2:]) == op.out_size(*x.shape[-2:])


# --- as torchvision at the same parameters --------------------------------------------

SHAPES = [(32, 32, 32), (28, 20, 24), (17, 33, (40, 21)), (130, 120, 112)]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("height, width, size", SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_random_resized_crop(interpolation, height, width, size, channels):
    op = augment.RandomResizedCrop(size, interpolation=interpolation)

    def reference(image, box):
        mode = InterpolationMode(interpolation)
        return TF.resized_crop(image, *box, op.size, mode, antialias=True).clamp(0, 1)

    against(op, pictures(12, channels, height, width, torch.float32), reference)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [32, 130])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["random_resized_crop", "resize"])
def test_bytes_are_resized_as_floats_or_as_pil(name, interpolation, side, channels):
    """Small images as floats, with the same bits; large ones as PIL does, to a byte."""
    (op,) = build_ops([{"name": name, "size": 40, "interpolation": interpolation}])
    x, keys = pictures(12, channels, side, side), KEYS[:12]
    expected = op(x.float().div_(255), seeding.fold_in(keys, 0))
    if side > 96:
        whole = torch.tensor([[0, 0, side, side]]).expand(12, -1)
        drawn = op.draw(seeding.fold_in(keys, 0), side, side).get("box", whole)
        for i, (top, left, height, width) in enumerate(drawn.tolist()):
            box = (left, top, left + width, top + height)
            mode = Image.Resampling[interpolation.upper()]
            image = TF.to_pil_image(x[i]).crop(box).resize((40, 40), mode)
            expected[i] = TF.to_tensor(image)
    for images in (x, x.to(memory_format=torch.channels_last)):
        before = images.clone()
        close(View([op])(images, keys), expected, 1.01 / 255 if side > 96 else 0)
        assert torch.equal(images, before)


@pytest.mark.parametrize("size", [24, 50, (20, 40)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("height, width", [(32, 32), (47, 33), (33, 47)])
def test_resize(size, interpolation, height, width):
    mode = InterpolationMode(interpolation)
    op = augment.Resize(size, interpolation)
    x = pictures(6, 3, height, width, torch.float32)
    against(op, x, lambda image: TF.resize(image, size, mode).clamp(0, 1))
    assert op.fixes_size == (not isinstance(size, int))


@pytest.mark.parametrize("size", [32, 20, 21, (40, 11), 45])
def test_center_crop(size):
    x = pictures(3, 3, 32, 29, torch.float32)
    against(augment.CenterCrop(size), x, lambda image: TF.center_crop(image, size))


@pytest.mark.parametrize("height, width", [(32, 32), (8, 8), (20, 31)])
def test_rotation_and_shear(height, width):
    x = pictures(12, 3, height, width, torch.float32)
    mode = InterpolationMode.BILINEAR
    against(augment.Rotation(90), x, lambda image, angle: TF.rotate(image, angle, mode))
    against(
        augment.Shear(30),
        x,
        lambda image, angle: TF.affine(image, 0, [0, 0], 1, [angle, 0], mode),
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_horizontal_flip_grayscale_and_solarize(channels):
    x = pictures(12, channels, dtype=torch.float32)
    against(augment.HorizontalFlip(), x, lambda i, on: TF.hflip(i) if on else i)
    against(
        augment.Grayscale(0.5),
        x,
        lambda i, on: TF.rgb_to_grayscale(i, channels) if on else i,
    )
    for threshold in (0, 128 / 255, 0.7, 1):
        op = augment.Solarize(threshold, 0.5)
        against(op, x, lambda i, on, t=threshold: TF.solarize(i, t) if on else i)


@pytest.mark.parametrize("kernel_size", [1, 3, 23, (5, 9)])
@pytest.mark.parametrize(
    "height, width", [(32, 32), (13, 20), (100, 120), (224, 96), (33, 65)]
)
def test_gaussian_blur(kernel_size, height, width):
    def reference(image, on, sigma):
        return TF.gaussian_blur(image, kernel_size, [sigma] * 2) if on else image

    op = augment.GaussianBlur(kernel_size, p=0.7)
    against(op, pictures(6, 3, height, width, torch.float32), reference)


def jitter(image, on, order, factor):
    adjust = (
        TF.adjust_brightness,
        TF.adjust_contrast,
        TF.adjust_saturation,
        TF.adjust_hue,
    )
    for colour, amount in zip(order, factor, strict=True):
        image = adjust[colour](image, amount) if on else image
    return image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "amounts",
    [
        (0.4, 0.4, 0.4, 0.1),
        (0.8, 0.8, 0.8, 0.5),
        (0, 0, 0, 0.5),
        (0.4, 0, 0, 0.2),
        (0.4, 0.9, 0, 0),
        ((0.0, 3.0), 0.5, (0.0, 2.0), (-0.2, 0.4)),
        (0, 0, 0, 0),
    ],
)
def test_color_jitter(amounts, channels):
    x = pictures(60, channels, 12, 10, torch.float32)
    against(augment.ColorJitter(*amounts, p=0.8), x, jitter)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_single_colour_ops(name):
    op = OPS[name](0.6, p=0.5)
    against(op, pictures(12, dtype=torch.float32), jitter)
    assert op.draw(KEYS[:5], 8, 8)["order"].unique().tolist() == [
        ["brightness", "contrast", "saturation"].index(name)
    ]


def test_hue_of_every_colour():
    """All hues, saturations and values on a grid, turned by all amounts."""
    steps = torch.linspace(0, 1, 18)
    grid = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij")).flatten(2)
    against(OPS["hue"](0.5), grid.expand(40, -1, -1, -1).contiguous(), jitter)


def test_normalize():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    x = pictures(3, dtype=torch.float32)
    reference = lambda image: TF.normalize(image, mean, std)  # noqa: E731
    against(augment.Normalize(mean, std), x, reference)
    close(augment.Normalize(0.5, 2)(x, KEYS[:3]), (x - 0.5) / 2, 0)


@pytest.mark.parametrize("value", [0.0, (0.1, 0.2, 0.3)])
def test_erasing(value):
    def reference(image, on, box, keys):
        fill = torch.tensor(value).view(-1, 1, 1)
        return TF.erase(image, *box, fill) if on else image

    against(
        augment.Erasing(0.7, value=value), pictures(12, dtype=torch.float32), reference
    )


def test_erasing_with_noise():
    x = torch.full((50, 3, 32, 32), 9.0)
    op = augment.Erasing(1.0, value="random")
    erased = op(x, KEYS[:50])
    noise = erased[erased != 9]
    assert len(noise) > 1000
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-3


def test_noise():
    x = torch.full((50, 3, 16, 16), 0.5)
    noise = (augment.Noise(0.1, clamp=False)(x, KEYS[:50]) - x) / 0.1
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    assert not torch.equal(noise[0], noise[1])
    clamped = augment.Noise(2.0)(x, KEYS[:50])
    assert clamped.min() == 0 and clamped.max() == 1


# --- drawn as torchvision draws -------------------------------------------------------


def same_distribution(ours, theirs):
    theirs = torch.tensor(theirs).double()
    result = stats.ks_2samp(ours.double().numpy(), theirs.numpy())
    assert result.pvalue > 1e-3


@pytest.mark.parametrize("height, width", [(32, 32), (224, 256), (32, 100)])
@pytest.mark.parametrize(
    "scale, ratio", [((0.08, 1.0), (3 / 4, 4 / 3)), ((1.0, 1.0), (2, 3))]
)
def test_crop_boxes(height, width, scale, ratio):
    torch.manual_seed(0)
    ours = augment.RandomResizedCrop(8, scale, ratio).draw(KEYS, height, width)["box"]
    image = torch.zeros(1, height, width)
    theirs = [T.RandomResizedCrop.get_params(image, scale, ratio) for _ in range(2000)]
    for drawn, values in zip(ours.unbind(1), zip(*theirs, strict=True), strict=True):
        same_distribution(drawn, values)
    same_distribution(ours[:, 2] * ours[:, 3], [h * w for _, _, h, w in theirs])
    start, length = ours.split(2, 1)
    assert (start >= 0).all() and (length > 0).all()
    assert (start + length <= torch.tensor([height, width])).all()


@pytest.mark.parametrize("height, width", [(10, 100), (100, 10), (50, 50)])
def test_a_box_that_never_fits_is_the_central_one(height, width):
    scale, ratio = (1.0, 1.0), ((3 / 4, 4 / 3) if height != width else (1.5, 2.0))
    op = augment.RandomResizedCrop(8, scale, ratio)
    ours = op.draw(KEYS[:20], height, width)["box"]
    image = torch.zeros(1, height, width)
    theirs = T.RandomResizedCrop.get_params(image, scale, ratio)
    assert (ours == torch.tensor(theirs)).all()


@pytest.mark.parametrize("height, width", [(32, 32), (64, 40)])
@pytest.mark.parametrize("ratio", [(0.3, 3.3), (2.0, 3.0)])
def test_erased_boxes(height, width, ratio):
    torch.manual_seed(0)
    op = augment.Erasing(1.0, ratio=ratio)
    ours = op.draw(KEYS, height, width)
    image = torch.zeros(1, height, width)
    theirs = [
        T.RandomErasing.get_params(image, op.scale, op.ratio, [0.0])[:4]
        for _ in range(2000)
    ]
    boxes = ours["box"][ours["on"]]
    for drawn, values in zip(boxes.unbind(1), zip(*theirs, strict=True), strict=True):
        same_distribution(drawn, values)


def test_colour_factors_and_orders():
    torch.manual_seed(0)
    op = augment.ColorJitter(0.4, (0.2, 0.5), 1.5, 0.1, p=0.8)
    ours = op.draw(KEYS, 8, 8)
    theirs = T.ColorJitter(0.4, (0.2, 0.5), 1.5, 0.1)
    ranges = (theirs.brightness, theirs.contrast, theirs.saturation, theirs.hue)
    draws = [theirs.get_params(*ranges) for _ in range(2000)]
    factors = torch.zeros(len(KEYS), 4).scatter_(1, ours["order"], ours["factor"])
    for i in range(4):
        same_distribution(factors[:, i], [d[1 + i] for d in draws])
    codes = (ours["order"] * torch.tensor([64, 16, 4, 1])).sum(1)
    counts = codes.unique(return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    assert stats.binomtest(int(ours["on"].sum()), len(KEYS), 0.8).pvalue > 1e-3
    first = factors[ours["order"][:, 0] == 3]  # factors know nothing of the order
    assert stats.ks_2samp(first[:, 3].numpy(), factors[:, 3].numpy()).pvalue > 1e-3


@pytest.mark.parametrize(
    "op, name, low, high",
    [
        (augment.Rotation(30), "angle", -30, 30),
        (augment.Rotation((10, 20)), "angle", 10, 20),
        (augment.GaussianBlur(3, (0.1, 2.0)), "sigma", 0.1, 2.0),
    ],
)
def test_uniform_parameters(op, name, low, high):
    draw = op.draw(KEYS, 8, 8)[name].numpy()
    assert stats.kstest(draw, "uniform", (low, high - low)).pvalue > 1e-3


@pytest.mark.parametrize(
    "name", ["horizontal_flip", "grayscale", "gaussian_blur", "solarize", "erasing"]
)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_probabilities(name, p):
    arguments = {"kernel_size": 3} if name == "gaussian_blur" else {}
    on = OPS[name](p=p, **arguments).draw(KEYS, 64, 64)["on"]
    if p in (0, 1):
        assert (on == bool(p)).all()
    else:
        assert stats.binomtest(int(on.sum()), len(KEYS), p).pvalue > 1e-3


# --- an image has the same bits in every batch ----------------------------------------

EVERY = [
    *SIMCLR,
    {"name": "random_resized_crop", "size": 17, "interpolation": "bicubic"},
    {"name": "random_resized_crop", "size": 100},
    {"name": "resize", "size": 19},
    {"name": "resize", "size": (40, 17), "interpolation": "bicubic"},
    {"name": "center_crop", "size": 20},
    {"name": "rotation", "degrees": 40},
    {"name": "shear", "degrees": 20},
    {"name": "brightness", "amount": 0.4},
    {"name": "contrast", "amount": 0.4},
    {"name": "saturation", "amount": 0.4},
    {"name": "hue", "amount": 0.4},
    {"name": "gaussian_blur", "kernel_size": (7, 23)},
    {"name": "noise", "std": 0.1},
    {"name": "erasing", "value": "random"},
]


def in_batches(view, images, keys, size):
    parts = zip(images.split(size), keys.split(size), strict=True)
    return torch.cat([view(image.clone(), key.clone()) for image, key in parts])


@pytest.mark.parametrize("spec", EVERY, ids=lambda spec: spec["name"])
@pytest.mark.parametrize(
    "channels, side", [(3, 32), (3, 29), (1, 13), (1, 96), (3, 110), (3, 224)]
)
def test_batches_and_threads_change_no_bit(spec, channels, side, monkeypatch):
    if spec["name"] == "normalize":
        spec = {"name": "normalize", "mean": 0.4, "std": 0.2}
    view, n = View(build_ops([spec])), 64 if side < 100 else 16
    images, keys = pictures(n, channels, side, side), KEYS[:n]
    whole = view(images, keys)
    for size in (1, 7):
        assert torch.equal(in_batches(view, images, keys, size), whole)
    torch.set_num_threads(2)
    assert torch.equal(view(images, keys), whole)
    assert torch.equal(in_batches(view, images[:2], keys[:2], 1), whole[:2])
    monkeypatch.setattr(augment.view, "CHUNK", 5 * images[0].numel())
    assert torch.equal(view(images, keys), whole)


def test_images_of_a_batch_are_drawn_apart():
    images = pictures(1).expand(16, -1, -1, -1)
    view = View(build_ops(SIMCLR))(images, KEYS[:16])
    assert len({tuple(image.flatten().tolist()) for image in view}) == 16


# --- views ----------------------------------------------------------------------------


def test_a_view_is_its_ops_in_turn():
    ops, images, keys = build_ops(SIMCLR), pictures(20), KEYS[:20]
    x = images.float() / 255
    for i, op in enumerate(ops):
        x = op(x, seeding.fold_in(keys, i))
    whole = View(ops)(images, keys)
    assert torch.equal(whole, x)
    assert whole.is_contiguous()
    two_parts = View(ops[2:], first=2)(View(ops[:2])(images, keys), keys)
    assert torch.equal(two_parts, whole)


def test_a_view_without_ops_scales_bytes_only():
    images = pictures(3)
    assert torch.equal(View([])(images, KEYS[:3]), images.float() / 255)
    floats = torch.rand(3, 3, 4, 4, dtype=torch.float64)
    assert torch.equal(View([])(floats, KEYS[:3]), floats.float())
    assert View(build_ops(SIMCLR))(images[:0], KEYS[:0]).shape[0] == 0


def test_a_view_draws_nothing_from_the_global_generator():
    state = torch.get_rng_state()
    View(build_ops(EVERY[:-7]))(pictures(8), KEYS[:8])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_view_takes_any_memory_format():
    images, ops = pictures(9), build_ops(SIMCLR)
    strided = images.to(memory_format=torch.channels_last)
    assert torch.equal(View(ops)(strided, KEYS[:9]), View(ops)(images, KEYS[:9]))


# --- words ----------------------------------------------------------------------------


def test_the_registry_builds_every_op():
    ops = build_ops([*EVERY, None])
    assert len(ops) == len(EVERY)
    assert {spec["name"] for spec in EVERY} == set(OPS)
    assert {type(op) for op in ops} == {op for op in OPS.values() if type(op) is type}


@pytest.mark.parametrize(
    "spec, words",
    [
        ({"name": "color_jiter"}, "did you mean 'color_jitter'"),
        ({"p": 0.5}, "mapping with a name"),
        ("horizontal_flip", "mapping with a name"),
        ({"name": "horizontal_flip", "prob": 1}, "takes no 'prob': it takes p"),
        ({"name": "horizontal_flip", "p": 2}, "p=2: .*between 0 and 1"),
        ({"name": "random_resized_crop"}, "size"),
        ({"name": "random_resized_crop", "size": 0}, "size=0: .*positive"),
        ({"name": "random_resized_crop", "size": 8, "scale": [1, 0.2]}, "low <= high"),
        ({"name": "random_resized_crop", "size": 8, "interpolation": "box"}, "bicubic"),
        ({"name": "color_jitter", "hue": 0.6}, "hue=0.6: .*0.5"),
        ({"name": "color_jitter", "contrast": -1}, "contrast=-1: .*not negative"),
        ({"name": "gaussian_blur", "kernel_size": 4}, "odd"),
        ({"name": "gaussian_blur", "kernel_size": 3, "sigma": 0}, "sigma=0"),
        ({"name": "solarize", "threshold": 128}, "threshold=128"),
        ({"name": "normalize", "mean": [0, 0], "std": [1]}, "one positive std"),
        ({"name": "normalize", "mean": 0, "std": 0}, "one positive std"),
        ({"name": "erasing", "value": "noise"}, "random"),
        ({"name": "noise", "std": "much"}, "noise: std=much: expected a number"),
        ({"name": "noise", "std": [0.1, 0.2]}, r"std=\[0.1, 0.2\]: expected a number"),
        ({"name": "hue"}, "hue: .*missing .*'amount'; it takes amount, p"),
        ({"name": "hue", "amount": -0.1}, "hue=-0.1: .*not negative"),
    ],
)
def test_wrong_specs_are_refused_in_words(spec, words):
    with pytest.raises(ValueError, match=words):
        build_ops([spec])


@pytest.mark.parametrize(
    "spec, images, words",
    [
        (
            {"name": "gaussian_blur", "kernel_size": 23},
            pictures(2, 3, 8, 8),
            "at most 15",
        ),
        (
            {"name": "normalize", "mean": [0, 0], "std": [1, 1]},
            pictures(2),
            "3 channels",
        ),
        ({"name": "brightness", "amount": 1}, pictures(2, 4), "4 channels"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_words(spec, images, words):
    with pytest.raises(ValueError, match=words):
        View(build_ops([spec]))(images, KEYS[:2])


@pytest.mark.parametrize("channels, side", [(3, 32), (1, 13), (3, 110)])
@pytest.mark.parametrize("spec", EVERY, ids=lambda spec: spec["name"])
def test_the_path_of_a_gpu_gives_the_same(spec, channels, side, monkeypatch):
    """What a GPU does to avoid waiting, done on the CPU."""
    if spec["name"] == "normalize":
        spec = {"name": "normalize", "mean": 0.4, "std": 0.2}
    view, images = View(build_ops([spec])), pictures(12, channels, side, side)
    expected = view(images, KEYS[:12])
    for module in vars(augment).values():
        if hasattr(module, "on_gpu"):
            monkeypatch.setattr(module, "on_gpu", lambda x: True)
    largest = max(side, int(torch.tensor(spec.get("size", 0)).max()))
    if largest <= 96 or spec["name"] not in ("random_resized_crop", "resize"):
        close(view(images, KEYS[:12]), expected, 1e-4)
    elif spec.get("interpolation") != "bicubic":  # large, of bytes on a CPU
        close(view(images, KEYS[:12]), expected, 1.6 / 255)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spec", EVERY, ids=lambda spec: spec["name"])
def test_on_a_gpu_no_op_waits_for_a_value(spec, channels):
    """Tensors on the device meta have no values that could be waited for."""
    if spec["name"] == "normalize":
        spec = {"name": "normalize", "mean": 0.4, "std": 0.2}
    images, keys = pictures(2, channels).to("meta"), KEYS[:2].to("meta")
    view = View(build_ops([spec]))(images, keys)
    assert view.device.type == "meta" and view.shape[:2] == (2, channels)


KERNEL = """
import torch
from stable_ssl.augment import ColorJitter
from stable_ssl.augment.triton_colour import jitter
from stable_ssl.seeding import sample_keys

keys, x = sample_keys(0, 1, torch.arange(16)), torch.rand(16, 3, 37, 41)
for amounts in [(0.4, 0.4, 0.4, 0.2), (0.4, 0, 0, 0), (0, 0.8, 0, 0.5), (0, 0, 0.8, 0)]:
    op = ColorJitter(*amounts, p=0.8)
    drawn = op.draw(keys, 37, 41)
    whole = jitter(x, **drawn)
    torch.testing.assert_close(whole, op.apply(x, **drawn), atol=2e-6, rtol=0)
    alone = jitter(x[3:4], **{name: value[3:4] for name, value in drawn.items()})
    assert torch.equal(alone, whole[3:4])
"""


def test_the_kernel_of_a_gpu_jitters_as_the_cpu(shell):
    pytest.importorskip("triton")
    done = shell("-c", KERNEL, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("spec", EVERY, ids=lambda spec: spec["name"])
def test_the_gpu_makes_the_same_views(spec):
    view, images, keys = View(build_ops([spec])), pictures(64), KEYS[:64]
    there = view(images.cuda(), keys.cuda())
    close(there.cpu(), view(images, keys))
    alone = in_batches(view, images.cuda(), keys.cuda(), 1)
    assert torch.equal(alone, there)


def test_shapes_of_draws():
    for op in build_ops(EVERY):
        for value in op.draw(KEYS[:6], 32, 40).values():
            assert len(value) == 6
            assert not (value.is_floating_point() and math.isnan(value.sum()))


# --- values from 0 to 1 ---------------------------------------------------------------

NORMALIZE = {"name": "normalize", "mean": 0.5, "std": 0.25}
TORCHVISION = {"_target_": "torchvision.transforms.v2.Normalize", "mean": [0.5] * 3}
TORCHVISION |= {"std": [0.25] * 3}
BICUBIC = {"size": 8, "interpolation": "bicubic"}


@pytest.mark.parametrize(
    "before",
    [
        NORMALIZE,
        TORCHVISION,
        {
            "_target_": "torchvision.transforms.v2.Compose",
            "transforms": [TORCHVISION],
        },
        {"name": "noise", "std": 0.1, "clamp": False},
        {"name": "erasing", "value": "random"},
        {"name": "erasing", "value": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "spec",
    [
        {"name": "noise", "std": 0.1},
        {"name": "color_jitter", "hue": 0.1},
        {"name": "solarize"},
        {"name": "resize", **BICUBIC},
        {"name": "random_resized_crop", **BICUBIC},
    ],
    ids=lambda spec: spec["name"],
)
def test_what_needs_values_from_0_to_1_is_refused_after_others(before, spec):
    flip = {"name": "horizontal_flip"}
    left = before.get("name") or before["_target_"].rpartition(".")[2]
    words = f"{spec['name']} comes after {left}.*move {left} behind it"
    with pytest.raises(ConfigError, match=words):
        build_views([[flip], [before, flip, spec]])
    if "_target_" not in before:  # those of other libraries come first
        assert len(build_views([spec, flip, before])[0]) == 3


def test_what_does_not_count_on_the_range_follows_any_op():
    moved = [{"name": "horizontal_flip"}, {"name": "rotation", "degrees": 9}]
    moved += [{"name": "resize", "size": 9}, {"name": "center_crop", "size": 8}]
    moved += [{"name": "gaussian_blur", "kernel_size": 3}, {"name": "grayscale"}]
    moved += [{"name": "noise", "std": 1, "clamp": False}, {"name": "color_jitter"}]
    moved += [{"name": "solarize", "p": 0}]
    assert build_views([NORMALIZE, *moved])
    same = {"name": "normalize", "mean": 0, "std": 1}
    assert build_views([same, {"name": "solarize"}])
