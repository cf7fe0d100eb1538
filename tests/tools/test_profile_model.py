"""Profiles of a model: arithmetic and memory by hand, time where it was spent."""

import json
import time

import pytest
import torch

from stable_ssl import BYOL, BaseTrainer, load_config

N = 128


class Slow(BaseTrainer):
    """A linear layer with a loss, a gradient, an optimizer and a hook that sleep."""

    predicts = True

    def initialize_modules(self):
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1))

    def compute_loss(self):
        time.sleep(0.03)
        views, labels = self.data
        loss = torch.nn.functional.cross_entropy(self(views[0]), labels)
        loss.register_hook(lambda gradient: time.sleep(0.05))
        return {"loss": loss, "extra": loss.detach()}

    def optimizer_step(self):
        time.sleep(0.02)
        super().optimizer_step()

    def after_train_step(self):
        time.sleep(0.04)


def profiled(trainer):
    trainer.run()
    return json.loads((trainer.run_dir / "profile_model.json").read_text())


def test_arithmetic_memory_and_time_are_those_of_the_step(config, capsys, monkeypatch):
    monkeypatch.setattr("stable_ssl.tools.profile.STEPS", 3)
    trainer = Slow(config("base", "mode=profile_model"))
    found = profiled(trainer)
    assert found["steps"] == 3 and found["batch_size"] == N
    product = 2 * N * 64 * 10
    assert found["flops"]["forward"] == found["flops"]["backward"] == product
    assert found["flops"]["encode_image"] == product / N
    (layer,) = found["modules"]
    assert layer["parameters"] == layer["trained"] == 650
    assert layer["mib"] == 650 * 4 / 2**20
    saved = found["activations_mib"] * 2**20  # images, log-probabilities, labels, ...
    assert N * (64 * 4 + 10 * 4 + 8) <= saved <= N * (64 * 4 + 10 * 4 + 8) + 64
    for part, ms in {
        "forward": 30,
        "backward": 50,
        "optimizer": 20,
        "hooks": 40,
    }.items():
        assert found["ms"][part] >= ms - 1, part
    assert found["ms"]["probe"] > 0 and found["ms"]["data"] > 0
    assert sum(found["ms"].values()) >= 139
    assert 0 < found["images_per_s"] < N / 0.139
    assert len(found["ops"]) == 10 and found["ops"][0]["calls"] >= 1
    said = " ".join(capsys.readouterr().out.split())
    for text in ("slowest ops", "layer", "takes", "images/s trained"):
        assert text in said
    assert (trainer.run_dir / "metrics.jsonl").read_text() == ""
    assert not (trainer.run_dir / "ckpts").exists()  # nothing is kept


def on_a_rank(folder):
    overrides = [f"log.folder={folder}", "log.run=run", "fast_dev_run=false"]
    for mode in ("profile_data", "profile_model"):
        BYOL(load_config("byol", [*overrides, f"mode={mode}"])).run()


@pytest.mark.slow
def test_several_ranks_profile_together(ranks, tmp_path, monkeypatch):
    ranks(2, on_a_rank, str(tmp_path))
    folder = tmp_path / "runs" / "byol" / "run"
    found = json.loads((folder / "profile_model.json").read_text())
    assert found["batch_size"] == N
    names = [row["module"] for row in found["modules"]]
    assert names == ["backbone", "projector", "predictor", "teacher"]
    assert found["modules"][-1]["trained"] == 0  # the teacher learns nothing
    data = json.loads((folder / "profile_data.json").read_text())
    assert data["loaders"]["train"]["batch_size"] == N
