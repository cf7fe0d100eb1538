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

    with pytest.raises(ConfigError, match="a Halved, is of no optimizer .*main"):
        Own(config()).run()


def test_no_scheduler_is_a_constant_rate(tiny, config):
    class Own(tiny):
        def initialize_scheduler(self):
            self.scheduler = None

    trainer = Own(config())
    trainer.run()
    assert trainer.optimizer.param_groups[0]["lr"] == 0.1
