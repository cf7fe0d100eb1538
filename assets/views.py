"""Draw assets/views.png, our views beside torchvision's: `python assets/views.py`.

Each op draws its parameters for a batch; torchvision's functions are given the same,
image by image. A row's label tells the largest difference, in steps of 8-bit images.
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_images
from torchvision.transforms import functional as F

from stable_ssl.augment import build_ops
from stable_ssl.seeding import sample_keys

INK, GREY = "#1f2a37", "#6b7785"
SQUARES = ((0, 15, 20), (1, 15, 105), (0, 25, 238))  # photograph, top, left
SIDE, PAIR, LEFT, TOP, STEP = 96, 216, 190, 40, 122  # pixels of the picture
COLOURS = ("brightness", "contrast", "saturation", "hue")


def crop(x, box):
    """Cut the drawn box out and resize it."""
    return F.resized_crop(x, *box, [SIDE, SIDE])


def jitter(x, on, order, factor):
    """Adjust the colours in the drawn order."""
    for op, value in zip(order, factor, strict=True):
        x = getattr(F, f"adjust_{COLOURS[op]}")(x, value)
    return x


ROWS = [  # our op; torchvision's, of an image and the drawn parameters; their caption
    (
        {"name": "random_resized_crop", "size": SIDE, "scale": [0.2, 0.8]},
        crop,
        "{box[3]} x {box[2]} at {box[1]}, {box[0]}",
    ),
    (
        {"name": "color_jitter", **dict.fromkeys(COLOURS[:3], 0.6), "hue": 0.2},
        jitter,
        ", ".join(f"{{order[{i}]:.3}} {{factor[{i}]:.2f}}" for i in range(4)),
    ),
    ({"name": "grayscale", "p": 1}, lambda x, on: F.rgb_to_grayscale(x, 3), ""),
    (
        {"name": "gaussian_blur", "kernel_size": 11, "sigma": [0.5, 3]},
        lambda x, on, sigma: F.gaussian_blur(x, [11, 11], [sigma, sigma]),
        "sigma {sigma:.2f}",
    ),
    ({"name": "solarize", "p": 1}, lambda x, on: F.solarize(x, 0.5), ""),
    (
        {"name": "rotation", "degrees": 45},
        lambda x, angle: F.rotate(x, angle, F.InterpolationMode.BILINEAR),
        "{angle:.0f} degrees",
    ),
]
width, height = LEFT + len(SQUARES) * PAIR, TOP + len(ROWS) * STEP
figure = Figure((width / 100, height / 100), dpi=100, facecolor="white")


def write(x, y, text, color=INK, **style):
    """Write at pixels from the left and the top."""
    figure.text(x / width, 1 - y / height, text, color=color, va="center", **style)


photos = [torch.tensor(photo).permute(2, 0, 1) for photo in load_sample_images().images]
squares = [photos[i][:, top : top + 400, left : left + 400] for i, top, left in SQUARES]
x = F.resize(torch.stack(squares) / 255, [SIDE, SIDE])
for row, (spec, reference, caption) in enumerate(ROWS):
    (op,), y, worst = build_ops([spec]), TOP + row * STEP, 0.0
    params = op.draw(sample_keys(0, 0, torch.arange(len(x)), row), SIDE, SIDE)
    for i, ours in enumerate(op.apply(x, **params)):
        drawn = {name: p[i].tolist() for name, p in params.items()}
        theirs = reference(x[i], **drawn)
        worst = max(worst, 255 * float((ours - theirs).abs().max()))
        for left, view, name in ((0, ours, "ours"), (SIDE + 2, theirs, "torchvision")):
            left, pixels = left + LEFT + i * PAIR, view.clamp(0, 1).permute(1, 2, 0)
            figure.figimage(pixels.numpy(), left, height - y - SIDE, origin="upper")
            if row == 0:
                write(left + SIDE / 2, TOP - 14, name, ha="center", size=9)
        if "order" in drawn:
            drawn["order"] = [COLOURS[op] for op in drawn["order"]]
        centre = LEFT + i * PAIR + SIDE + 1
        text = caption.format(**drawn)
        write(centre, y + SIDE + 10, text, color=GREY, ha="center", size=7)
    write(12, y + SIDE / 2 - 9, spec["name"].replace("_", " "), size=10, weight="bold")
    write(12, y + SIDE / 2 + 9, f"off by {worst:.1g} / 255", color=GREY, size=8)
    print(f"{spec['name']:20} {worst:.1g} / 255")
figure.savefig(Path(__file__).with_suffix(".png"), metadata={"Software": None})
