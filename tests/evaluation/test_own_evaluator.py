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


class Banked(stable_ssl.Evaluator):
    """What a bank of all ranks says, to one that does not share it."""

    needs_bank = True

    def __call__(self, split):
        features, labels = split.bank
        weights = torch.arange(1.0, len(labels) + 1)  # its order counts
        yield "banked", (features.sum(1) * weights * labels).mean()


class Masked(stable_ssl.Evaluator):
    """Select features by labels that are no numbers of classes."""

    def __call__(self, split):
        yield "chosen", float(len(split.features[split.labels[:, 0]]))


class Autoencoder(stable_ssl.OnlineEvaluator):
    """Learn of features, and of no labels."""

    needs_labels = False

    def build(self, dim, num_classes, device):
        self.layer = torch.nn.Linear(dim, dim)
        self.optimizer = torch.optim.SGD(self.layer.parameters(), lr=0.01)

    def fit(self, features, labels):
        loss = (self.layer(features) - features).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def __call__(self, split):
        features = split.features
        yield "error", (self.layer(features) - features).square().mean().detach()

    def state_dict(self):
        return self.layer.state_dict()

    def load_state_dict(self, state):
        self.layer.load_state_dict(state)


class Nonlinear(stable_ssl.OnlineEvaluator):
    """A probe with a hidden layer and dropout, and the accuracy of its own."""

    needs_labels = True

    def build(self, dim, num_classes, device):
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


def test_labels_of_another_kind_reach_evaluators_as_they_are(config):
    images = torch.rand(40, 1, 8, 8)
    labels = torch.arange(40)[:, None] % torch.tensor([4, 2, 3]) == 0  # (N, 3) bool
    data = torch.utils.data.TensorDataset(images, labels)

    def pairs(batch):
        views, tags = map(torch.stack, zip(*batch, strict=True))
        return [views, views], tags

    train = torch.utils.data.DataLoader(data, 20, collate_fn=pairs)
    val = torch.utils.data.DataLoader(data, 20)
    keys = ["optim.epochs=1", *OFF, "log.monitor=null", "data.num_classes=3"]
    own = config("simclr", *keys, *nodes(a="Masked", b="Autoencoder"))
    run = SimCLR(own, train=train, val=val)
    run.run()
    assert run.metrics["val/chosen"] == 10 and run.metrics["val/error"] > 0


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


class Counts(stable_ssl.Evaluator):
    """How often it was asked, over all launches of the run."""

    calls = 0

    def __call__(self, split):
        self.calls += 1
        yield "calls", self.calls

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state.pop("calls")  # the state is its own


class Centres(stable_ssl.Evaluator):
    """Centre the features in place, which others see too."""

    needs_bank = True

    def __call__(self, split):
        split.bank[0].sub_(split.bank[0].mean(0))
        yield "centred", 0.0


class Yields(stable_ssl.Evaluator):
    def __init__(self, name="knn_acc1", value=0.5):
        self.pair = name, value

    def __call__(self, split):
        yield self.pair


def test_one_with_a_state_goes_on_counting(config, rows):
    keys = *QUICK, *OFF, *nodes(n="Counts"), "log.monitor=null"
    half = SimCLR(config("simclr", *keys))
    half.setup()
    half.train_epoch()
    half.cleanup()
    resumed = trained(config, *OFF, *nodes(n="Counts"))
    calls = [row["val/calls"] for row in rows(resumed.run_dir) if "val/calls" in row]
    assert calls == [1, 2] and resumed.metrics["test/calls"] == 3


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("{_target_: %s.Centres}", "Centres changed features or labels in place"),
        ("{_target_: %s.Yields}", "Yields yields knn_acc1, which is measured already"),
        ("{_target_: %s.Yields, name: a, value: [1, 2]}", "a name and a number"),
        ("{_target_: %s.Yields, name: a, value: text}", "a name and a number"),
    ],
)
def test_one_that_would_change_figures_of_others_is_refused(config, node, message):
    with pytest.raises(ConfigError, match=message):
        trained(config, f"++log.eval.mine={node % HERE}")


def test_a_name_of_the_library_is_refused_and_null_turns_one_off(config):
    with pytest.raises(ConfigError, match="log.eval.probe is the name of one"):
        trained(config, *nodes(probe="Norms"))
    off = config("simclr", *nodes(mine="Norms"), "log.eval.mine=null")
    assert "mine" not in SimCLR(off).config.log.eval or off.log.eval.mine is None
    with pytest.raises(ConfigError, match="did you mean 'knn'"):
        config("simclr", "++log.eval.knnn=null")


def test_a_metric_that_is_rarely_measured_ends_and_ranks_by_its_own_values(config):
    node = f"++log.eval.n={{_target_: {HERE}.Counts, every_n_epochs: 3}}"
    keys = ["optim.epochs=6", "log.monitor=val/calls", "log.early_stopping.patience=1"]
    quick = [key for key in QUICK if "epochs" not in key]
    run = SimCLR(config("simclr", *quick, *OFF, *keys, node))
    run.run()
    assert run.epoch == 6 and run.stopped is None
    assert {path.name for path in run.checkpoints.folder.glob("e*")} >= {
        "e006_s000012.ckpt"
    }


@pytest.mark.parametrize("mode", ["validate", "test"])
def test_one_that_is_rarely_measured_is_in_an_evaluation_alone(config, mode):
    node = f"++log.eval.n={{_target_: {HERE}.Norms, power: 1, every_n_epochs: 5}}"
    last = trained(config, *OFF, node).checkpoints.folder / "last.ckpt"
    own = [*OFF, node, f"mode={mode}", f"log.load_from={last}", "log.monitor=null"]
    run = SimCLR(config("simclr", *own))
    run.run()
    assert run.metrics[f"{'val' if mode == 'validate' else 'test'}/norm"] > 0


def probed_on_a_rank(folder):
    where = [f"log.folder={folder}", f"log.run=ranks{distributed.rank()}"]
    double = [*QUICK, *OFF, *where, *nodes(c="Nonlinear"), "log.monitor=null"]
    trainer = SimCLR(load_config("simclr", double))
    trainer.run()
    state = trainer.evaluation.online["c"].state_dict()
    return trainer.metrics["val/mlp_acc1"], {n: t.clone() for n, t in state.items()}


@pytest.mark.slow
def test_one_that_trains_is_one_on_two_processes(ranks, tmp_path):
    accuracy, whole = probed_on_a_rank(tmp_path / "one")
    (first, one), (second, two) = ranks(2, probed_on_a_rank, tmp_path / "two")
    assert first == second == pytest.approx(accuracy, abs=0.03)
    for name, value in whole.items():
        assert torch.equal(one[name], two[name])
        assert torch.allclose(one[name], value, atol=1e-3)


def on_a_rank(folder):
    where = [f"log.folder={folder}", f"log.run=ranks{distributed.rank()}"]
    overrides = nodes(a="Norms", b="Shares", c="Banked")
    quick = [*QUICK, *OFF, *where, *overrides, "log.monitor=null"]
    config = load_config("simclr", [*quick, "log.eval.untrained=true"])
    trainer = SimCLR(config)
    trainer.setup()
    values = trainer.evaluate("test")
    trainer.cleanup()
    return values


@pytest.mark.slow
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
