"""Schedulers of a user: each follows its own optimizer."""

import pytest
import torch

from stable_ssl import ConfigError


class Halved(torch.optim.lr_scheduler.ExponentialLR):
    def __init__(self, optimizer):
        super().__init__(optimizer, 0.5)


def scheduled_of_two(trainer):
    body = torch.nn.Linear(1, 1)
    trainer.judge = body
    trainer.optimizers = {
        "net": torch.optim.SGD(trainer.layer.parameters(), lr=0.1),
        "judge": torch.optim.SGD(body.parameters(), lr=0.1),
    }
    trainer.scheduler = Halved(trainer.optimizers["net"])


def scheduled_by_another_name(trainer):
    trainer.optimizer = torch.optim.SGD(trainer.layer.parameters(), lr=0.1)
    trainer.schedulers["warm"] = Halved(trainer.optimizer)


def scheduled_as_an_attribute(trainer):
    trainer.own = torch.optim.SGD(trainer.layer.parameters(), lr=0.1)
    trainer.scheduler = Halved(trainer.own)


@pytest.mark.parametrize(
    "build", [scheduled_of_two, scheduled_by_another_name, scheduled_as_an_attribute]
)
def test_a_scheduler_follows_the_optimizer_that_it_holds(tiny, config, build):
    class Own(tiny):
        def initialize_optimizer(self):
            build(self)

        def initialize_scheduler(self):
            pass

    trainer = Own(config("base", "optim.epochs=null", "optim.steps=4"))
    trainer.run()
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 2**4)


def test_a_scheduler_of_no_optimizer_is_refused(tiny, config):
    class Own(tiny):
        def initialize_scheduler(self):
            other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
            self.scheduler = Halved(other)

    with pytest.raises(ConfigError, match="a Halved, is of an optimizer .*main"):
        Own(config()).run()


def test_no_scheduler_is_a_constant_rate(tiny, config):
    class Own(tiny):
        def initialize_scheduler(self):
            self.scheduler = None

    trainer = Own(config())
    trainer.run()
    assert trainer.optimizer.param_groups[0]["lr"] == 0.1


def test_a_constant_rate_of_one_optimizer_leaves_other_schedules(tiny, config):
    class Own(tiny):
        def initialize_scheduler(self):
            super().initialize_scheduler()
            self.scheduler = None

    trainer = Own(
        config("base", "optim.weight_decay=0.1", "optim.weight_decay_end=0.4")
    )
    trainer.run()
    assert list(trainer.schedulers) == ["main/weight_decay"]


def test_a_scheduler_that_a_hook_builds_moves_from_there_on(tiny, config):
    class Own(tiny):
        def before_train_step(self):
            if self.step == 2:
                self.scheduler = Halved(self.optimizer)

    steps = ["optim.scheduler=null", "optim.epochs=null", "optim.steps=4"]
    trainer = Own(config("base", *steps))
    trainer.run()
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 2**2)


class Wrapper(torch.optim.Optimizer):
    """Step another optimizer, whose groups it shares."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, inner.defaults)
        self.inner, self.param_groups = inner, inner.param_groups

    def step(self, closure=None):
        self.inner.param_groups = self.param_groups
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data -= group["lr"] * parameter.grad


def test_a_scheduler_may_hold_what_another_optimizer_wraps(tiny, config):
    class Own(tiny):
        def initialize_optimizer(self):
            inner = torch.optim.SGD(self.layer.parameters(), lr=0.1)
            self.optimizer = Wrapper(inner)
            self.inside = [Halved(inner)]  # in a list: it is not collected

        def initialize_scheduler(self):
            self.schedulers["main"] = self.inside[0]

    trainer = Own(config("base", "optim.epochs=null", "optim.steps=4"))
    trainer.run()
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 2**4)


class Temperature:
    """A schedule of no optimizer, moved by its owner."""

    def __init__(self):
        self.value = 1.0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def test_a_schedule_of_no_optimizer_is_its_owners(tiny, config):
    class Own(tiny):
        def initialize_scheduler(self):
            super().initialize_scheduler()
            self.schedulers["temperature"] = Temperature()

        def after_train_step(self):
            self.schedulers["temperature"].value *= 0.5

    trainer = Own(config("base", "optim.epochs=null", "optim.steps=4"))
    trainer.run()
    assert trainer.schedulers["temperature"].value == 1 / 2**4
