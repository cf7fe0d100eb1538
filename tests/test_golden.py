"""benchmarks/golden.py: recipes compute what is recorded, and a change shows."""

import copy
import sys

import pytest

from stable_ssl.config import recipes
from tests.conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import golden  # noqa: E402

CHEAP = ["mean_teacher", "supcon"]  # two train loaders and a teacher; views and a probe


@pytest.fixture(scope="module")
def found():
    """Return what the cheapest recipes compute now."""
    return {name: golden.run(name) for name in CHEAP}


@pytest.fixture(scope="module")
def recorded():
    return golden.read(golden.ROWS)


def test_every_recipe_is_recorded_or_left_out_with_a_reason(recorded):
    assert sorted([*recorded, *golden.LEFT_OUT]) == recipes()
    assert all(len(reason.split()) > 3 for reason in golden.LEFT_OUT.values())
    for name, own in recorded.items():
        steps = golden.DIGITS_STEPS if golden.on_digits(name) else golden.OTHER_STEPS
        assert own["rows"][-1]["step"] == steps
        evaluated = {key for row in own["rows"] for key in row} - {"step", "epoch"}
        assert any(key.startswith("val/") for key in evaluated), name


@pytest.mark.parametrize("name", CHEAP)
def test_a_recipe_computes_what_is_recorded(name, recorded, found):
    assert list(golden.differences(recorded[name], found[name])) == []


@pytest.mark.slow
def test_the_same_run_has_the_same_bits_and_another_rate_has_others(recorded, found):
    name = "mean_teacher"
    again, faster = golden.run(name), golden.run(name, overrides=["optim.lr=0.303"])
    assert again == found[name]
    assert faster["bits"]["weights"] != found[name]["bits"]["weights"]
    assert faster["bits"]["optimizer"] != found[name]["bits"]["optimizer"]
    apart = list(golden.differences(recorded[name], faster))
    assert {"train/lr", "train/loss"} <= {metric for _, metric, _, _ in apart}


def test_a_difference_is_named(tmp_path, monkeypatch, capsys, recorded, found):
    changed = copy.deepcopy(recorded)
    row = changed["supcon"]["rows"][3]
    before = row["train/loss"]
    row["train/loss"] *= 1 + 3e-4
    bits = {"where": golden.fingerprint(1), **found["supcon"]["bits"], "probe": "other"}
    golden.write(tmp_path / "rows.json", changed)
    golden.write(tmp_path / "bits.json", {"supcon": bits})
    monkeypatch.setattr(golden, "ROWS", tmp_path / "rows.json")
    monkeypatch.setattr(golden, "BITS", tmp_path / "bits.json")
    monkeypatch.setattr(golden, "run", lambda name, threads: found[name])
    assert not golden.compare(["supcon"], 1)
    said = capsys.readouterr().out
    place, now = f"supcon, step {row['step']}, train/loss", found["supcon"]["rows"][3]
    assert f"{place}: {row['train/loss']} recorded, {now['train/loss']} now" in said
    assert "supcon: other bits of the probe" in said
    row["train/loss"], bits["probe"] = before, found["supcon"]["bits"]["probe"]
    golden.write(tmp_path / "rows.json", changed)
    golden.write(tmp_path / "bits.json", {"supcon": bits})
    assert golden.compare(["supcon"], 1)
    assert capsys.readouterr().out.endswith("equal\n")


@pytest.mark.parametrize(
    ("name", "a", "b", "same"),
    [
        ("train/loss", 2.0, 2.0001, True),
        ("train/loss", 2.0, 2.0003, False),
        ("val/acc1", 0.5, 0.51, True),  # two of 200
        ("val/knn_acc1", 0.5, 0.485, False),
        ("train/mask_rate", 0.0, 1e-7, True),
        ("val/map", float("nan"), float("nan"), True),
        ("val/map", float("nan"), 0.5, False),
    ],
)
def test_what_agrees(name, a, b, same):
    assert golden.agree(name, a, b, {"val": 200}) == same
