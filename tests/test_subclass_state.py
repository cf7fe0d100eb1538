"""What a subclass keeps in attributes of its own goes on in a resumed run."""

import collections
import random
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass, field

import numpy
import pytest
import torch

from stable_ssl import ConfigError, load_config
from stable_ssl.checkpoint import equal, load
from stable_ssl.subclass_state import Attributes
from tests.conftest import Tiny

SHORT = ["optim.epochs=null", "optim.steps=12", "log.checkpoint.every_n_steps=5"]
SHORT += ["log.every_n_steps=1"]


class Killed(Exception):
    """Stands for the end of a process."""


class Counter:
    """An object with a state."""

    def __init__(self):
        self.count = 0

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Keeping(Tiny):
    """Let the loss depend on everything that may be kept."""

    not_saved = ("dies_at",)
    dies_at = None

    def initialize_modules(self):
        from torchmetrics import MeanMetric

        super().initialize_modules()
        self.register_buffer("hidden", torch.zeros(()), persistent=False)
        self.seen = MeanMetric()
        self.counters = {"a": [Counter()]}
        self.extra = [torch.nn.Linear(10, 1)]  # in a list: no module of the trainer
        self.critic = torch.optim.Adam(self.extra[0].parameters(), lr=0.1)
        self.last, self.order = deque(maxlen=3), {3}
        self.count, self.first = defaultdict(collections.Counter), OrderedDict(a=1)
        self.nested = [defaultdict(int)]
        self.generator = torch.Generator().manual_seed(3)
        self.numpy, self.python = numpy.random.default_rng(3), random.Random(3)
        self.legacy = numpy.random.RandomState(3)
        self.weight, self.history, self.center = 1.0, [], torch.zeros(10)

    def before_train_epoch(self):
        self.weight = 2.0  # a resumed run must not begin anew in mid-epoch

    def before_train_step(self):
        if self.step == self.dies_at:
            raise Killed

    def compute_loss(self):
        logits = self(self.data[0][0])
        noise = torch.rand((), generator=self.generator)
        noise += self.numpy.random() + self.python.random() + self.hidden
        scale = self.weight + self.counters["a"][0].count + sum(self.last) + noise
        scale += len(self.history) + len(self.order) + self.seen.compute().nan_to_num()
        scale += self.count["a"][1] + len(self.first) + self.legacy.rand()
        scale += sum(self.nested[0].values())
        loss = torch.nn.functional.cross_entropy(logits, self.data[1])
        judged = self.extra[0](logits).square().mean()
        apart = (logits.mean(0) - self.center).square().sum()
        return 0.01 * scale * loss + 0.1 * judged + 0.1 * apart

    def after_train_step(self):
        self.hidden += 0.1
        self.seen.update(float(self.step))
        self.counters["a"][0].count += 1
        self.last.append(self.step)
        self.order.add(self.step)
        self.history.append(self.step)
        self.count["a" if self.step % 2 else "b"][self.step % 3] += 1
        self.first[self.step] = self.step
        self.first.move_to_end(self.step, last=False)
        self.nested[0][self.step] += 1
        self.center = 0.9 * self.center + self.layer.bias.detach()
        self.weight *= 0.9


def final(trainer):
    state = load(trainer.run_dir / "ckpts" / "last.ckpt")
    return {k: v for k, v in state.items() if k not in ("config", "rows", "metrics")}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_all_that_has_a_state_resumes_exactly(config, rows):
    whole = Keeping(config("base", *SHORT, "log.run=whole"))
    whole.run()
    for step in (8, 11):  # in its first and in its second life
        killed = Keeping(config("base", *SHORT))
        killed.dies_at = step
        with pytest.raises(Killed):
            killed.run()
    resumed = Keeping(config("base", *SHORT))
    resumed.run()
    assert equal(final(whole), final(resumed))
    assert rows(whole.run_dir) == rows(resumed.run_dir)
    assert resumed.last == deque([10, 11, 12], maxlen=3)
    assert resumed.count == whole.count and resumed.count["c"][3] == 0
    assert [*resumed.first] == [*whole.first] == [*range(12, 0, -1), "a"]
    assert resumed.nested == whole.nested and resumed.nested[0]["new"] == 0


class Opaque:
    """An object without a state."""


@dataclass
class Sum:
    """What a checkpoint does not hold, for it may be anything."""

    total: float = 0.0
    parts: list = field(default_factory=list)
    late: int = field(init=False)  # which is not there at first
    where: str = "the folder of a run"


@dataclass(slots=True)
class Place:
    step: int = 0


class Helper:
    """Refer to a weight, which changes, and is saved elsewhere."""

    def __init__(self, weight):
        self.weight, self.size = weight, len(weight)


class Forgetful(Tiny):
    """Change what cannot be saved."""

    def initialize_modules(self):
        super().initialize_modules()
        self.mine, self.still, self.function = Opaque(), Opaque(), len
        self.mixed = {"counter": Counter(), "pointer": 0}  # an object beside a number
        self.steady = {"counter": Counter(), "size": 3}
        self.total, self.parts, self.place = Sum(), Sum(), Place()
        self.constant, self.helper = Sum(), Helper(self.layer.weight)

    def compute_loss(self):
        assert self.helper.weight is self.layer.weight
        return super().compute_loss()

    def after_train_step(self):
        self.mine = Opaque()
        self.function = max
        self.mixed["pointer"] += 1
        self.steady["counter"].count += 1
        self.total.total += 1
        self.parts.parts.append(self.step)
        self.place.step += 1


class Resigned(Forgetful):
    not_saved = ("mine", "mixed", "total", "parts", "place")


def test_what_changed_and_cannot_be_saved_is_named_once(config):
    trainer = Forgetful(config("base", *SHORT))
    trainer.run()
    text = (trainer.run_dir / "console.log").read_text()
    for name in Resigned.not_saved:
        kind = type(getattr(trainer, name)).__name__
        words = f"self.{name}, a {kind}, changed and is in no checkpoint"
        assert text.count(words) == 1, name
    assert text.count("is in no checkpoint") == len(Resigned.not_saved)
    longer = Forgetful(config("base", *SHORT, "optim.steps=14"))
    longer.run()
    assert longer.step == 14 and longer.total.where == "the folder of a run"
    silent = Resigned(config("base", *SHORT, "log.run=silent"))
    silent.run()
    assert "is in no" not in (silent.run_dir / "console.log").read_text()


class Lazy(Tiny):
    """Build an object with a state after setup."""

    def after_train_step(self):
        self.counter = Counter()


def test_an_object_that_setup_does_not_build_is_refused(config):
    constant = [*SHORT, "optim.scheduler.name=constant"]
    Lazy(config("base", *constant)).run()
    with pytest.raises(ConfigError, match="self.counter, which is not there; build it"):
        Lazy(config("base", *constant, "optim.steps=14")).run()


def test_the_trainers_own_attributes_are_not_the_subclasss(config):
    trainer = Tiny(config("base", *SHORT))
    trainer.run()
    nothing = {"objects": {}, "values": {}, "on_cpu": []}
    assert final(trainer)["attributes"] == {"alike": nothing}


def test_values_go_back_to_where_they_were():
    """A device without values stands for a GPU."""
    owner = torch.nn.Module()
    owner.device = torch.device("cuda")
    attributes = Attributes(owner, vars(owner).keys(), (), (), print)
    owner.edges = {"x": [torch.arange(3.0)], "y": 2}
    state = attributes.state()
    assert state["on_cpu"] == [".edges.x.0"]
    state["values"]["center"] = torch.ones(2)  # as of what was on the GPU
    attributes.load_state(state, torch.device("meta"))
    assert owner.edges["x"][0].equal(torch.arange(3.0)) and owner.center.is_meta


class Apart(Tiny):
    def before_train_step(self):
        self.mine = self.rank + 10 * self.step


def kept(folder):
    """Return what a rank of a resumed run has kept."""
    torch.set_num_threads(1)
    words = ["optim.epochs=null", "optim.scheduler.name=null", "log.run=run"]
    words += ["log.eval.linear=null", "log.eval.knn=null", "log.monitor=null"]
    words += ["log.eval.untrained=false", "log.eval.few_labels=[]"]
    words += ["log.pictures=null", f"log.folder={folder}", "data.val=null"]
    Apart(load_config("base", [*words, "data.test=null", "optim.steps=3"])).run()
    trainer = Apart(load_config("base", [*words, "data.test=null", "optim.steps=6"]))
    trainer.setup()
    trainer.cleanup()
    return trainer.mine


@pytest.mark.slow
def test_each_rank_keeps_its_own_where_they_differ(ranks, tmp_path):
    assert ranks(2, kept, str(tmp_path)) == [20, 21]
