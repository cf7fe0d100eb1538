"""An override keeps every promise: what a researcher may write, and what then holds."""

import json
import re

import pytest
import torch
from omegaconf import OmegaConf

from stable_ssl import load_config, models
from stable_ssl.config import ConfigError
from tests.conftest import Tiny

BARE = [  # four steps, and nothing beside them
    "optim.epochs=null",
    "optim.steps=4",
    "optim.scheduler.warmup_epochs=0",
    "log.every_n_steps=1",
    "log.eval.untrained=false",
    "log.eval.few_labels=[]",
    "log.eval.linear=null",
    "log.eval.knn=null",
    "log.monitor=null",
    "log.pictures=null",
    "log.run=run",
    "data.val=null",
    "data.test=null",
]


def make(trainer, folder, *overrides):
    """Return the trainer under a bare config, which the overrides change."""
    keys = {override.lstrip("+").partition("=")[0] for override in overrides}
    bare = [o for o in BARE if o.partition("=")[0] not in keys]
    return trainer(load_config("base", [*bare, f"log.folder={folder}", *overrides]))


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.state_dict().items()}


def same(a, b):
    """Return whether two states, of tensors by name, have the same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def apart(a, b):
    """Return by how much two states differ at most."""
    return max((a[name] - b[name]).abs().max().item() for name in a)


def trained(trainer, folder, *overrides):
    """Train; return step, weights and metrics. The same on every rank."""
    torch.set_num_threads(1)
    run = make(trainer, folder, *overrides)
    run.run()
    return {
        "step": run.step,
        "weights": weights(run),
        "metrics": dict(run.metrics),
        "run_dir": str(run.run_dir),
    }


class Double(Tiny):
    """The smallest trainer in float64, which shows what rounding would hide."""

    def initialize_modules(self):
        super().initialize_modules()
        self.double()

    def forward(self, x):
        return super().forward(x.double())


# --- a train step of one's own --------------------------------------------------------


def mixed(batch):
    """Return a batch whose images are each halfway to their neighbour."""
    views, labels = batch
    return [(view + view.roll(1, 0)) / 2 for view in views], labels


class MixesInStep(Tiny):
    """Mixup: hand a changed batch on."""

    def train_step(self, batch):
        return super().train_step(mixed(batch))


class MixesInLoss(Tiny):
    """The same images, changed where the loss is computed."""

    def compute_loss(self):
        batch, self.data = self.data, mixed(self.data)
        try:
            return super().compute_loss()
        finally:
            self.data = batch


def test_a_changed_batch_handed_to_train_step_is_trained_on(tmp_path):
    plain, step, loss = (
        trained(kind, tmp_path / kind.__name__)["weights"]
        for kind in (Tiny, MixesInStep, MixesInLoss)
    )
    assert not same(plain, loss)
    assert same(step, loss)


class OwnBackward(Double):
    """A backward pass of one's own; who steps the optimizer averages over the ranks."""

    def train_step(self, batch):
        self.compute_loss().backward()
        self.optimizer_step()


@pytest.mark.slow
def test_an_own_backward_pass_trains_one_model_on_two_processes(ranks, tmp_path):
    one = trained(OwnBackward, tmp_path / "one")["weights"]
    two = ranks(2, trained, OwnBackward, str(tmp_path / "two"))
    assert same(two[0]["weights"], two[1]["weights"])
    assert apart(one, two[0]["weights"]) < 1e-8


class ByHand(Tiny):
    """What a bare loop of torch does with a batch."""

    def train_step(self, batch):
        self.compute_loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def test_an_optimizer_stepped_by_hand_is_counted(tmp_path, rows):
    reference, hand = make(Tiny, tmp_path / "own"), make(ByHand, tmp_path / "hand")
    reference.run()
    hand.run()
    assert hand.step == reference.step == 4
    expected, found = rows(reference.run_dir), rows(hand.run_dir)
    assert [row["train/lr"] for row in found] == [r["train/lr"] for r in expected]
    assert [row["step"] for row in found] == [1, 2, 3, 4]
    assert list(hand.run_dir.glob("ckpts/*_s000004.ckpt"))
    assert same(weights(hand), weights(reference))


class NeverSteps(Tiny):
    """A gradient that nobody uses."""

    def train_step(self, batch):
        self.compute_loss().backward()


def test_a_round_in_which_no_optimizer_stepped_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="step"):
        make(NeverSteps, tmp_path).run()


class Killed(Exception):
    """Stands for the end of a process."""


class Critic(Tiny):
    """A second optimizer, of a second module, stepped by hand before the first."""

    dies_at = None  # step

    def initialize_modules(self):
        super().initialize_modules()
        self.critic = torch.nn.Linear(10, 1)

    def initialize_optimizer(self):
        super().initialize_optimizer()
        self.optimizer_d = torch.optim.Adam(self.critic.parameters(), lr=0.01)

    def before_train_step(self):
        if self.step == self.dies_at:
            raise Killed

    def train_step(self, batch):
        views, _ = batch
        critic_loss = self.critic(self(views[0]).detach()).square().mean()
        critic_loss.backward()
        self.optimizer_d.step()
        self.optimizer_d.zero_grad()
        return super().train_step(batch)


class KilledCritic(Critic):
    """The same, dying between two checkpoints."""

    dies_at = 3


SAVED = ["optim.steps=6", "log.checkpoint.every_n_steps=2"]


def test_a_second_optimizer_resumes_exactly(tmp_path):
    whole = make(Critic, tmp_path / "whole", *SAVED)
    whole.run()
    with pytest.raises(Killed):
        make(KilledCritic, tmp_path / "killed", *SAVED).run()
    resumed = make(Critic, tmp_path / "killed", *SAVED)
    resumed.run()
    assert "resumed at" in (resumed.run_dir / "console.log").read_text()
    assert whole.step == resumed.step == 6
    assert same(weights(whole), weights(resumed))
    states = (run.optimizer_d.state_dict()["state"] for run in (whole, resumed))
    for a, b in zip(*(state.values() for state in states), strict=True):
        assert same(a, b)


def test_a_parameter_belongs_to_one_optimizer(tmp_path):
    run = make(Critic, tmp_path)
    run.setup()
    try:
        main, other = (
            {id(p) for group in optimizer.param_groups for p in group["params"]}
            for optimizer in (run.optimizer, run.optimizer_d)
        )
        assert other == {id(p) for p in run.critic.parameters()}
        assert main == {id(p) for p in run.layer.parameters()}
    finally:
        run.cleanup()


class Gan(Double):
    """Two optimizers and two backward passes a step; what one adds to the other's
    gradient is not used.
    """

    dies_at = None

    def initialize_modules(self):
        super().initialize_modules()
        self.judge = torch.nn.Linear(10, 1).double()

    def initialize_optimizer(self):
        self.optimizers = {
            "generator": torch.optim.Adam(self.layer.parameters(), lr=0.01),
            "judge": torch.optim.SGD(self.judge.parameters(), lr=0.1, momentum=0.9),
        }

    def before_train_step(self):
        if self.step == self.dies_at:
            raise Killed

    def train_step(self, batch):
        views, labels = batch
        made = self(views[0])
        self.optimizers["judge"].zero_grad()
        self.backward(self.judge(made.detach()).square().mean())
        self.optimizer_step("judge")
        fooled = -self.judge(made).square().mean()
        self.backward(torch.nn.functional.cross_entropy(made, labels) + 0.1 * fooled)
        self.optimizer_step("generator")


class KilledGan(Gan):
    dies_at = 5


CLIPPED = ["++optim.grad_max_norm=0.3", "optim.steps=7"]


def test_two_optimizers_with_two_backward_passes_resume_exactly(tmp_path, rows):
    saved = [*CLIPPED, "log.checkpoint.every_n_steps=2"]
    whole = make(Gan, tmp_path / "whole", *saved)
    whole.run()
    with pytest.raises(Killed):
        make(KilledGan, tmp_path / "killed", *saved).run()
    resumed = make(Gan, tmp_path / "killed", *saved)
    resumed.run()
    assert same(weights(whole), weights(resumed))
    assert rows(whole.run_dir) == rows(resumed.run_dir)
    row = rows(whole.run_dir)[-1]
    assert {"train/lr_generator", "train/lr_judge"} <= row.keys()
    assert {"train/grad_norm_generator", "train/grad_norm_judge"} <= row.keys()


@pytest.mark.slow
def test_two_optimizers_with_two_backward_passes_on_two_processes(ranks, tmp_path):
    one = trained(Gan, tmp_path / "one", *CLIPPED)["weights"]
    two = ranks(2, trained, Gan, str(tmp_path / "two"), *CLIPPED)
    assert same(two[0]["weights"], two[1]["weights"])
    assert apart(one, two[0]["weights"]) < 1e-8


class Astray(Double):
    """Change a weight otherwise on each rank."""

    def after_train_step(self):
        with torch.no_grad():
            self.layer.bias += 1e-12 * self.rank


class ProbeAstray(Double):
    """Change a weight of the online probe otherwise on each rank."""

    def after_train_step(self):
        with torch.no_grad():
            self.evaluation.probe.classifier.bias += self.rank


def refused(trainer, folder):
    """Return why a run ended."""
    torch.set_num_threads(1)
    with pytest.raises(ConfigError) as error:
        make(trainer, folder, PROBED).run()
    return str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer", "tensor"),
    [(Astray, "layer.bias"), (ProbeAstray, "probe.module.classifier.bias")],
)
def test_ranks_that_do_not_train_one_model_are_told(ranks, tmp_path, trainer, tensor):
    for words in ranks(2, refused, trainer, str(tmp_path)):
        assert f"{tensor} differs by step 1" in words


# --- features of the probe ------------------------------------------------------------


class Each(Double):
    """Encode each view by itself; count the calls of `forward`."""

    hands_over = False  # the first view's features to the probe

    def before_train_epoch(self):
        self.calls = 0

    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x)

    def encode_views(self, views):
        return [self(view) for view in views]

    def compute_loss(self):
        views, labels = self.data
        features = self.encode_views(views)
        losses = [torch.nn.functional.cross_entropy(f, labels) for f in features]
        loss = sum(losses) / len(losses)
        return {"loss": loss, "features": features[0]} if self.hands_over else loss


class Together(Each):
    """Encode all views in one call."""

    def encode_views(self, views):
        return self(torch.cat(views)).chunk(len(views))


class EachHandedOver(Each):
    hands_over = True


class TogetherHandedOver(Together):
    hands_over = True


PROBED = "log.eval.linear={lr: 3.0e-3}"


def probe_losses(run, rows):
    return [row["train/probe_loss"] for row in rows(run.run_dir)]


def test_the_probe_sees_the_same_features_however_views_are_encoded(tmp_path, rows):
    each = make(Each, tmp_path / "each", PROBED)
    together = make(Together, tmp_path / "together", PROBED)
    each.run()
    together.run()
    assert apart(weights(each), weights(together)) < 1e-12
    losses = probe_losses(each, rows)
    assert len(losses) == 4
    assert probe_losses(together, rows) == pytest.approx(losses, rel=1e-5)


def test_features_that_the_loss_hands_over_are_not_encoded_again(tmp_path, rows):
    each = make(EachHandedOver, tmp_path / "each", PROBED)
    together = make(TogetherHandedOver, tmp_path / "together", PROBED)
    each.run()
    together.run()
    assert (each.calls, together.calls) == (2 * 4, 4)
    losses = probe_losses(each, rows)
    assert probe_losses(together, rows) == pytest.approx(losses, rel=1e-5)
    assert "train/features" not in together.metrics


# --- batches of any form --------------------------------------------------------------


class Relabelled(Tiny):
    """Evaluate 30 images and then 10, whose labels have another form."""

    @staticmethod
    def form(digits):
        return digits

    @staticmethod
    def digits(labels):
        return labels

    def initialize_data(self):
        super().initialize_data()
        (x, labels), *_ = self.loaders["val"]
        parts = zip(x[:40].split([30, 10]), labels[:40].split([30, 10]), strict=True)
        self.loaders["val"] = [(part, self.form(y)) for part, y in parts]
        self.expected = labels[:40].double().mean().item()

    def eval_step(self, batch):
        _, labels = batch
        self.log({"val/digit": self.digits(labels).double().mean()})


class LabelledByDict(Relabelled):
    @staticmethod
    def form(digits):
        return {"digit": digits, "odd": digits % 2}

    @staticmethod
    def digits(labels):
        return labels["digit"]


class LabelledByTuple(Relabelled):
    @staticmethod
    def form(digits):
        return digits, digits % 2

    @staticmethod
    def digits(labels):
        return labels[0]


DIGITS = "data.val={dataset: {name: digits, subset: val}}"


def test_a_batch_weighs_its_samples(tmp_path):
    run = make(Relabelled, tmp_path, DIGITS)
    run.run()
    assert run.metrics["val/digit"] == pytest.approx(run.expected, rel=1e-12)


@pytest.mark.parametrize("kind", [LabelledByDict, LabelledByTuple])
def test_a_batch_whose_labels_are_a_dict_or_a_tuple_weighs_its_samples(tmp_path, kind):
    run = make(kind, tmp_path, DIGITS)
    run.run()
    assert run.metrics["val/digit"] == pytest.approx(run.expected, rel=1e-12)


class WithMeta:
    """A loader whose batches carry a third entry, (x, y, meta)."""

    def __init__(self, loader):
        self.loader = loader

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for x, labels in self.loader:
            yield x, labels, {"row": torch.arange(len(labels))}


class ReadsLabels(Tiny):
    """Read the first two entries of a batch, however many there are."""

    def compute_loss(self):
        views, labels, *_ = self.data
        return torch.nn.functional.cross_entropy(self(views[0]), labels)


class ReadsMeta(ReadsLabels):
    """The same, of batches of three."""

    def initialize_data(self):
        super().initialize_data()
        self.loaders = {name: WithMeta(own) for name, own in self.loaders.items()}
        self.train_loader = self.loaders["train"]


def test_of_a_batch_of_three_the_first_is_the_image_and_the_second_the_label(
    tmp_path, rows
):
    options = PROBED, "log.eval.knn={k: 20}", DIGITS
    two = make(ReadsLabels, tmp_path / "two", *options)
    three = make(ReadsMeta, tmp_path / "three", *options)
    two.run()
    three.run()
    assert "val/knn_acc1" in two.metrics and "val/acc1" in two.metrics
    assert rows(three.run_dir) == rows(two.run_dir)
    assert same(weights(three), weights(two))


# --- what is logged -------------------------------------------------------------------


class Median(Double):
    """Report the median brightness of the images of a split."""

    def before_eval_epoch(self):
        self.brightness = []

    def after_eval_step(self):
        images, _ = self.data
        self.brightness.append(images.double().mean((1, 2, 3)))

    def after_eval_epoch(self):
        values = torch.cat(self.brightness)
        self.log({"val/median": values}, reduce=torch.median)


@pytest.mark.slow
def test_a_median_over_two_processes_is_that_of_the_split(ranks, tmp_path):
    one = trained(Median, tmp_path / "one", DIGITS)["metrics"]["val/median"]
    for rank in ranks(2, trained, Median, str(tmp_path / "two"), DIGITS):
        assert rank["metrics"]["val/median"] == pytest.approx(one, rel=1e-8)


# --- schedule, teacher, end -----------------------------------------------------------


def test_a_schedule_of_ones_own_moves_the_rate_at_every_step(tmp_path, rows):
    config = OmegaConf.to_container(make(Tiny, tmp_path).config)
    target = "torch.optim.lr_scheduler.ExponentialLR"
    config["optim"]["scheduler"] = {"_target_": target, "gamma": 0.5}
    run = Tiny(config)
    run.run()
    rates = [row["train/lr"] for row in rows(run.run_dir)]
    assert rates == [config["optim"]["lr"] * 0.5**step for step in range(4)]


def halving(step, total_steps, power=1):
    return 0.5 ** (power * step / total_steps)


@pytest.mark.parametrize(
    ("words", "factors"),
    [
        ("{name: ExponentialLR, gamma: 0.5}", [1, 0.5, 0.25, 0.125]),
        ("{name: StepLR, step_size: 2, gamma: 0.1}", [1, 1, 0.1, 0.1]),
        (f"{{_target_: {__name__}.halving, power: 4}}", [1, 0.5, 0.25, 0.125]),
    ],
)
def test_a_schedule_by_name_or_as_a_function_of_the_step(
    tmp_path, rows, words, factors
):
    run = make(Tiny, tmp_path, f"++optim.scheduler={words}", "optim.lr=0.5")
    run.run()
    rates = [row["train/lr"] for row in rows(run.run_dir)]
    assert rates == pytest.approx([0.5 * factor for factor in factors])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("{name: StepLR}", "step_size"),
        ("{name: NoSuchLR}", "NoSuchLR"),
        ("{name: ReduceLROnPlateau}", "waits for a metric"),
        ("{_target_: my.own}", "my.own"),
    ],
)
def test_a_schedule_that_cannot_be_built_is_refused_in_words(tmp_path, words, said):
    with pytest.raises(ConfigError, match=said):
        make(Tiny, tmp_path, f"++optim.scheduler={words}").setup()


class Taught(Tiny):
    """A teacher that follows its student."""

    def initialize_modules(self):
        super().initialize_modules()
        self.teacher = models.EMA(self.layer)

    def after_train_step(self):
        self.teacher.update(self.layer, self.step, self.total_steps)


class Forgotten(Taught):
    """A teacher that nobody updates."""

    def after_train_step(self):
        pass


def test_a_moving_average_that_did_not_move_is_named(tmp_path, recwarn):
    said = {}
    for kind in (Taught, Forgotten):
        run = make(kind, tmp_path / kind.__name__, "optim.steps=18")  # two epochs
        run.run()
        lines = (run.run_dir / "console.log").read_text().splitlines()
        lines += [str(warning.message) for warning in recwarn]
        recwarn.clear()
        said[kind] = [line for line in lines if re.search(r"\bteacher\b", line)]
    assert not said[Taught]
    assert said[Forgotten]


class Stops(Double):
    """Stop early, as one of the processes decides."""

    def after_train_step(self):
        if self.step == 3 and self.rank == self.world_size - 1:
            self.stop("the loss is low enough")


@pytest.mark.slow
def test_a_run_that_is_stopped_ends_cleanly_on_all_processes(ranks, tmp_path):
    two = ranks(2, trained, Stops, str(tmp_path), "optim.steps=18")
    assert two[0]["step"] == two[1]["step"]
    assert 3 <= two[0]["step"] <= 5  # the word reaches the others a step later
    assert same(two[0]["weights"], two[1]["weights"])
    folder = tmp_path / "runs" / "default" / "run"
    assert str(folder) == two[0]["run_dir"]
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "finished"
    assert "the loss is low enough" in status["reason"]
    assert list(folder.glob(f"ckpts/*_s{two[0]['step']:06d}.ckpt"))


# --- gradients of a round that are used more than once, or by somebody else ----------


class Pairs(Double):
    """Two optimizers, each stepped after its own backward pass, in either order."""

    order = ("main", "judge")

    def initialize_modules(self):
        super().initialize_modules()
        self.judge = torch.nn.Linear(64, 1).double()

    def initialize_optimizer(self):
        self.optimizers = {
            "main": torch.optim.SGD(self.layer.parameters(), lr=0.1),
            "judge": torch.optim.SGD(self.judge.parameters(), lr=0.1),
        }

    def judged(self, batch):
        return self.judge(batch[0][0].flatten(1).double()).square().mean()

    def train_step(self, batch):
        losses = {"main": lambda: self.loss(batch), "judge": lambda: self.judged(batch)}
        for name in self.order:
            self.backward(losses[name]())
            self.optimizer_step(name)


class Reversed(Pairs):
    order = ("judge", "main")


class AtOnce(Pairs):
    """Both backward passes, then both steps."""

    def train_step(self, batch):
        self.backward(self.loss(batch) + self.judged(batch))
        self.optimizer_step()


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("trainer", [Pairs, Reversed])
def test_pairs_of_backward_and_step_are_those_at_once(tmp_path, trainer, accumulate):
    keys = f"optim.accumulate={accumulate}", "data.batch_size=64"
    pairs = trained(trainer, tmp_path / "pairs", *keys)["weights"]
    at_once = trained(AtOnce, tmp_path / "once", *keys)["weights"]
    assert apart(pairs, at_once) < 1e-12


class Thawed(Double):
    """Unfreeze a layer after setup, as a fine-tuning does after some epochs."""

    late = True

    def initialize_modules(self):
        super().initialize_modules()
        self.hidden = torch.nn.Linear(64, 64).double()
        self.hidden.requires_grad_(not self.late)

    def initialize_optimizer(self):
        self.optimizers = {"main": torch.optim.SGD(self.parameters(), lr=0.1)}

    def forward(self, x):
        return super().forward(self.hidden(x.flatten(1).double()).view(-1, 1, 8, 8))

    def before_train_epoch(self):
        self.hidden.requires_grad_(True)


class ThawedBefore(Thawed):
    late = False


def thawed_on_a_rank(folder, trainer):
    keys = "optim.accumulate=3", "data.batch_size=64"
    return trained(trainer, folder, *keys)["weights"]


def test_what_is_unfrozen_after_setup_is_averaged_too(ranks, tmp_path):
    before = thawed_on_a_rank(tmp_path / "before", ThawedBefore)
    assert apart(thawed_on_a_rank(tmp_path / "late", Thawed), before) < 1e-12
    for rank in ranks(2, thawed_on_a_rank, tmp_path / "ranks", Thawed):
        assert apart(rank, before) < 1e-12


class OnOneRank(Double):
    """A backward pass on rank 0 alone, whose gradient then counts as half of one."""

    def train_step(self, batch):
        loss = self.loss(batch)
        if self.rank == 0:
            self.backward(loss)
        self.optimizer_step()


def on_one_rank(folder):
    return trained(OnOneRank, folder)["weights"]


@pytest.mark.slow
def test_a_gradient_that_only_one_rank_has_is_zero_on_the_other(ranks, tmp_path):
    one, two = ranks(2, on_one_rank, tmp_path)
    assert same(one, two)


class OwnClip(Tiny):
    """Clip by hand what the step will use."""

    def optimizer_step(self, name=None):
        self.average_gradients()
        torch.nn.utils.clip_grad_norm_(self.parameters(), 0.1)
        super().optimizer_step(name)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_an_own_clip_sees_gradients_of_one_scale(tmp_path, precision):
    keys = f"hardware.precision={precision}", "optim.lr=1", "optim.steps=1"
    keys += ("optim.scheduler=null", "optim.momentum=0", "optim.weight_decay=0")
    torch.manual_seed(0)
    run = make(OwnClip, tmp_path, *keys)
    run.setup()
    before = weights(run)
    run.train_epoch()
    run.cleanup()
    moved = torch.cat([(run.state_dict()[n] - w).flatten() for n, w in before.items()])
    assert moved.norm().item() == pytest.approx(0.1, rel=1e-3)


class Again(OwnClip):
    """A second backward pass after the first was averaged, as SAM's."""

    def train_step(self, batch):
        self.backward(self.loss(batch))
        self.average_gradients()
        self.zero_grad()
        self.backward(self.loss(batch))
        self.optimizer_step()


class Twice(Tiny):
    def train_step(self, batch):
        for _ in range(2):
            self.backward(self.loss(batch))
            self.optimizer_step("main")


class ByClosure(Tiny):
    def train_step(self, batch):
        def closure():
            self.optimizer.zero_grad()
            loss = self.loss(batch)
            loss.backward()
            return loss

        self.optimizer.step(closure)


@pytest.mark.parametrize(
    ("trainer", "key", "message"),
    [
        (Again, "hardware.precision=float16", "would mix gradients of two scales"),
        (Twice, "hardware.precision=float16", "steps twice in one train_step"),
        (ByClosure, "optim.grad_max_norm=1", "neither averaged nor clipped"),
    ],
)
def test_what_would_use_another_gradient_is_refused(tmp_path, trainer, key, message):
    with pytest.raises(ConfigError, match=message):
        make(trainer, tmp_path, key).run()
    make(trainer, tmp_path / "plain").run()


class Convnet(ByClosure):
    """LBFGS, which takes all gradients as one row, on filters."""

    def initialize_modules(self):
        self.net = torch.nn.Sequential(
            *(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 8, 3)),
            *(
                torch.nn.AdaptiveAvgPool2d(1),
                torch.nn.Flatten(),
                torch.nn.Linear(8, 10),
            ),
        )

    def forward(self, x):
        return self.net(x)

    def initialize_optimizer(self):
        self.optimizer = torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


def test_lbfgs_trains_a_convnet_in_any_memory_format(tmp_path):
    last, first = (
        trained(Convnet, tmp_path / kind, f"hardware.channels_last={kind}")
        for kind in ("true", "false")
    )
    assert last["step"] == 4 and apart(last["weights"], first["weights"]) < 1e-4


class Idle(Tiny):
    """One optimizer of two gets no gradient, or both where the loss is another's."""

    def initialize_modules(self):
        super().initialize_modules()
        self.idle = torch.nn.Parameter(torch.zeros(3))
        self.other = torch.nn.Parameter(torch.zeros(()))

    def initialize_optimizer(self):
        self.optimizers = {
            "main": torch.optim.SGD(self.layer.parameters(), lr=0.1),
            "idle": torch.optim.SGD([self.idle], lr=0.1),
        }


class AllIdle(Idle):
    def compute_loss(self):
        return self.other * 0


@pytest.mark.parametrize("trainer", [Idle, AllIdle])
def test_an_optimizer_without_a_gradient_steps_under_float16(tmp_path, trainer):
    half = trained(trainer, tmp_path / "half", "hardware.precision=float16")
    full = trained(trainer, tmp_path / "full")
    assert half["step"] == 4
    assert apart(half["weights"], full["weights"]) < 1e-3
    assert not half["weights"]["idle"].any()
