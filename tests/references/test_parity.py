"""benchmarks/parity.py: each method of lightly takes a step; what the table says."""

import sys

import pytest
import torch

from stable_ssl import load_config, models
from tests.conftest import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))
parity = pytest.importorskip("parity")


@pytest.mark.references
@pytest.mark.parametrize("method", parity.METHODS)
def test_a_method_of_lightly_learns(method):
    import parity_lightly
    from torchvision.transforms.functional import to_pil_image

    torch.manual_seed(0)
    images = [to_pil_image(torch.rand(3, 16, 16)) for _ in range(256)]
    data = load_config(method, ["experiment=cifar10_small"]).data.transforms
    policy = {name: dict(data[name]) for name in parity.POLICY}
    backbone = models.backbone("convnet", width=4)
    before = [p.clone() for p in backbone.parameters()]
    budget = {"epochs": 2, "batch_size": 128, "lr": 1e-3, "weight_decay": 1e-4}
    budget["warmup_epochs"] = 0.5
    cls = getattr(parity_lightly, parity.OF_LIGHTLY[method])
    assert parity_lightly.train(cls, backbone, images, policy, budget) > 0
    after = list(backbone.parameters())
    assert all(p.isfinite().all() for p in after)
    assert any(not a.equal(b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("method", parity.METHODS)
def test_our_side_can_be_configured(method, tmp_path):
    config = parity.configured(method, 1, "/images", tmp_path)
    assert config.data.train.dataset.name == "image_folder"
    assert config.optim.epochs == 15 and config.hardware.seed == 1
    assert parity.made_with(method, "ours") != parity.made_with(method, "lightly")


def test_an_interval_is_that_of_welch():
    a, b = [55.0, 55.4, 54.6], [54.0, 54.8, 54.4, 54.4]
    difference, half = parity.interval(a, b)
    from scipy.stats import ttest_ind

    low, high = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (difference - half, difference + half) == pytest.approx((low, high))
    assert parity.verdict(0.5, 1.0) == "equal"
    assert parity.verdict(0.5, 2.5) == "more seeds"
    assert parity.verdict(-1.5, 1.0) == "ours lower"


def test_a_table_is_of_what_both_sides_have():
    def trial(method, side, seed, knn):
        facts = {"method": method, "side": side, "seed": seed, "seconds": 100.0 + seed}
        return {**facts, "knn": knn, "linear": knn + 2}

    trials = [trial("byol", side, s, 50 + s) for side in parity.SIDES for s in range(3)]
    trials.append(trial("simclr", "ours", 0, 50))
    text = parity.table({str(i): t for i, t in enumerate(trials)})
    (line,) = [line for line in text.splitlines() if line.startswith("| `")]
    assert "`byol` | 3/3 | 51.00 ± 1.00 | 51.00 ± 1.00 | +0.00 ± 2.27 | more" in line
