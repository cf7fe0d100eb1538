"""A maker of run folders as a training run leaves them."""

import copy
import json
from dataclasses import asdict
from functools import cache

import pytest
from omegaconf import OmegaConf


@pytest.fixture
def make_run(tmp_path):
    """Return a maker of run folders; rows given replace the usual ones."""

    def make(name="a", rows=None, lr=0.3, seed=0, status="finished", **log_eval):
        folder = tmp_path / "runs" / "simclr" / name
        folder.mkdir(parents=True)
        config = {
            "mode": "fit",
            "data": {
                "num_classes": 10,
                "train": {"dataset": {"name": "digits", "subset": "train"}},
                "test": {"dataset": {"name": "digits", "subset": "test"}},
            },
            "model": {"name": "simclr"},
            "optim": {"lr": lr, "epochs": 2, "steps": None},
            "hardware": {"seed": seed},
            "log": {
                "run": name,
                "monitor": "val/knn_acc1",
                "eval": {"knn": {"k": 7}, "linear": {"lr": 0.001}, **log_eval},
            },
        }
        (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        (folder / "overrides.yaml").write_text(f"- optim.lr={lr}\n")
        (folder / "status.json").write_text(
            json.dumps({"status": status, "reason": ""})
        )
        rows = usual_rows() if rows is None else rows
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metrics.jsonl").write_text(text)
        probed = config["log"]["eval"]["linear"] is not None
        (folder / "metrics.json").write_text(stated(probed))
        return folder

    return make


@cache
def stated(probed=True):
    """Return what evaluators state of the metrics in the rows, as metrics.json."""
    from stable_ssl.evaluation.config import KnnConfig
    from stable_ssl.evaluation.few_labels import FewLabels
    from stable_ssl.evaluation.knn import Knn
    from stable_ssl.evaluation.predictions import Predictions

    evaluators = Knn(KnnConfig(k=7)), FewLabels(["2", "10"])
    evaluators += (Predictions("multiclass", probed, {}, {}),)
    metrics = {n: asdict(m) for e in evaluators for n, m in e.metrics.items()}
    return json.dumps(metrics)


def usual_rows():
    def row(step, **values):
        clock = {"step": step, "epoch": step / 10, "time": 1e9 + step}
        return clock | {k.replace("__", "/"): v for k, v in values.items()}

    few = {"test__few10_acc1": 0.6, "test__few2_acc1": 0.4}
    return [
        row(0, val__acc1=0.1, val__knn_acc1=0.7),
        row(0, test__acc1=0.12, test__knn_acc1=0.71, test__knn_acc5=0.9, **few),
        row(10, train__loss=3.0, train__lr=0.3),
        row(10, val__acc1=0.9, val__knn_acc1=0.99),
        row(20, train__loss=2.0, train__lr=0.1),
        row(20, val__acc1=0.95, val__knn_acc1=0.97),
        row(20, test__acc1=0.9512, test__knn_acc1=0.9634, test__few2_acc1=0.805),
    ]


@cache
def _recipe():
    """Compose SimCLR once: it takes as long as writing 50 runs."""
    from stable_ssl.config import load_config

    return load_config("simclr", ["data.num_classes=10"])


@pytest.fixture
def make_study(tmp_path):
    """Return a maker of runs of a study, written as the library writes them."""
    from stable_ssl.loggers.jsonl import JsonLines
    from stable_ssl.secrets import to_yaml

    config = copy.deepcopy(_recipe())

    def make(name, accuracies, **keys):
        """Write a run whose val and test accuracies an epoch of 10 steps are these."""
        for key, value in (keys | {"log__run": name}).items():
            OmegaConf.update(config, key.replace("__", "."), value)
        folder = tmp_path / "study" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(to_yaml(config))
        (folder / "status.json").write_text('{"status": "finished", "reason": ""}')
        (folder / "metrics.json").write_text(stated())
        rows = JsonLines(folder / "metrics.jsonl", 0)
        for epoch, accuracy in enumerate(accuracies, 1):
            place = {"step": 10 * epoch, "epoch": float(epoch), "time": 1e9 + epoch}
            rows.write(place | {"train/loss": 1 - accuracy, "train/lr": 0.1})
            rows.write(place | {"val/knn_acc1": accuracy})
            rows.write(place | {"test/knn_acc1": accuracy - 0.01})
        rows.close()
        return folder

    return make
