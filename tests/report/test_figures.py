"""Figures across runs: what stands in them, at which size, the same twice."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from stable_ssl import report
from stable_ssl.config import ConfigError
from stable_ssl.tools.drawing import Scale


@pytest.fixture
def study(make_study, tmp_path):
    """Return the frames of 2 methods, 3 learning rates, 2 weight decays, 2 seeds."""
    rng = np.random.default_rng(0)
    for method in ("simclr", "vicreg"):
        for lr in (0.01, 0.1, 1.0):
            for decay in (0.0, 1e-4):
                for seed in (0, 1):
                    values = (0.5 + 0.1 * rng.random(4)).cumsum() / 3
                    make_study(
                        f"{method}{lr}{decay}{seed}",
                        [*values.clip(0, 1)],
                        model__name=method,
                        optim__lr=lr,
                        optim__weight_decay=decay,
                        hardware__seed=seed,
                    )
    return report.load(tmp_path / "study")


def some(runs, **keys):
    """Return the runs with these values of keys."""
    for key, value in keys.items():
        runs = runs[runs[key.replace("__", ".")] == value]
    return runs


def words(figure):
    """Return all words that a figure shows: [(text, box in pixels)]."""
    figure.draw_without_rendering()
    found = [t for legend in figure.legends for t in legend.get_texts()]
    for axes in figure.axes:
        found += axes.texts
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = (t for t in axis.get_major_ticks() if low <= t.get_loc() <= high)
            found += [
                axis.label,
                *(t.label1 for t in ticks),
                *(t.label2 for t in ticks),
            ]
    shown = [t for t in found if t.get_visible() and t.get_text()]
    return [(t.get_text(), t.get_window_extent()) for t in shown]


def test_a_curve_is_the_mean_over_seeds_and_its_band_their_spread(study):
    runs, rows = study
    chosen = some(runs, optim__lr=0.1, optim__weight_decay=0.0)
    figure = report.curves(chosen, rows, value="val/knn_acc1")
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["SimCLR", "VICReg"]
    own = rows[rows["run"].isin(chosen["run"][chosen["model.name"] == "simclr"])]
    values = own.dropna(subset="val/knn_acc1").pivot(
        index="epoch", columns="run", values="val/knn_acc1"
    )
    x, y = axes.lines[0].get_data()
    assert list(x) == [1, 2, 3, 4]
    np.testing.assert_allclose(y, 100 * values.mean(axis=1), rtol=1e-12)
    edge = axes.collections[0].get_paths()[0].vertices
    high = (100 * (values.mean(axis=1) + values.std(axis=1))).iloc[1]
    assert np.abs(edge - [2, high]).sum(1).min() < 1e-9
    assert axes.get_ylabel() == "val kNN accuracy (%)"


def test_what_matters_late_has_room_where_accuracies_start_at_chance(
    make_study, tmp_path
):
    values = [0.1, 0.5, 0.9, 0.98, 1.0]
    make_study("a", values, hardware__seed=0)
    make_study("b", [value - 0.02 for value in values], hardware__seed=1)
    runs, rows = report.load(tmp_path / "study")
    figure = report.curves(runs, rows, interval="ci95")  # which leads beyond 100 %
    (axes,) = figure.axes
    low, *_, ninety, high = axes.transAxes.inverted().transform(
        axes.transData.transform([[1, value] for value in (9, 50, 90, 98)])
    )[:, 1]
    assert 0 <= low < ninety < high - 0.12  # 0.08 of a linear axis
    assert axes.get_ylim()[1] <= 100
    assert {"10", "50", "90", "98"} <= {*dict(words(figure))}


def test_accuracies_near_one_another_have_an_even_axis(study):
    runs, rows = study
    axes = report.curves(runs, rows, value="val/knn_acc1").figure.axes[0]
    assert axes.get_yscale() == "linear"


def test_a_mean_ends_where_its_shortest_run_does(make_study, tmp_path):
    make_study("a", [0.5, 0.6, 0.7], hardware__seed=0)
    make_study("b", [0.5, 0.6], hardware__seed=1)
    runs, rows = report.load(tmp_path / "study")
    with pytest.warns(UserWarning, match="ends at epoch 2 of 3, as these do: b"):
        figure = report.curves(runs, rows)
    assert list(figure.axes[0].lines[0].get_xdata()) == [1, 2]


def diverged(folder):
    """Leave of a run what one has that diverged in its first epoch."""
    row = {"step": 0, "epoch": 0.0, "time": 1e9, "val/knn_acc1": 0.1}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "status.json").write_text('{"status": "diverged", "reason": ""}')


def test_a_seed_that_diverged_is_named_and_costs_no_curve(make_study, tmp_path):
    for seed in (0, 1):
        make_study(f"good{seed}", [0.5, 0.6], hardware__seed=seed)
    diverged(make_study("bad", [0.5, 0.6], hardware__seed=2))
    runs, rows = report.load(tmp_path / "study")
    with pytest.warns(UserWarning, match=r"value are left out: bad \(diverged\)"):
        figure = report.curves(runs, rows)
    assert list(figure.axes[0].lines[0].get_xdata()) == [1, 2]


@pytest.mark.parametrize("kind", ["sweep", "compare", "heatmap", "curves"])
def test_a_figure_names_the_runs_without_its_metric(study, kind):
    runs, rows = study
    lost = runs.index[:2]
    runs.loc[lost, "val/knn_acc1"] = float("nan")
    rows.loc[rows["run"].isin(runs["run"][lost]), "val/knn_acc1"] = float("nan")
    draw, more = getattr(report, kind), [rows] if kind == "curves" else []
    axes = {} if kind in ("compare", "curves") else {"x": "optim.lr"}
    with pytest.warns(UserWarning) as caught:
        draw(runs, *more, value="val/knn_acc1", **axes)
    names = ", ".join(f"{runs.loc[i, 'run']} (finished)" for i in lost)
    words = f"runs without a value are left out: {names}"
    assert [str(w.message) for w in caught].count(words) == 1


def test_rows_that_cannot_be_drawn_are_refused_in_words(study):
    runs, rows = study
    with pytest.raises(ConfigError, match="no epoch to draw against"):
        report.curves(runs, rows.drop(columns="epoch"))
    with pytest.raises(ConfigError, match="val/note is no metric of these runs"):
        report.curves(runs, rows.assign(**{"val/note": "a"}), "val/note")


def test_a_sweep_has_a_logarithmic_axis_and_every_value_on_it(study):
    runs, _ = study
    figure = report.sweep(some(runs, optim__weight_decay=0.0), x="optim.lr")
    (axes,) = figure.axes
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "learning rate"
    assert {"0.01", "0.1", "1.0", "SimCLR", "VICReg"} <= {*dict(words(figure))}
    chosen = some(runs, optim__weight_decay=0.0, optim__lr=1.0, model__name="simclr")
    mean = 100 * chosen["val/knn_acc1"].mean()
    line = axes.lines[0]
    assert line.get_xdata()[-1] == 1.0
    assert line.get_ydata()[-1] == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize(
    ("values", "kind", "even"),
    [
        ([1e-4, 1e-3, 1e-2], "log", False),
        ([32, 64, 128, 256], "log", False),
        ([0.1, 0.2, 0.3, 0.4], "linear", False),
        ([0.1, 10.0], "log", False),
        ([0.1, 0.2], "linear", False),
        ([0.0, 1e-4, 1e-2], "symlog", False),  # 0 has no logarithm
        (["lars", "sgd"], "linear", True),
        ([-1.0, 0.0, 1.0], "linear", False),
    ],
)
def test_the_scale_suits_the_values(values, kind, even):
    scale = Scale.of(values)
    assert (scale.scale, scale.even, scale.joined) == (kind, even, not even)
    assert list(scale.positions.values()) == (
        list(range(len(values))) if even else values
    )


def test_a_figure_says_what_its_spreads_are_and_of_how_many_runs(study):
    runs, rows = study
    figure = report.sweep(runs, "optim.lr", by=["model.name"])
    note = figure.axes[0].get_title(loc="right")
    assert re.fullmatch(
        r"mean ± standard deviation, n = \d+( to \d+)?; dots are the runs", note
    )
    one = runs[runs["hardware.seed"] == 0]
    figure = report.curves(one, rows)
    assert figure.axes[0].get_title(loc="right") == "one run each"


def test_a_heat_map_has_the_mean_of_each_pair_in_its_place(study):
    runs, _ = study
    figure = report.heatmap(some(runs, model__name="simclr"), "optim.lr")
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning rate", "weight decay")
    means = np.asarray(axes.collections[0].get_array()).reshape(2, 3)
    chosen = some(runs, model__name="simclr", optim__lr=1.0, optim__weight_decay=1e-4)
    assert means[1, 2] == pytest.approx(100 * chosen["val/knn_acc1"].mean())
    assert f"{means[1, 2]:.1f}" in dict(words(figure))


def test_a_comparison_has_the_best_on_top_and_all_seeds(make_study, tmp_path):
    for method, values in {
        "mae": (0.5, 0.6),
        "byol": (0.8, 0.9),
        "dino": (0.7,),
    }.items():
        for seed, value in enumerate(values):
            make_study(
                f"{method}{seed}", [value], model__name=method, hardware__seed=seed
            )
    runs, _ = report.load(tmp_path / "study")
    figure = report.compare(runs)
    (axes,) = figure.axes
    figure.draw_without_rendering()
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["MAE", "DINO", "BYOL"]  # upwards
    (points,) = [c for c in axes.collections if len(c.get_offsets()) == 5]
    seeds = sorted(round(float(x), 6) for x, _ in points.get_offsets())
    assert seeds == [49, 59, 69, 79, 89]  # test/knn_acc1


def write_spectrum(run, scale):
    rows = [
        {"step": 5, "epoch": 0.5, "split": "val", "eigenvalues": [1.0, 1.0, 1.0]},
        {"step": 10, "epoch": 1.0, "split": "test", "eigenvalues": [1.0, 1.0, 1.0]},
        {"step": 10, "epoch": 1.0, "split": "val", "eigenvalues": [4.0, scale, 0.0]},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "spectra.jsonl").write_text(text)


def test_a_spectrum_is_the_last_of_its_split_with_1_first(make_study, tmp_path):
    for seed, value in enumerate((1.0, 0.25)):
        write_spectrum(make_study(f"{seed}", [0.5], hardware__seed=seed), value)
    runs, _ = report.load(tmp_path / "study")
    (line,) = report.spectrum(runs).axes[0].lines
    np.testing.assert_allclose(line.get_xydata(), [[1, 1], [2, 0.125]])  # geometric
    with pytest.raises(ConfigError, match="no run has spectra of the split tset"):
        report.spectrum(runs, split="tset")


def test_runs_without_spectra_say_how_to_get_them(study):
    with pytest.raises(ConfigError, match=r"\+\+log.eval.spectrum=true"):
        report.spectrum(study[0])


def test_more_groups_than_looks_are_refused_in_words(make_study, tmp_path):
    for i in range(19):
        make_study(f"{i}", [0.5], log__tags=[i], model__projector=[i, 2])
    with pytest.raises(ConfigError, match="19 groups by model.projector are more"):
        report.curves(*report.load(tmp_path / "study"))


def test_wrong_names_are_refused_in_words(study):
    runs, rows = study
    with pytest.raises(ConfigError, match="did you mean 'val/knn_acc1'"):
        report.curves(runs, rows, value="val/knn_acc")
    with pytest.raises(ConfigError, match="did you mean 'optim.lr'"):
        report.compare(runs, by=["optim.l"])
    with pytest.raises(ConfigError, match="2 keys of numbers differ.*say which is --x"):
        report.sweep(runs)


@pytest.mark.parametrize(("style", "width"), [("neurips", 5.5), ("icml", 3.25)])
def test_files_have_a_columns_width_and_embedded_fonts(study, tmp_path, style, width):
    runs, rows = study
    figure = report.curves(some(runs, optim__lr=0.1), rows, style=style)
    pdf, png = report.save(figure, tmp_path / "out" / "curves")
    assert imread(png).shape[1] / 200 == width
    data = pdf.read_bytes()
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+)", data)
    assert float(box[1]) == pytest.approx(72 * width)
    assert b"/FontFile2" in data and b"/Type3" not in data


def test_no_words_overlap_or_leave_the_figure(study):
    runs, rows = study
    figures = [
        report.curves(runs, rows, style="icml"),
        report.sweep(runs, x="optim.lr", style="icml"),
        report.heatmap(some(runs, model__name="simclr"), style="icml"),
        report.compare(runs, style="icml"),
    ]
    for figure in figures:
        shown, page = words(figure), figure.bbox
        assert len(shown) > 10
        for i, (text, box) in enumerate(shown):
            assert page.x0 <= box.x0 and box.x1 <= page.x1 + 1, text
            assert page.y0 <= box.y0 and box.y1 <= page.y1 + 1, text
            core = box.shrunk(0.95, 0.7)
            for other, its in shown[i + 1 :]:
                assert not core.overlaps(its.shrunk(0.95, 0.7)), (text, other)


@pytest.mark.slow
def test_equal_runs_give_equal_files_in_another_process(study, tmp_path):
    code = (
        "import sys; from stable_ssl import report; a, b = report.load(sys.argv[1]);"
        "report.save(report.curves(a, b), sys.argv[2] + '_curves');"
        "report.save(report.compare(a), sys.argv[2] + '_compare')"
    )
    report.save(report.curves(*study), tmp_path / "1_curves")
    report.save(report.compare(study[0]), tmp_path / "1_compare")
    arguments = [str(tmp_path / "study"), str(tmp_path / "2")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    for name in ("curves.pdf", "curves.png", "compare.pdf", "compare.png"):
        first, second = (tmp_path / f"{n}_{name}" for n in (1, 2))
        assert first.read_bytes() == second.read_bytes()
