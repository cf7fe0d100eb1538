"""Draw assets/logo.svg and assets/logo.png: `python assets/logo.py`.

Two views of one point, drawn together on the sphere that features live on.
"""

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Arc, Circle, PathPatch
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

INK, BLUE, ORANGE, PALE = "#1f2a37", "#0072B2", "#D55E00", "#b8c1cb"
WIDTH, HEIGHT = 8.0, 2.0  # inches; one unit of the drawing is an inch
CENTRE, RADIUS = np.array([1.1, 1.0]), 0.68
MEETING = 45  # degrees: where the views are drawn to


def on_sphere(degrees):
    """Return the point of the circle at an angle."""
    angle = np.radians(degrees)
    return CENTRE + RADIUS * np.array([np.cos(angle), np.sin(angle)])


figure = Figure(figsize=(WIDTH, HEIGHT), facecolor="white")
axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
axes.set_axis_off()
axes.add_patch(Circle(CENTRE, RADIUS, fill=False, edgecolor=PALE, linewidth=2.5))
for side, colour in ((1, BLUE), (-1, ORANGE)):
    start = MEETING + 80 * side
    between = sorted((start, MEETING))
    arc = Arc(CENTRE, 2 * RADIUS, 2 * RADIUS, theta1=between[0], theta2=between[1])
    arc.set(color=colour, linewidth=6)
    axes.add_patch(arc)
    axes.add_patch(Circle(on_sphere(start), 0.13, color=colour, linewidth=0, zorder=3))
for degrees in (182, 225, 268):
    axes.add_patch(Circle(on_sphere(degrees), 0.075, color=PALE, linewidth=0, zorder=3))
meeting = Circle(on_sphere(MEETING), 0.16, zorder=3)
meeting.set(facecolor="white", edgecolor=INK, linewidth=5)
axes.add_patch(meeting)

x, bold = 2.3, FontProperties(family="DejaVu Sans", weight="bold")
for text, colour in (("stable", INK), ("-SSL", BLUE)):
    path = TextPath((0, 0), text, size=0.88, prop=bold)
    place = Affine2D().translate(x, 0.68)
    axes.add_patch(PathPatch(path.transformed(place), color=colour, linewidth=0))
    x += path.get_extents().x1 + 0.06

with rc_context({"svg.hashsalt": "stable-SSL"}):  # equal files from equal drawings
    for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        figure.savefig(
            Path(__file__).with_name(f"logo.{kind}"), dpi=100, metadata=metadata
        )
