"""What a run says before its first step."""

import re

import pytest
import torch

from stable_ssl import load_config
from stable_ssl.methods import DINO, SimCLR


def said(trainer, capsys):
    """Return the block by the word each line starts with."""
    trainer.setup()
    trainer.cleanup()
    out = capsys.readouterr().out
    return {line.split()[0]: line for line in out.splitlines()}, out


def test_it_names_folder_machine_data_model_and_length(config, capsys):
    lines, out = said(SimCLR(config("simclr")), capsys)
    assert re.search(r"run +/.*/runs/simclr/run, fresh$", lines["run"])
    assert "CPU, 1 thread a process: batches of 8,192 values" in lines["machine"]
    assert "train: 1,197 samples of 10 classes, 2 views of 1 x 8 x 8" in lines["data"]
    assert "val: 200 samples, 1 view of 1 x 8 x 8" in lines["val:"]
    assert lines["model"] == "model     SimCLR, 0.769 million parameters"
    assert lines["training"] == "training  2 epochs of 9 steps, 128 samples each"
    assert lines["go"] == "go on     the same command and log.run=run"
    assert all(len(line) <= 80 for line in lines.values() if "/" not in line)


def test_it_says_where_a_run_goes_on_and_what_is_frozen(config, capsys):
    DINO(config("dino", "optim.epochs=1")).run()
    capsys.readouterr()
    lines, out = said(DINO(config("dino", "log.resume=auto")), capsys)
    assert lines["resumed"].startswith("resumed at epoch 1, step 9")
    assert "fresh" not in lines["run"]
    assert "0.373 of them trained" in lines["model"]


def test_an_evaluation_has_no_training(config, capsys):
    SimCLR(config("simclr", "optim.epochs=1")).run()
    capsys.readouterr()
    lines, _ = said(SimCLR(config("simclr", "mode=test", "log.resume=auto")), capsys)
    assert {"run", "machine", "data", "model"} <= lines.keys()
    assert not {"training", "go"} & lines.keys()


def test_batches_of_another_library_have_no_views_to_tell(tmp_path, capsys):
    class Batches:
        def __len__(self):
            return 3

        def __iter__(self):
            yield from [([torch.rand(8, 1, 8, 8)] * 2, torch.arange(8) % 2)] * 3

    config = load_config("simclr", [f"log.folder={tmp_path}", "data.num_classes=2"])
    lines, _ = said(SimCLR(config, train=Batches()), capsys)
    assert lines["data"] == "data      train: samples of 2 classes"


@pytest.mark.parametrize("relative", [True, False])
def test_a_folder_below_this_one_is_named_from_here(
    relative, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path if relative else "/")
    config = load_config("simclr", [f"log.folder={tmp_path}", "log.run=run"])
    lines, _ = said(SimCLR(config), capsys)
    assert ("run       runs/simclr/run, fresh" == lines["run"]) == relative
