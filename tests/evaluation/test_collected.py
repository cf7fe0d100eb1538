"""Features in memory or in a file: the same rows, and nothing is left behind."""

import functools
import tempfile

import pytest
import torch

from stable_ssl.evaluation import collected
from stable_ssl.evaluation.bank import encode_bank
from stable_ssl.evaluation.collected import Collected
from stable_ssl.evaluation.config import OfflineConfig
from stable_ssl.evaluation.knn import knn_accuracy
from stable_ssl.evaluation.linear import linear_accuracy
from stable_ssl.schema import ConfigError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Keep features in a file of this folder, however few they are."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(collected.IN_MEMORY, "cpu", 100)
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_of_a_file_are_those_of_memory(folder, dtype):
    parts = [torch.randn(n, 6).to(dtype) for n in (3, 5, 0, 40)]
    rows = Collected()
    for part in parts:
        rows.append(part)
    assert rows.file is not None and list(folder.iterdir()) == []  # it has no name
    assert rows.joined().equal(torch.cat(parts)) and rows.joined().dtype == dtype


def test_few_rows_stay_in_memory():
    rows = Collected()
    rows.append(torch.ones(3, 2))
    rows.append(torch.zeros(0, 2))
    assert rows.file is None and rows.joined().equal(torch.ones(3, 2))


def test_a_bank_in_a_file_gives_the_figures_of_one_in_memory(folder):
    chance = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 8, generator=chance), torch.arange(300) % 3
    x[:, :3] += torch.nn.functional.one_hot(y, 3)
    whole, queries = (x[:200], y[:200]), (x[200:], y[200:])
    parts = zip(whole[0].split(32), whole[1].split(32), strict=True)
    bank = encode_bank(lambda view: view, parts)
    assert bank.features.equal(whole[0])
    config = OfflineConfig(epochs=2, batch_size=32)
    for measure in (
        functools.partial(knn_accuracy, num_classes=3, k=5),
        functools.partial(linear_accuracy, num_classes=3, config=config),
    ):
        assert measure(bank, queries) == measure(whole, queries)


def test_a_full_disk_is_said_in_words(folder, monkeypatch):
    full = functools.partial(open, "/dev/full", "wb")
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(ConfigError, match="do not fit .*No space.*set TMPDIR to"):
        Collected().append(torch.ones(100, 100))
