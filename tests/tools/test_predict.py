"""Predictions as CSV: each sample once, in order, with its path, names and scores."""

import csv
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from stable_ssl import ConfigError, SimCLR, Supervised, load_config
from stable_ssl.data.datasets import Images, digits
from stable_ssl.tools.predict import probabilities

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = "tests.tools.test_predict"
QUICK = ("optim.epochs=1", "log.eval.test_at_end=false", "log.pictures=null")
COLUMNS = ["index", "label", "prediction", "score", "top5"]


def traits(subset):
    """Return digits with three traits, any number of which they may have."""
    held = digits(subset=subset)
    labels = torch.stack([held.labels % 2 == 1, held.labels > 4, held.labels == 7], 1)

    class ManyLabels(Images):
        def __getitem__(self, index):
            return self.images[index], self.labels[index]

    return ManyLabels(held.images, labels.float(), 3)


def odd(subset):
    """Return digits that are odd, 1, or even, 0."""
    held = digits(subset=subset)
    return Images(held.images, held.labels % 2, 2)


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def predicted(trainer):
    """Run mode=predict; return the rows of the two files."""
    trainer.run()
    found = [read(trainer.run_dir / f"{n}.csv") for n in ("predictions", "scores")]
    assert [row["index"] for row in found[0]] == [row["index"] for row in found[1]]
    return found


def test_scores_are_probabilities():
    z = torch.tensor([[0.0, math.log(3)], [2.0, 2.0]])
    torch.testing.assert_close(
        probabilities(z, "multiclass"),
        torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64),
        rtol=0,
        atol=1e-7,
    )
    assert probabilities(z, "multilabel")[0].tolist() == pytest.approx([0.5, 0.75])
    binary = probabilities(torch.tensor([math.log(3), -math.log(3)]), "binary")
    assert binary.flatten().tolist() == pytest.approx([0.25, 0.75, 0.75, 0.25])


def test_a_probe_on_a_method_predicts_its_test_split(config):
    SimCLR(config("simclr", *QUICK)).run()
    trainer = SimCLR(config("simclr", "mode=predict"))
    rows, scores = predicted(trainer)
    assert list(rows[0]) == COLUMNS
    assert [int(row["index"]) for row in rows] == list(range(400))
    labels = digits(subset="test").labels.tolist()
    assert [int(row["label"]) for row in rows] == labels
    hits = sum(row["label"] == row["prediction"] for row in rows)
    among = sum(row["label"] in row["top5"].split(";") for row in rows)
    tester = SimCLR(config("simclr", "mode=test", "log.eval.offline=null"))
    tester.run()
    assert tester.metrics["test/acc1"] == hits / 400
    assert tester.metrics["test/acc5"] == among / 400
    for row, score in zip(rows, scores, strict=True):
        values = {k: float(v) for k, v in score.items() if k != "index"}
        assert sum(values.values()) == pytest.approx(1, abs=1e-4)
        assert values[row["prediction"]] == max(values.values())
        assert float(row["score"]) == max(values.values())


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_the_other_tasks(task, config, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY)
    made = {"binary": odd, "multilabel": traits}[task]

    def tasked(*overrides):
        off = ["log.monitor=null", "log.eval.knn=null"]
        full = config("supervised", f"++model.task={task}", *off, *overrides)
        for split in ("train", "val", "test"):
            node = {"_target_": f"{HERE}.{made.__name__}", "subset": split}
            full.data[split].dataset = node
        return full

    Supervised(tasked(*QUICK)).run()
    rows, scores = predicted(Supervised(tasked("mode=predict", "data.predict=val")))
    labels = made("val").labels
    assert len(rows) == len(labels) == 200
    for row, score, label in zip(rows, scores, labels, strict=True):
        values = [float(value) for value in list(score.values())[1:]]
        if task == "binary":
            assert row["label"] == str(int(label)) and len(values) == 2
            assert row["prediction"] == str(int(values[1] > values[0]))
        else:
            positive = [str(i) for i in label.nonzero().flatten().tolist()]
            assert row["label"] == ";".join(positive)
            above = [str(i) for i, value in enumerate(values) if value > 0.5]
            assert row["prediction"] == ";".join(above)
            assert "score" not in row


@pytest.fixture
def photos(tmp_path):
    """Write digits as PNG: train/<name>/, of two classes, and new/ without classes."""
    held = digits(subset="train")
    for name, number in (("seven", 7), ("a one", 1)):
        folder = tmp_path / "photos" / "train" / name
        folder.mkdir(parents=True)
        for i in (held.labels == number).nonzero().flatten()[:40].tolist():
            Image.fromarray(held.images[i, 0].numpy()).save(folder / f"{i:04}.png")
    new = tmp_path / "photos" / "new"
    new.mkdir()
    for i in range(9):
        Image.fromarray(held.images[i, 0].numpy()).save(new / f"{i}.png")
    return tmp_path / "photos"


def test_images_without_labels_get_paths_and_names(photos, config):
    def made(*overrides):
        full = config("supervised", "data.batch_size=16", *overrides)
        for split in ("train", "val", "test"):
            node = {"name": "image_folder", "root": str(photos / "train")}
            full.data[split].dataset = node
        return full

    off = ["log.monitor=null", "log.eval.knn=null"]
    Supervised(made(*QUICK, *off)).run()
    (photos / "new" / "3.png").write_bytes(b"no image")
    node = f"{{dataset: {{name: image_folder, root: '{photos}/new', labelled: false}}}}"
    asked = ["mode=predict", f"data.predict={node}", "data.on_error=skip", *off]
    with pytest.warns(UserWarning, match="3.png is not a readable image"):
        rows, scores = predicted(Supervised(made(*asked)))
    assert [row["path"] for row in rows] == [f"{i}.png" for i in range(9) if i != 3]
    assert list(scores[0]) == ["index", "a one", "seven"]
    names = {"0": "a one", "1": "seven"}
    assert all(names[row["prediction"]] == row["prediction_name"] for row in rows)
    assert "label" not in rows[0]
    other = photos / "other" / "seven"  # alone it would be number 0
    shutil.copytree(photos / "train" / "seven", other)
    node = f"{{dataset: {{name: image_folder, root: '{photos}/other'}}}}"
    rows, _ = predicted(Supervised(made("mode=predict", f"data.predict={node}", *off)))
    assert {(row["label"], row["label_name"]) for row in rows} == {("1", "seven")}
    (photos / "train").rename(photos / "gone")  # not needed where classes are counted
    stated = ["mode=predict", "data.num_classes=2", f"data.predict={node}"]
    assert len(predicted(Supervised(made(*stated, *off)))[0]) == 40


def predict_on_a_rank(folder):
    overrides = [f"log.folder={folder}", "log.run=run", "mode=predict"]
    SimCLR(load_config("simclr", [*overrides, "data.eval_batch_size=98"])).run()


@pytest.mark.slow
def test_several_ranks_write_each_sample_once_in_order(config, ranks, tmp_path):
    SimCLR(config("simclr", *QUICK)).run()
    one = predicted(SimCLR(config("simclr", "mode=predict")))
    ranks(3, predict_on_a_rank, str(tmp_path))
    run = tmp_path / "runs" / "simclr" / "run"
    for alone, path in zip(one, ("predictions", "scores"), strict=True):
        together = read(run / f"{path}.csv")
        assert [row["index"] for row in together] == [str(i) for i in range(400)]
        if path == "predictions":
            kept = ("index", "label", "prediction")
            for a, b in zip(together, alone, strict=True):
                assert [a[k] for k in kept] == [b[k] for k in kept]


def test_wrong_input_ends_in_words(config):
    for overrides, words in (
        (
            ["data.predict=tset"],
            "data.predict=tset is not a split; did you mean 'test'",
        ),
        (["data.test=null"], "there are: train, val, bank"),
        ([], "needs weights"),
    ):
        with pytest.raises(ConfigError, match=words):
            SimCLR(config("simclr", "mode=predict", *overrides)).run()
    SimCLR(config("simclr", *QUICK, "log.eval.linear=null")).run()
    with pytest.raises(ConfigError, match="mode=predict needs a classifier"):
        SimCLR(config("simclr", "mode=predict", "log.eval.linear=null")).run()
