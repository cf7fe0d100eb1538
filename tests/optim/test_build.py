from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from stable_ssl.config import ConfigError, Optim
from stable_ssl.optim import LARS, base_lr, build_optimizer, check_optimizer


def net():
    return nn.ModuleDict(
        {
            "backbone": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
            "head": nn.Linear(4, 2),
        }
    )


def build(batch_size=None, model=None, **words):
    model = net() if model is None else model
    return model, build_optimizer(model.named_parameters(), Optim(**words), batch_size)


def settings(model, optimizer, key):
    """Return {parameter name: its group's value of `key`}."""
    value = {p: group[key] for group in optimizer.param_groups for p in group["params"]}
    return {name: value[p] for name, p in model.named_parameters() if p in value}


def test_biases_and_norms_do_not_decay():
    model, optimizer = build(weight_decay=0.1)
    assert settings(model, optimizer, "weight_decay") == {
        "backbone.0.weight": 0.1,
        "backbone.0.bias": 0,
        "backbone.1.weight": 0,
        "backbone.1.bias": 0,
        "head.weight": 0.1,
        "head.bias": 0,
    }
    assert optimizer.defaults["momentum"] == 0.9 and len(optimizer.param_groups) == 2


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_biases_and_norms_decay_where_asked(optimizer):
    words = {"optimizer": optimizer, "weight_decay": 0.1, "decay_bias_and_norm": True}
    model, built = build(**words)
    assert set(settings(model, built, "weight_decay").values()) == {0.1}
    if optimizer == "lars":
        assert not settings(model, built, "adapt")["head.bias"]
    model, built = build(**words, groups=[{"pattern": "bias", "weight_decay": 0.5}])
    assert settings(model, built, "weight_decay")["head.bias"] == 0.5


def test_lars_does_not_adapt_them():
    model, optimizer = build(optimizer="LARS", nesterov=True, momentum=0.8)
    assert isinstance(optimizer, LARS)
    assert optimizer.defaults["nesterov"] and optimizer.defaults["momentum"] == 0.8
    adapted = settings(model, optimizer, "adapt")
    assert [name for name, adapt in adapted.items() if adapt] == [
        "backbone.0.weight",
        "head.weight",
    ]


@pytest.mark.parametrize("name", ["sgd", "SGD", "AdamW", "adam", "rmsprop", "adagrad"])
def test_optimizers_of_torch_by_name(name):
    _, optimizer = build(optimizer=name, lr=0.01, weight_decay=0.05)
    assert type(optimizer).__name__.lower() == name.lower()
    assert optimizer.defaults["lr"] == 0.01
    assert optimizer.defaults["weight_decay"] == 0.05


def test_a_step_of_sgd_is_torchs_with_the_same_keys():
    keys = {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01}
    ours, theirs = (torch.nn.Linear(3, 2, bias=False) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    _, optimizer = build(model=ours, **keys)
    reference = torch.optim.SGD(theirs.parameters(), **keys)
    for _ in range(3):
        x = torch.randn(4, 3)
        for model, steps in ((ours, optimizer), (theirs, reference)):
            steps.zero_grad()
            model(x).square().sum().backward()
            steps.step()
    assert torch.equal(ours.weight, theirs.weight)


def test_betas_reach_adamw():
    _, optimizer = build(optimizer="adamw", betas=[0.9, 0.95])
    assert list(optimizer.defaults["betas"]) == [0.9, 0.95]


def test_a_target_brings_its_own_arguments():
    spec = {"_target_": "stable_ssl.optim.LARS", "clip_lr": True, "momentum": 0.5}
    _, optimizer = build(optimizer=OmegaConf.create(spec), lr=0.3)
    assert isinstance(optimizer, LARS) and optimizer.defaults["clip_lr"]
    assert optimizer.defaults["momentum"] == 0.5 and optimizer.defaults["lr"] == 0.3


def test_frozen_parameters_stay_out():
    model = net()
    model["backbone"].requires_grad_(False)
    _, optimizer = build(model=model)
    assert set(settings(model, optimizer, "lr")) == {"head.weight", "head.bias"}
    with pytest.raises(ConfigError, match="no trainable parameters"):
        build(model=model.requires_grad_(False))


def test_a_short_config_is_enough():
    words = SimpleNamespace(optimizer="adamw", lr=1e-3, weight_decay=0.0)
    optimizer = build_optimizer(net().named_parameters(), words)
    assert isinstance(optimizer, torch.optim.AdamW)


# --- learning rate --------------------------------------------------------------------


def test_the_rate_is_scaled_once():
    _, optimizer = build(512, lr=0.3, scale_lr_by=256, groups=[{"pattern": "head"}])
    assert {g["lr"] for g in optimizer.param_groups} == {0.6}
    assert {g["base_lr"] for g in optimizer.param_groups} == {0.6}
    assert optimizer.defaults["lr"] == 0.6
    assert base_lr(Optim(lr=0.3, scale_lr_by=256), 512) == 0.6
    assert base_lr(Optim(lr=0.3), 512) == 0.3


def test_scaling_needs_a_batch_size():
    with pytest.raises(ConfigError, match="scale_lr_by=256 needs a batch size"):
        build(lr=0.3, scale_lr_by=256)


# --- groups ---------------------------------------------------------------------------


def test_the_first_pattern_wins():
    rules = [
        {"pattern": r"^head\.", "lr": 0.01, "weight_decay": 0.5, "schedule": False},
        {"pattern": "weight$", "lr": 0.02},
    ]
    model, optimizer = build(256, lr=0.1, weight_decay=1e-4, groups=rules)
    assert settings(model, optimizer, "lr") == {
        "backbone.0.weight": 0.02,
        "backbone.0.bias": 0.1,
        "backbone.1.weight": 0.02,
        "backbone.1.bias": 0.1,
        "head.weight": 0.01,
        "head.bias": 0.01,
    }
    decay = settings(model, optimizer, "weight_decay")
    assert decay["head.weight"] == 0.5 and decay["backbone.0.weight"] == 1e-4
    assert decay["head.bias"] == decay["backbone.1.weight"] == 0
    scheduled = settings(model, optimizer, "schedule")
    assert [name for name, yes in scheduled.items() if not yes] == [
        "head.weight",
        "head.bias",
    ]


def test_a_group_may_have_a_rate_of_zero():
    model, optimizer = build(groups=[{"pattern": "head", "lr": 0.0}])
    assert settings(model, optimizer, "lr")["head.weight"] == 0.0


def test_a_training_step_moves_every_parameter():
    for name in ("sgd", "lars", "adamw"):
        model, optimizer = build(optimizer=name, lr=0.1)
        before = {n: p.clone() for n, p in model.named_parameters()}
        features = model["backbone"](torch.randn(8, 3, 5, 5)).relu().amax((2, 3))
        model["head"](features).square().sum().backward()
        optimizer.step()
        after = dict(model.named_parameters())
        del after["backbone.0.bias"]  # the batch norm behind it cancels it
        assert not [n for n, p in after.items() if torch.equal(p, before[n])], name


# --- wrong words ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, text",
    [
        ({"optimizer": "adamx"}, "did you mean 'adam"),
        ({"optimizer": "lbfgs"}, "optim.optimizer=lbfgs"),
        ({"optimizer": "adamw", "momentum": 0.95}, "momentum=0.95 is set and adamw"),
        ({"optimizer": "adamw", "nesterov": True}, "nesterov=True"),
        ({"optimizer": "sgd", "betas": [0.9, 0.95]}, "betas"),
        ({"optimizer": "rprop", "weight_decay": 0.1}, "weight_decay=0.1"),
        ({"optimizer": "sgd", "nesterov": True, "momentum": 0.0}, "sgd refuses"),
        ({"optimizer": {"clip_lr": True}}, "no _target_"),
        ({"optimizer": 3}, "optim.optimizer=3 has no _target_"),
        ({"optimizer": ["sgd"]}, "no _target_; expected a name"),
        ({"optimizer": {"_target_": "torch.optim.swa_utils"}}, "is a module"),
        ({"optimizer": {"_target_": "torch.optim.SDG"}}, "cannot be imported"),
        ({"optimizer": {"_target_": "SGD"}}, "cannot be imported"),
        ({"optimizer": {"_target_": "torch.optim.SGD", "lr": 1.0}}, "set optim.lr"),
        (
            {"optimizer": {"_target_": "torch.optim.SGD", "dampning": 0.1}},
            "did you mean 'dampening'",
        ),
        ({"groups": [{"pattern": "projector"}]}, "projector finds no trainable"),
        ({"groups": [{"pattern": "."}, {"pattern": "head"}]}, "head finds no"),
        ({"groups": [{"patern": "head"}]}, "did you mean 'pattern'"),
        ({"groups": [{"lr": 0.1}]}, "pattern=None"),
        ({"groups": ["head"]}, "found head, expected {pattern"),
        ({"groups": [3]}, "found 3, expected {pattern"),
        ({"groups": [{"pattern": 3}]}, "pattern=3"),
        ({"groups": [{"pattern": "head", "lr": "fast"}]}, "lr=fast, expected a number"),
        ({"groups": [{"pattern": "head", "lr": -1}]}, "lr=-1, expected a number"),
        ({"groups": [{"pattern": "head", "weight_decay": True}]}, "weight_decay=True"),
        ({"groups": [{"pattern": "head", "schedule": "no"}]}, "schedule=no, expected"),
        ({"groups": [{"pattern": "("}]}, "regular expression"),
        (
            {"groups": [{"pattern": r"backbone.1", "weight_decay": 0.1}]},
            "backbone.1 finds biases and norms only.*optim.decay_bias_and_norm=true",
        ),
        (
            {"optimizer": "rprop", "groups": [{"pattern": "head", "weight_decay": 1}]},
            "weight_decay=1 is set and rprop",
        ),
    ],
)
def test_wrong_words_are_refused(words, text):
    with pytest.raises(ConfigError, match=text):
        build(**words)


def test_the_keys_are_named_where_they_stand():
    words = SimpleNamespace(optimizer="adamx", lr=0.1)
    with pytest.raises(ConfigError, match="^log.eval.linear.optimizer=adamx"):
        build_optimizer(net().named_parameters(), words, at="log.eval.linear")


def test_what_needs_no_parameters_is_checked_without_them():
    check_optimizer(Optim(groups=[{"pattern": "head"}]))
    with pytest.raises(ConfigError, match="did you mean 'adam"):
        check_optimizer(Optim(optimizer="adamx"))
    with pytest.raises(ConfigError, match="did you mean 'pattern'"):
        check_optimizer(OmegaConf.structured(Optim(groups=[{"patern": "head"}])))
