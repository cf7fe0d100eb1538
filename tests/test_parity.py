"""benchmarks/parity.py: each method of lightly takes a step; what the table says."""

import sys

import pytest
import torch

from stable_ssl import models
from tests.conftest import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))
parity = pytest.importorskip("parity")


@pytest.mark.references
@pytest.mark.parametrize("method", parity.METHODS)
def test_a_method_of_lightly_learns(method):
    import parity_lightly

    torch.manual_seed(0)
    images = parity.pictures(torch.rand(256, 3, 16, 16))
    config = parity.configured(method, "/images")
    assert config.data.train.dataset.name == "image_folder"
    backbone = models.backbone("convnet", width=4)
    before = [p.clone() for p in backbone.parameters()]
    budget = {"epochs": 2, "lr": 1e-3, "weight_decay": 1e-4, "warmup_epochs": 0.5}
    loader = parity_lightly.loader(images, parity.policy(config), 128)
    cls = getattr(parity_lightly, parity.METHODS[method])
    epochs = list(parity_lightly.train(cls, backbone, loader, budget))
    assert len(epochs) == 2 and min(epochs) > 0
    after = list(backbone.parameters())
    assert all(p.isfinite().all() for p in after)
    assert any(not a.equal(b) for a, b in zip(before, after, strict=True))
    images = torch.randint(256, (200, 3, 16, 16), dtype=torch.uint8)
    split = images, torch.arange(200) % 10
    found = parity.judged(backbone, config, split, split, 0)
    assert 10 < found["knn"] <= 100 and 10 < found["linear"] <= 100


@pytest.mark.references
def test_drawn_views_are_those_of_the_loader(tmp_path):
    import parity_lightly

    images = parity.pictures(torch.rand(12, 3, 16, 16))
    policy = parity.policy(parity.configured("byol", "/images"))
    torch.manual_seed(0)
    parity_lightly.draw(images, policy, 2, tmp_path / "views.npy")
    torch.manual_seed(0)
    data = parity_lightly.TwoViews(images, policy, 16)
    epochs = [[torch.stack(data[i]) for i in range(12)] for _ in range(2)]
    drawn = parity_lightly.Drawn(tmp_path / "views.npy", policy, 5)
    for views in epochs:
        torch.manual_seed(1)
        order = torch.randperm(12)[:10]  # the last ones of an epoch are left out
        torch.manual_seed(1)
        batches = [torch.stack(batch, 1) for batch in drawn]
        assert len(batches) == len(drawn) == 2
        assert torch.cat(batches).equal(torch.stack(views)[order])


def test_a_trial_depends_on_its_own_method_alone(tmp_path, monkeypatch):
    before = {method: parity.made_with(method) for method in ("byol", "vicreg")}
    text = parity.LIGHTLY.read_text().replace("128, 512, 128", "128, 256, 128")
    monkeypatch.setattr(parity, "LIGHTLY", tmp_path / "lightly.py")
    parity.LIGHTLY.write_text(text)
    assert parity.made_with("byol") != before["byol"]
    assert parity.made_with("vicreg") == before["vicreg"]
    text = text.replace("Return projections", "Give projections")
    parity.LIGHTLY.write_text(text.replace("class BYOL", "# a remark\nclass BYOL"))
    assert parity.made_with("vicreg") == before["vicreg"]


def test_an_interval_is_that_of_welch():
    from scipy.stats import ttest_ind

    a, b = [55.0, 55.4, 54.6], [54.0, 54.8, 54.4, 54.4]
    difference, half = parity.interval(a, b)
    low, high = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (difference - half, difference + half) == pytest.approx((low, high))
    assert parity.verdict(0.5, 1.0) == "equal"
    assert parity.verdict(0.5, 2.5) == "more seeds"
    assert parity.verdict(-1.5, 1.0) == "ours lower"


def test_a_table_compares_what_both_sides_have():
    figures = {"knn": [50.0, 51.0, 52.0], "linear": [52.0]}
    trials = [
        {"method": method, "knn": 50.0 + seed, "linear": 52.0}
        for method in ("byol", "dcl")
        for seed in range(3)
    ]
    seconds = {"byol": {"ours": 5.0, "lightly": 10.0, "steps": 4.0}}
    own = {"byol": figures, "simclr": figures}
    text = parity.table(own, trials, seconds)
    lines = {line.split("`")[1]: line for line in text.splitlines() if "`" in line}
    assert set(lines) == set(parity.METHODS)
    assert "| 3/0 | 51.00 ± 1.00 | - |  |  | 52.00 | - |" in lines["simclr"]
    assert "| 0/3 | - | 51.00 ± 1.00 |" in lines["dcl"]
    line = lines["byol"]
    assert "`byol` | 3/3 | 51.00 ± 1.00 | 51.00 ± 1.00 | +0.00 ± 2.27 | more" in line
    assert line.endswith("| 5.0 s | 10.0 s | 4.0 s | 0.50 |")
