"""Profiles of data: slow parts are found where they are."""

import json
import time

import pytest
import torch
from torch.utils.data import Dataset

from stable_ssl import ConfigError, SimCLR
from stable_ssl.augment import build_ops
from stable_ssl.data.loading.loader import Loader
from stable_ssl.tools.profile import bottleneck, measure_data

CPU = torch.device("cpu")


class Slow(Dataset):
    """Images of which each takes 2 ms to read."""

    def __len__(self):
        return 32

    def __getitem__(self, index):
        time.sleep(0.002)
        return torch.full((3, 8, 8), index, dtype=torch.uint8), 0


def test_a_slow_disk_is_seen_and_so_is_building():
    crop = build_ops([{"name": "random_resized_crop", "size": 4}])

    def build():
        time.sleep(0.05)
        return {"train": Loader(Slow(), [crop, crop], batch_size=8)}

    state = torch.get_rng_state()
    found = measure_data(build, CPU, limit=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert found["build_s"] >= 0.05
    (train,) = found["loaders"].values()
    assert train["first_batch_s"] >= 8 * 0.002
    assert len(train["images_per_s"]) == 3 and max(train["images_per_s"]) < 500
    stages = train["stages_ms"]
    assert set(stages) == {"read", "begin", "augment"} and 2 <= stages["read"] < 2000
    if stages["read"] > max(stages["begin"], stages["augment"]):
        assert train["bottleneck"].startswith("reading and decoding takes")
        assert "data.num_workers" in train["bottleneck"]


@pytest.mark.parametrize(
    ("stages", "workers", "words"),
    [
        ({"read": 8, "begin": 1, "augment": 1}, 0, "reading and decoding takes 80%"),
        (
            {"read": 1, "begin": 8, "augment": 1},
            0,
            "workers' part of the views takes 80%",
        ),
        (
            {"read": 8, "begin": 4, "augment": 1},
            4,
            "4 of them read 333 images/s, and 1,000",
        ),
        ({"read": 2, "begin": 1, "augment": 1}, 4, "augmentation takes 100%"),
        ({"read": 1, "augment": 9}, 0, "augmentation takes 90%"),
        (
            {"read": 1, "begin": 1, "copy": 3, "augment": 1},
            2,
            "copying to the GPU takes 75%",
        ),
    ],
)
def test_the_bottleneck_in_words(stages, workers, words):
    assert words in bottleneck(stages, workers)


def test_the_mode_prints_a_table_and_writes_json(config, capsys):
    trainer = SimCLR(config("simclr", "mode=profile_data", "fast_dev_run=false"))
    trainer.run()
    found = json.loads((trainer.run_dir / "profile_data.json").read_text())
    assert found["loaders"]["train"]["batch_size"] == 128
    said = " ".join(capsys.readouterr().out.split())  # notes are wrapped
    assert "images a second" in said
    assert found["loaders"]["train"]["bottleneck"] in said
    assert (trainer.run_dir / "metrics.jsonl").read_text() == ""
    with pytest.raises(ConfigError, match="mode=profile_data needs data.train"):
        SimCLR(config("simclr", "mode=profile_data", "data.train=null")).run()
