"""Learning curves: two files, reproducible, with panels for what there is."""

import matplotlib
import pytest
from matplotlib.image import imread

from stable_ssl import report


def size(path):
    """Return width and height of a figure in inches."""
    height, width = imread(path).shape[:2]
    return width / 200, height / 200


def test_two_panels_of_a_page_width(make_run):
    run = make_run()
    pdf, png = report.learning_curves(run)
    assert [pdf.name, png.name] == ["learning_curves.pdf", "learning_curves.png"]
    assert pdf.parent == run / "figures"
    assert size(png) == (6.75, 2.5)
    assert b"/FontFile2" in pdf.read_bytes() and b"/Type3" not in pdf.read_bytes()


def test_equal_runs_give_equal_files_whatever_the_settings(make_run, tmp_path):
    run = make_run()
    first = [path.read_bytes() for path in report.learning_curves(run, tmp_path / "1")]
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        again = [p.read_bytes() for p in report.learning_curves(run, tmp_path / "2")]
        assert dict(matplotlib.rcParams) == before
    assert again == first
    assert b"CreationDate" not in first[0]


@pytest.mark.parametrize(
    ("row", "width"),
    [
        ({"train/loss": 2.0}, 3.375),
        ({"val/acc1": 0.5}, 3.375),
        ({"test/acc1": 0.5, "train/loss": float("nan")}, 6.75),
    ],
)
def test_a_single_row_draws_the_panels_it_has(make_run, row, width):
    run = make_run(rows=[{"step": 1, "epoch": 1, "time": 0} | row])
    _, png = report.learning_curves(run)
    assert size(png)[0] == pytest.approx(width, abs=0.01)


def test_nothing_to_draw_leaves_nothing_behind(make_run):
    run = make_run(rows=[{"step": 1, "epoch": 1, "time": 0, "test/few2_acc1": 0.5}])
    assert report.learning_curves(run) == []
    assert not (run / "figures").exists()
