"""The benchmark of a GPU, dry: all of its parts on a CPU, in toy sizes."""

import json

import pytest


def dry(main, shell, folder, *options, timeout=300):
    script = main.parents[1] / "benchmarks" / "gpu.py"
    line = [script, "--dry", "--out", folder, *options]
    done = shell(*line, timeout=timeout, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "gpu.json").read_text())


def test_a_part_that_fails_leaves_the_others(main, shell, tmp_path):
    options = ["--parts", "cifar", "augmentation", "--recipe", "no_such_recipe"]
    out, found = dry(main, shell, tmp_path, *options)
    assert found["machine"]["device"] == "CPU"
    assert found["cifar"]["status"] == "exit code 1"
    assert found["augmentation"]["status"] == "in time"
    assert found["augmentation"]["gaussian_blur"]["ours"] > 0
    table = out.rpartition("augmentation: in time")[2]
    assert "SimCLR, ms a view" in table


@pytest.mark.slow
def test_all_parts_end_in_time_with_a_table(main, shell, tmp_path):
    out, found = dry(main, shell, tmp_path, "--minutes", "5", timeout=400)
    for part in ("tests", "augmentation", "training", "cifar"):
        assert found[part]["status"] == "in time", out
    assert found["tests"]["exit code"] == 0
    assert found["training"]["SimCLR ResNet-18 resumes to the bit"] is True
    assert found["training"]["DINO ViT-S/16"]["images/s"] > 0
    assert found["cifar"]["val/knn_acc1"] > 0
