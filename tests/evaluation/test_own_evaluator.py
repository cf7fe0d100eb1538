"""Evaluators of a researcher's own: by `_target_`, on N processes, in every table."""

import json

import pytest
import torch
from torch.nn.functional import cross_entropy

import stable_ssl
from stable_ssl import ConfigError, SimCLR, distributed, load_config, report
from stable_ssl.loggers.names import axis_label

HERE = __name__
QUICK = ("optim.epochs=2", "data.train.dataset.subset=val", "data.batch_size=100")
OFF = ("log.eval.knn=null", "log.eval.linear=null", "log.pictures=null")


class Norms(stable_ssl.Evaluator):
    """The mean norm of the features; draws a number nobody else may miss."""

    metrics = {"norm": stable_ssl.Metric("mean norm", "norm", "2-norm of features")}

    def __init__(self, power=2.0):
        self.power = power

    def __call__(self, split):
        torch.rand(3)
        yield "norm", split.features.norm(self.power, dim=1).mean()


class Shares(Norms):
    """The same, of each rank's own share."""

    each_rank = True
    metrics = {}

    def __call__(self, split):
        sums = split.features.norm(self.power, dim=1).sum(), len(split.features)
        whole = distributed.all_gather_object([float(value) for value in sums])
        yield "norm_of_shares", sum(s for s, _ in whole) / sum(n for _, n in whole)


class Nonlinear(stable_ssl.OnlineEvaluator):
    """A probe with a hidden layer and dropout, and the accuracy of its own."""

    needs_labels = True

    def build(self, dim, num_classes, seed, device):
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(dim, 32), torch.nn.Dropout(0.1), torch.nn.ReLU()
        ).append(torch.nn.Linear(32, num_classes))
        self.optimizer = torch.optim.SGD(self.layers.parameters(), lr=0.1)

    def fit(self, features, labels):
        loss = cross_entropy(self.layers.train()(features), labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def __call__(self, split):
        logits = self.layers.eval()(split.features)
        yield "mlp_acc1", (logits.argmax(1) == split.labels).float().mean()

    def state_dict(self):
        return self.layers.state_dict()

    def load_state_dict(self, state):
        self.layers.load_state_dict(state)


def nodes(**names):
    return [f"++log.eval.{n}={{_target_: {HERE}.{c}}}" for n, c in names.items()]


def trained(config, *overrides):
    trainer = SimCLR(config("simclr", *QUICK, "log.monitor=null", *overrides))
    trainer.run()
    return trainer


def test_it_is_in_rows_tables_and_pages_with_the_label_it_states(config, rows):
    every = f"++log.eval.mine={{_target_: {HERE}.Norms, power: 1, every_n_epochs: 2}}"
    trainer = trained(config, *OFF, every)
    split = [row for row in rows(trainer.run_dir) if "val/norm" in row]
    assert [row["epoch"] for row in split] == [2.0]
    (run,) = report.load(trainer.run_dir)[0].to_dict("records")
    assert run["test/norm"] == trainer.metrics["test/norm"] > 0
    assert axis_label("test/norm") == "test mean norm"
    assert "test mean norm" in str(report.table(*runs(trainer), value="test/norm"))
    page = report.page(trainer.run_dir, out=trainer.run_dir / "page.html").read_text()
    assert '"words":"norm"' in page
    stated = json.loads((trainer.run_dir / "metrics.json").read_text())
    assert stated["norm"]["protocol"] == "2-norm of features"


def runs(trainer):
    return report.load(trainer.run_dir)[:1]


def test_it_disturbs_nothing(config):
    plain = trained(config, "log.run=plain").state_dict()
    overrides = nodes(a="Norms", b="Shares", c="Nonlinear")
    watched = trained(config, "log.run=watched", *overrides)
    assert watched.metrics["train/c_loss"] > 0 and watched.metrics["val/mlp_acc1"] > 0.1
    for name, value in watched.state_dict().items():
        assert torch.equal(value, plain[name]), name


def test_what_it_learned_is_resumed(config, rows):
    whole = trained(config, "log.run=whole", *nodes(c="Nonlinear"))
    half = SimCLR(config("simclr", *QUICK, "log.run=half", *nodes(c="Nonlinear")))
    half.setup()
    half.train_epoch()
    half.cleanup()
    resumed = trained(config, "log.run=half", *nodes(c="Nonlinear"))
    assert resumed.metrics["val/mlp_acc1"] == whole.metrics["val/mlp_acc1"]
    probes = (run.evaluation.online["c"].state_dict() for run in (whole, resumed))
    assert all(map(torch.equal, *(probe.values() for probe in probes)))


def on_a_rank(folder):
    where = [f"log.folder={folder}", f"log.run=ranks{distributed.rank()}"]
    overrides = nodes(a="Norms", b="Shares")
    quick = [*QUICK, *OFF, *where, *overrides, "log.monitor=null"]
    config = load_config("simclr", [*quick, "log.eval.untrained=true"])
    trainer = SimCLR(config)
    trainer.setup()
    values = trainer.evaluate("test")
    trainer.cleanup()
    return values


def test_it_measures_the_whole_split_on_two_processes(ranks, tmp_path):
    whole = on_a_rank(tmp_path / "one")
    assert whole["test/norm_of_shares"] == pytest.approx(whole["test/norm"])
    for values in ranks(2, on_a_rank, tmp_path / "two"):
        assert values == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("{_target_: nowhere.Mine}", "log.eval.mine: nowhere.Mine cannot be imported"),
        ("{_target_: torch.nn.Linear}", "torch.nn.Linear is no stable_ssl.Evaluator"),
        (f"{{_target_: {HERE}.Norms, powr: 2}}", "log.eval.mine: .*powr"),
        ("{k: 20}", "log.eval.mine is not a key of the configuration"),
        (f"{{_target_: {HERE}.Norms, splits: train}}", "splits=train: write a list"),
        (f"{{_target_: {HERE}.Norms, every_n_epochs: 0}}", "every_n_epochs=0: write"),
    ],
)
def test_a_wrong_one_is_refused_before_training(config, node, message):
    with pytest.raises(ConfigError, match=message):
        trained(config, f"++log.eval.mine={node}")


def test_two_of_one_name_are_refused(config):
    with pytest.raises(ConfigError, match="log.eval.b: norm is measured by a already"):
        trained(config, *OFF, *nodes(a="Norms", b="Norms"))
