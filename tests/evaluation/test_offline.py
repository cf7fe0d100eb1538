"""A checkpoint's features, measured by one command, on one process as on two."""

import re
from pathlib import Path

import pytest

from stable_ssl import ConfigError, SimCLR, distributed, load_config

SMALL = ["data.train.dataset.subset=val", "data.batch_size=100", "optim.epochs=1"]
F1 = (
    "++log.metrics.f1={callable: torchmetrics.functional.f1_score, kwargs: "
    "{task: multiclass, num_classes: 10, average: macro}}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Train SimCLR on few digits; return the folder of its runs."""
    path = tmp_path_factory.mktemp("trained")
    config = load_config(
        "simclr",
        [f"log.folder={path}", "log.run=trained", "log.eval.untrained=false", *SMALL],
    )
    SimCLR(config).run()
    return path


def measured(folder, *overrides):
    """Run mode=test on the checkpoint; return what was measured."""
    path = folder / "runs" / "simclr" / "trained" / "ckpts" / "last.ckpt"
    asked = ["mode=test", f"log.load_from={path}", "log.eval.offline.epochs=20"]
    where = [f"log.folder={folder}", "log.eval.few_labels=[2,10%]", F1]
    trainer = SimCLR(load_config("simclr", [*where, *SMALL, *asked, *overrides]))
    trainer.run()
    return trainer.metrics, trainer.run_dir


def test_one_command_measures_a_checkpoint_with_all_protocols(folder):
    found, run_dir = measured(folder, "log.run=one", "log.eval.spectrum=true")
    again, _ = measured(folder, "log.run=two", "log.eval.spectrum=true")
    new = {name.removeprefix("test/") for name in found if name.startswith("test/")}
    assert new == {
        *("acc1", "acc5", "knn_acc1", "knn_acc5", "f1"),
        *("few2_acc1", "few10pct_acc1", "linear_acc1", "linear_acc5", "linear_lr"),
        *("logistic_acc1", "rankme", "alpha_req", "feature_std", "uniformity"),
    }
    assert again == found
    assert found["test/linear_acc1"] > 0.8 and found["test/logistic_acc1"] > 0.8
    console = (run_dir / "console.log").read_text()
    assert "test split, epoch 1, step 2, seed 0" in console
    assert "otherwise" not in console
    assert re.search(r"linear_acc1 +\d\d.* on the bank of 200 plain images", console)


def test_what_is_evaluated_otherwise_than_the_run_was_is_said(folder):
    other = ["data.test.dataset.subset=val", "data.num_workers=0", "data.val=null"]
    other += ["data.eval_batch_size=50", "log.monitor=null"]
    light = ["log.eval.offline=null", "log.eval.few_labels=[]", "log.run=other"]
    _, run_dir = measured(folder, *other, *light)
    said = "evaluated otherwise than the run was: data.test.dataset.subset"
    assert f"{said}\n" in (run_dir / "console.log").read_text()


def test_a_training_fits_no_offline_classifier_unless_asked(folder):
    row = (folder / "runs" / "simclr" / "trained" / "metrics.jsonl").read_text()
    assert "test/few2_acc1" in row and "linear_acc1" not in row


def on_a_rank(folder):
    """Measure on every rank of a group; return it and what rank 0 said."""
    rank = distributed.rank()
    return measured(folder, f"log.run=ranks{rank}", "log.eval.spectrum=true")[0]


def test_several_views_are_measured_where_a_split_makes_them(config, rows):
    made = config("simclr", *SMALL, "log.eval.spectrum=true", "log.monitor=null")
    plain = {"dataset": {"name": "digits", "subset": "val"}}
    views = [made.data.transforms.view] * 4
    several = {"dataset": {**plain["dataset"], "image_transform": views}}
    made.data.val = {"plain": plain, "views": several}
    trainer = SimCLR(made)
    trainer.run()
    found = trainer.metrics
    assert 0 < found["val_views/alignment"] < 4
    assert 1 < found["val_views/lidar"] < 64
    assert "val_plain/lidar" not in found and "val_plain/rankme" in found


def test_a_spectrum_needs_no_labels(tiny, config):
    class Unlabelled(tiny):
        def initialize_data(self):
            super().initialize_data()
            self.num_classes = None

    trainer = Unlabelled(
        config("base", "log.eval.spectrum=true", "log.monitor=null", "optim.epochs=1")
    )
    trainer.run()
    assert trainer.metrics["test/rankme"] > 1
    assert "test/knn_acc1" not in trainer.metrics


def test_a_collapse_is_said_once_and_not_of_untrained_features(tiny, config):
    class Collapsing(tiny):
        def encode(self, x):
            return 1 + 1e-3 * x.flatten(1)

    off = ["log.eval.linear=null", "log.eval.few_labels=[]", "log.monitor=null"]
    trainer = Collapsing(config("base", *off, "log.eval.untrained=true"))
    trainer.run()
    console = (trainer.run_dir / "console.log").read_text()
    assert console.count("the features have collapsed") == 1
    assert "step 9: the features have collapsed: feature_std=" in console


def test_a_metric_that_cannot_be_found_ends_the_run_before_training(tiny, config):
    wrong = "++log.metrics.f1={callable: torchmetrics.functional.f1_scor}"
    trainer = tiny(config("base", wrong))
    with pytest.raises(ConfigError, match="did you mean 'f1_score'"):
        trainer.run()
    assert trainer.step == 0


@pytest.mark.slow
def test_ranks_measure_as_one_process(folder, ranks):
    whole = measured(folder, "log.run=whole", "log.eval.spectrum=true")[0]
    for found in ranks(2, on_a_rank, Path(folder)):
        assert found.keys() == whole.keys()
        for name, value in whole.items():
            loose = 0.02 if "few" in name or "linear" in name else 1e-4
            assert found[name] == pytest.approx(value, abs=loose), name
