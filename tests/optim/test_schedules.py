import math

import pytest
import torch
from omegaconf import OmegaConf

from stable_ssl.config import ConfigError, Optim, Schedule
from stable_ssl.optim import Scheduler, build_schedule, decay_scheduler


def rates(steps, base_lr=0.4, steps_per_epoch=10, total_steps=100, **words):
    factor = build_schedule(Schedule(**words), base_lr, steps_per_epoch, total_steps)
    return pytest.approx([base_lr * factor(step) for step in steps], rel=1e-12)


def test_cosine():
    steps = [0, 1, 10, 11, 40, 55, 70, 99, 100, 101]
    assert [
        0.04,  # warmup_lr
        0.04 + 0.36 / 10,
        0.4,
        0.02 + 0.38 * (1 + math.cos(math.pi / 90)) / 2,
        0.02 + 0.38 * 0.75,  # a third of the way
        0.02 + 0.38 * 0.5,
        0.02 + 0.38 * 0.25,
        0.02 + 0.38 * (1 - math.cos(math.pi / 90)) / 2,
        0.02,  # min_lr
        0.02,
    ] == rates(steps, name="cosine", warmup_epochs=1, warmup_lr=0.04, min_lr=0.02)


def test_polynomial():
    steps = [0, 5, 10, 55, 100, 200]
    words = {"name": "polynomial", "warmup_epochs": 1}
    assert [0, 0.2, 0.4, 0.2, 0, 0] == rates(steps, **words)
    words |= {"power": 2, "min_lr": 0.1}
    assert [0, 0.2, 0.4, 0.1 + 0.3 / 4, 0.1, 0.1] == rates(steps, **words)


def test_step_drops_at_the_first_step_of_its_epochs():
    words = {"name": "step", "milestones": [8, 5.5], "gamma": 0.1, "warmup_epochs": 0.5}
    steps = [0, 4, 5, 54, 55, 79, 80, 99, 100]
    assert [0, 0.32, 0.4, 0.4, 0.04, 0.04, 0.004, 0.004, 0.004] == rates(steps, **words)
    floor = rates([79, 80], min_lr=0.01, **words)
    assert [0.04, 0.01] == floor


def test_constant():
    assert [0.1, 0.25, 0.4, 0.4] == rates(
        [0, 5, 10, 1000], name="constant", warmup_epochs=1, warmup_lr=0.1
    )


@pytest.mark.parametrize("name", ["cosine", "polynomial", "step", "constant"])
@pytest.mark.parametrize("warmup_epochs", [0, 0.3, 2])
def test_the_end_of_the_warmup_is_exactly_the_base_rate(name, warmup_epochs):
    words = Schedule(name=name, warmup_epochs=warmup_epochs, milestones=[9], min_lr=0.1)
    factor = build_schedule(words, 0.3, 10, 100)
    assert factor(round(warmup_epochs * 10)) == 1.0


@pytest.mark.parametrize("name", ["cosine", "polynomial"])
def test_the_end_is_exactly_the_least_rate_and_never_below(name):
    factor = build_schedule(Schedule(name=name, min_lr=1e-7), 1.0, 10, 37)
    assert factor(37) == factor(38) == 1e-7
    decay = [factor(step) for step in range(38)]
    assert decay == sorted(decay, reverse=True)


@pytest.mark.parametrize("name", ["cosine", "polynomial"])
def test_a_training_shorter_than_its_warmup_only_warms(name):
    words = Schedule(name=name, warmup_epochs=1)
    factor = build_schedule(words, 0.1, 10, 4)
    assert [factor(step) for step in range(5)] == [0, 0.1, 0.2, 0.3, 0.4]


def test_words_may_come_from_yaml_and_be_few():
    words = OmegaConf.create({"name": "cosine", "warmup_epochs": None})
    assert build_schedule(words, 0.1, 10, 100)(50) == pytest.approx(0.5)


def test_null_is_no_schedule():
    assert build_schedule(None, 0.1, 10, 100) is None
    assert build_schedule(Schedule(name=None), 0.1, 10, 100) is None


@pytest.mark.parametrize(
    "words, text",
    [
        ({"name": "cosin"}, "did you mean 'cosine'"),
        ({"name": "step"}, "milestones"),
        ({"name": "cosine", "min_lr": 0.2}, "min_lr=0.2 is above"),
    ],
)
def test_wrong_words_are_refused(words, text):
    with pytest.raises(ConfigError, match=text):
        build_schedule(Schedule(**words), 0.1, 10, 100)


# --- scheduler ------------------------------------------------------------------------


def sgd():
    groups = [
        {"params": [torch.nn.Parameter(torch.ones(2))]},
        {"params": [torch.nn.Parameter(torch.ones(2))], "lr": 2.0},
        {"params": [torch.nn.Parameter(torch.ones(2))], "lr": 3.0, "schedule": False},
    ]
    return torch.optim.SGD(groups, lr=1.0)


def halving(step):
    return 0.5**step


def test_each_group_decays_from_its_own_rate():
    scheduler = Scheduler(sgd(), lambda step: (step + 1) / 4)
    assert scheduler.get_last_lr() == [0.25, 0.5, 3.0]
    scheduler.step()
    assert scheduler.get_last_lr() == [0.5, 1.0, 3.0]
    assert [g["lr"] for g in scheduler.optimizer.param_groups] == [0.5, 1.0, 3.0]


def test_the_first_update_uses_step_zero():
    optimizer = sgd()
    Scheduler(optimizer, lambda step: float(step > 0))
    weight = optimizer.param_groups[0]["params"][0]
    weight.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(weight, torch.ones(2))


def test_resume_continues_the_curve():
    optimizer = sgd()
    scheduler = Scheduler(optimizer, halving)
    for _ in range(3):
        scheduler.step()
    fresh = sgd()
    resumed = Scheduler(fresh, halving)
    fresh.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    assert resumed.get_last_lr() == scheduler.get_last_lr() == [0.125, 0.25, 3.0]
    resumed.step()
    assert resumed.get_last_lr() == [0.0625, 0.125, 3.0]


def test_a_second_scheduler_starts_from_the_same_base():
    optimizer = sgd()
    Scheduler(optimizer, lambda step: 0.5)
    assert Scheduler(optimizer, lambda step: 0.5).get_last_lr() == [0.5, 1.0, 3.0]


def test_weight_decay_climbs_on_the_cosine_of_dinos_recipe():
    config = Optim(weight_decay=0.04, weight_decay_end=0.4)
    matrix, bias, head = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(3))
    groups = [
        {"params": [bias], "weight_decay": 0.0},
        {"params": [matrix]},
        {"params": [head], "weight_decay": 0.02},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.04)
    scheduler, found = decay_scheduler(config, optimizer, 20), []
    for _ in range(22):
        found.append([group["weight_decay"] for group in optimizer.param_groups])
        scheduler.step()
    for step, decays in enumerate(found):
        done = min(step / 20, 1)
        decay = 0.4 + 0.5 * (0.04 - 0.4) * (1 + math.cos(math.pi * done))
        assert decays == pytest.approx([0, decay, decay / 2], rel=1e-12)
    with pytest.raises(ConfigError, match="set optim.weight_decay above 0"):
        decay_scheduler(Optim(weight_decay_end=0.4), optimizer, 20)


def test_a_scheduled_weight_decay_is_logged_and_resumed_exactly(tiny, config, rows):
    class Cut(tiny):
        def after_train_step(self):
            if self.step == 5:
                raise KeyboardInterrupt

    keys = ["optim.optimizer=adamw", "optim.lr=1e-3", "optim.weight_decay=0.1"]
    keys += ["++optim.weight_decay_end=1", "optim.epochs=null", "optim.steps=8"]
    keys += ["log.every_n_steps=1", "log.checkpoint.every_n_steps=3"]
    whole = tiny(config("base", *keys, "log.run=whole"))
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        Cut(config("base", *keys)).run()
    resumed = tiny(config("base", *keys))
    resumed.run()
    assert rows(whole.run_dir) == rows(resumed.run_dir)
    assert torch.equal(whole.layer.weight, resumed.layer.weight)
    decays = [r["train/weight_decay"] for r in rows(whole.run_dir) if "train/lr" in r]
    cosines = [math.cos(math.pi * step / 8) for step in range(8)]
    assert decays == pytest.approx([1 - 0.9 * (1 + c) / 2 for c in cosines])


def test_groups_added_in_a_hook_are_on_the_schedules_from_their_first_step(
    tiny, config
):
    class Grown(tiny):
        used = None

        def before_train_step(self):
            if self.step == 12 and self.used is None:
                extra = torch.nn.Parameter(torch.ones(2))
                extra.grad = torch.ones(2)
                self.optimizer.add_param_group({"params": [extra], "lr": 1.0})
                self.optimizer.register_step_pre_hook(self.keep)

        def keep(self, optimizer, args, kwargs):
            head, *_, added = optimizer.param_groups
            pairs = [(added[key], head[key]) for key in ("lr", "weight_decay")]
            self.used = self.used or pairs

    keys = ["optim.weight_decay=0.1", "++optim.weight_decay_end=1"]
    grown = Grown(config("base", *keys))
    grown.run()
    (lr, first), (decay, other) = grown.used
    assert lr == pytest.approx(first / 0.1, rel=1e-12) and lr < 0.9
    assert decay == pytest.approx(other, rel=1e-12) and decay > 0.2


def falling(step, gamma=0.9, power=2.0):
    return gamma ** (step * power)


def test_arguments_that_equal_defaults_of_ours_are_given(tiny, config, rows):
    node = f"{{_target_: {__name__}.falling, gamma: 0.1, power: 1.0}}"
    keys = ["optim.epochs=null", "optim.steps=3", "log.every_n_steps=1"]
    run = tiny(config("base", *keys, f"optim.scheduler={node}"))
    run.run()
    rates = [row["train/lr"] for row in rows(run.run_dir) if "train/lr" in row]
    assert rates == pytest.approx([0.1, 0.01, 0.001])


def test_keys_of_ours_that_another_schedule_does_not_read_are_named(tiny, config):
    keys = ["optim.scheduler.warmup_epochs=2", "++optim.scheduler.name=StepLR"]
    run = tiny(config("base", *keys, "++optim.scheduler.step_size=5"))
    with pytest.warns(UserWarning, match="warmup_epochs=2 is not read by torch"):
        run.setup()
    run.cleanup()
