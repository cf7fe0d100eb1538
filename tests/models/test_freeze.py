import copy
import pickle

import pytest
import torch
from torch import nn

from stable_ssl.config import ConfigError
from stable_ssl.methods import SimCLR
from stable_ssl.models import EMA, freeze
from stable_ssl.models.norm import convert_sync_batchnorm


def network():
    first = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    return nn.Sequential(first, nn.BatchNorm1d(4), nn.Linear(4, 2))


def modes(module):
    return {name: m.training for name, m in module.named_modules()}


def test_all_of_a_network():
    net = freeze(network())
    whole = nn.Sequential(net, nn.BatchNorm1d(2))
    assert not any(p.requires_grad for p in net.parameters())
    whole.train()
    assert whole.training and whole[1].training and not any(modes(net).values())


def test_parts_of_a_network_keep_weights_and_statistics():
    net = freeze(network(), ["^0"])
    trained = [n for n, p in net.named_parameters() if p.requires_grad]
    assert trained == ["1.weight", "1.bias", "2.weight", "2.bias"]
    nn.Sequential(net).train()
    on = {name for name, training in modes(net).items() if training}
    assert on == {"", "1", "2"}
    before = copy.deepcopy(net.state_dict())
    net(torch.randn(8, 4)).sum().backward()
    moved = {n for n, t in net.state_dict().items() if not t.equal(before[n])}
    assert moved == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    net.eval()
    assert not any(modes(net).values())


def test_all_but_a_part_of_a_network():
    net = freeze(network(), "^(?!0.1)").train()  # finds the network's own name, too
    trained = [n for n, p in net.named_parameters() if p.requires_grad]
    assert trained == ["0.1.weight", "0.1.bias"]
    assert {name for name, on in modes(net).items() if on} == {"", "0", "0.1"}


def test_false_freezes_nothing():
    net = freeze(network(), False)
    assert all(p.requires_grad for p in net.parameters()) and net.training
    assert type(net) is nn.Sequential


def test_a_copy_is_frozen_alike_and_apart():
    net = freeze(network(), "^0")
    teacher = EMA(net)
    teacher.train()
    assert modes(teacher.module) == modes(net.train())
    net.eval()
    assert teacher.module.training  # its train() is its own, not the student's
    assert net.train() is net


def test_a_frozen_network_is_pickled_whole():
    net = freeze(network(), "^0")
    again = pickle.loads(pickle.dumps(net)).train()
    assert modes(again) == modes(net.train()) and isinstance(again, nn.Sequential)
    x = torch.randn(2, 4)
    assert torch.equal(again.eval()(x), net.eval()(x)) and not again[0][0].training


def test_a_norm_that_is_replaced_stays_frozen():
    net = freeze(network(), "^1")
    synced = convert_sync_batchnorm(net, torch.device("cuda")).train()
    assert type(synced[1]) is nn.SyncBatchNorm
    assert synced[0][1].training and not synced[1].training


def test_a_frozen_backbone_survives_a_training(config):
    frozen = config(
        "simclr", "++model.backbone.freeze=true", "optim.epochs=1", "hardware.threads=1"
    )
    trainer = SimCLR(frozen)
    start = {}

    def remember():
        start.update(copy.deepcopy(trainer.state_dict()))

    trainer.before_train_epoch = remember
    trainer.run()
    moved = [n for n, t in trainer.state_dict().items() if not t.equal(start[n])]
    assert moved and all(name.startswith("projector.") for name in moved)


@pytest.mark.parametrize(
    "patterns, words",
    [
        (["^0", "layer9"], "'layer9' finds no parameter; names are such as 0.0.weight"),
        (["("], "regular expressions"),
        (3, "freeze=3, expected true, false or a list"),
    ],
)
def test_wrong_patterns_are_refused_in_words(patterns, words):
    with pytest.raises(ConfigError, match=words):
        freeze(network(), patterns)
