"""Weights from elsewhere: whatever holds them, however their names begin."""

from collections import OrderedDict

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from stable_ssl import ConfigError, checkpoint
from stable_ssl.methods import BYOL, SimCLR, Supervised
from stable_ssl.models import backbone
from stable_ssl.models.weights import reports, tensors

CONVNET = {"name": "convnet", "width": 4, "in_channels": 1}
MODEL = ["++model.backbone.width=4", "++model.projector=[8,4]", "data.batch_size=64"]
NO_PROBE = "log.eval.linear=null"


def network(**options):
    """Return the state of a network with other values than a new one has."""
    state = backbone({**CONVNET, **options}).state_dict()
    return {name: t + 1 for name, t in state.items()}


def equal(state, expected):
    return all(torch.equal(state[name], expected[name]) for name in expected)


def noise(state):
    """Return as many tensors as an optimizer keeps, by number."""
    return {"state": {i: {"exp_avg": t} for i, t in enumerate(state.values())}}


CONTAINERS = {  # how libraries save a state dict whose names have a prefix
    "plain": lambda state: OrderedDict(state),
    "torchvision": lambda state: {
        "model": state,
        "optimizer": noise(state),
        "epoch": 3,
    },
    "timm": lambda state: {"arch": "x", "state_dict": state, "metric": 0.5},
    "lightning": lambda state: {
        "state_dict": state,
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "optimizer_states": [noise(state)],
        "hyper_parameters": {"lr": 0.1},
    },
    "ours": lambda state: {"format": 3, "modules": state, "optimizers": noise(state)},
    "deep": lambda state: {"a": {"b": {"c": state}}},
    "safetensors": None,
}
PREFIXES = [
    *("", "module.", "_orig_mod.", "module._orig_mod.", "model.", "backbone."),
    *("encoder.", "model.backbone.", "module.encoder_q.", "net._orig_mod.encoder."),
    *("student.module.backbone.", "online_network.0."),
]


def write(path, container, state):
    """Save a state as a library does; of ours, with its checksum."""
    if container == "safetensors":
        save_file({n: t.contiguous() for n, t in state.items()}, path)
    elif container == "ours":
        checkpoint.save(path, CONTAINERS[container](state))
    else:
        torch.save(CONTAINERS[container](state), path)
    return str(path)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_backbone_is_found_in_any_container_by_any_prefix(
    tmp_path, container, prefix
):
    expected = network()
    state = {prefix + name: t for name, t in expected.items()}
    state |= {prefix + "fc.weight": torch.ones(10, 16), "other.weight": torch.ones(4)}
    path = write(tmp_path / "file", container, state)
    model = backbone({**CONVNET, "weights": path})
    assert equal(model.state_dict(), expected)
    loaded, left = reports(nn.ModuleList([model, model]))
    assert f"model.backbone.weights={path}: " in loaded
    assert f"{len(expected)} tensors" in loaded
    assert "of the file: " in left and "fc.weight" in left


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    prefix=st.lists(
        st.sampled_from(["model", "net", "0", "module", "x_1"]), max_size=4
    ),
    wrappers=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["module", "_orig_mod"])),
        max_size=3,
    ),
)
def test_wrappers_anywhere_and_any_prefix(tmp_path, prefix, wrappers):
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4)), nn.Linear(4, 2)
    )
    names = {}
    for name in model.state_dict():
        parts = [*prefix, *name.split(".")]
        for place, wrapper in wrappers:
            parts.insert(min(place, len(parts) - 1), wrapper)
        names[".".join(parts)] = name
    found = tensors({full: model.state_dict()[n] for full, n in names.items()})
    shorter = [part for part in prefix if part != "module"]
    assert sorted(found) == sorted(".".join([*shorter, n]) for n in model.state_dict())


# --- of a backbone: all or nothing ----------------------------------------------------


@pytest.mark.parametrize("provider", ["torchvision", "timm"])
def test_files_of_torchvision_and_timm_have_a_classifier_more(tmp_path, provider):
    import timm
    import torchvision

    make = {"torchvision": torchvision.models.resnet18, "timm": timm.models.resnet18}
    whole = make[provider]()
    torch.save(whole.state_dict(), tmp_path / "r18.pth")
    spec = {"name": "resnet18", "provider": provider}
    model = backbone({**spec, "weights": str(tmp_path / "r18.pth")})
    assert equal(whole.state_dict(), model.state_dict())
    (loaded, left) = reports(model)
    assert loaded.endswith("the file -> the model: 120 tensors")
    assert left.endswith("left out, 2 of the file: fc.weight, fc.bias")


def changed(name, value):
    """Return a network's state with another value of a name; None leaves it out."""
    state = {**network(), name: value}
    return {name: t for name, t in state.items() if t is not None}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (changed("4.weight", None), "another model .*: 1 missing: 4.weight"),
        (changed("2.bias", torch.ones(5)), r"2.bias \(5,\) for \(4,\)"),
        (changed("20.weight", torch.ones(9)), "1 unexpected: 20.weight"),
        (changed("2.bias", torch.ones(4).to(torch.int8)), "int8 for torch.float32"),
        (network(width=8), "another model|no tensor of the model"),
        ({"x.y": torch.ones(3, 3)}, r"found x.y \(3, 3\); expected 0.weight \(4, 1,"),
        ({}, "found no tensors; expected"),
        ([torch.ones(3)], "found no tensors; expected"),
    ],
    ids="missing shape more integers wider nothing empty list".split(),
)
def test_a_file_of_another_backbone_is_refused(tmp_path, state, words):
    torch.save(state, tmp_path / "w.pth")
    path = str(tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=words) as caught:
        backbone({**CONVNET, "weights": path})
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"model.backbone.weights={path} ")


def test_a_deeper_network_of_the_same_names_is_another_one(tmp_path):
    sizes = {"name": "vit", "dim": 8, "heads": 2, "image_size": 8, "in_channels": 1}
    torch.save(backbone({**sizes, "depth": 3}).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="unexpected: blocks.2.norm1.weight"):
        backbone({**sizes, "depth": 2, "weights": str(tmp_path / "w.pth")})


def test_a_file_without_counters_is_whole(tmp_path):
    state = {n: t for n, t in network().items() if "num_batches" not in n}
    torch.save(state, tmp_path / "w.pth")
    model = backbone({**CONVNET, "weights": str(tmp_path / "w.pth")})
    assert equal(model.state_dict(), state)


@pytest.mark.parametrize("channels", [1, 4])
def test_filters_of_other_channels_answer_a_grey_image_alike(tmp_path, channels):
    three = backbone({**CONVNET, "in_channels": 3}).eval()
    torch.save(three.state_dict(), tmp_path / "w.pth")
    spec = {**CONVNET, "in_channels": channels, "weights": str(tmp_path / "w.pth")}
    other = backbone(spec).eval()
    assert f"spread from 3 channels over {channels}" in list(reports(other))[-1]
    grey = torch.randn(2, 1, 8, 8)
    a, b = (m(grey.expand(-1, c, -1, -1)) for m, c in ((three, 3), (other, channels)))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("keys", [{"pretrained": True}, {"weights": 3}])
def test_weights_are_the_path_of_a_file_and_nothing_else(keys):
    with pytest.raises(ConfigError, match="weights=.*, expected the path of a file"):
        backbone({"name": "resnet18", "weights": "w.pth", **keys})


def test_modifiers_and_freezing_come_after_the_weights(tmp_path):
    torch.save(network(), tmp_path / "w.pth")
    changes = {"modifiers": {"change_last_layer": {"num_outputs": 5}}, "freeze": "^0"}
    model = backbone({**CONVNET, "weights": str(tmp_path / "w.pth"), **changes})
    assert model.dim == 5 and equal(model.state_dict(), torch.load(tmp_path / "w.pth"))
    assert not model[0].weight.requires_grad


# --- of a trainer: network by network -------------------------------------------------


def started(trainer, config, *keys):
    """Return a trainer after its setup, and what it said."""
    run = trainer(config("base", *MODEL, *keys))
    run.setup()
    run.cleanup()
    return run, (run.run_dir / "console.log").read_text()


@pytest.fixture
def simclr(config):
    """Return the state of a SimCLR that was never trained, with values of its own."""
    run, _ = started(SimCLR, config, "log.run=first", NO_PROBE)
    return {n: t + 1 for n, t in run.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model."])
@pytest.mark.parametrize("container", ["plain", "lightning", "safetensors"])
def test_a_run_starts_from_weights_of_another_library(
    config, tmp_path, simclr, container, prefix
):
    state = {prefix + name: t for name, t in simclr.items()}
    path = write(tmp_path / "w", container, state)
    run, said = started(SimCLR, config, f"log.load_from={path}")
    assert equal(run.state_dict(), simclr) and (run.step, run.epoch) == (0, 0)
    assert f"log.load_from={path}: " in said and f"{len(simclr)} tensors" in said


def test_a_network_of_another_name_is_found_in_the_trainer(config, tmp_path):
    expected = network()
    state = {f"encoder.{name}": t for name, t in expected.items()}
    path = write(tmp_path / "w", "lightning", state)
    run, said = started(SimCLR, config, f"log.load_from={path}")
    assert equal(run.backbone.state_dict(), expected)
    assert "state_dict.encoder -> backbone: " in said
    assert "left as they were, " in said and "of the model: projector.0.weight" in said


def test_of_online_and_momentum_networks_the_first_is_taken_and_said(config, tmp_path):
    online, momentum = network(), {n: t + 1 for n, t in network().items()}
    state = {f"encoder.{n}": t for n, t in online.items()}
    state |= {f"momentum_encoder.{n}": t for n, t in momentum.items()}
    state |= {"projector.0.weight": torch.ones(2048, 16), "queue": torch.ones(2, 8)}
    path = write(tmp_path / "w", "lightning", state)
    run, said = started(BYOL, config, f"log.load_from={path}", "++model.predictor=8")
    assert equal(run.backbone.state_dict(), online)
    assert equal(run.teacher.module[0].state_dict(), online)
    assert "before what fits as well: state_dict.momentum_encoder" in said
    assert "teacher: not in the checkpoint, so a copy of its student" in said


def test_networks_that_fit_in_part_are_left_as_they_were(config, tmp_path, simclr):
    state = {n: t for n, t in simclr.items() if n != "projector.3.weight"}
    path = write(tmp_path / "w", "plain", state)
    run, said = started(SimCLR, config, f"log.load_from={path}")
    assert equal(run.backbone.state_dict(), tensors_below(simclr, "backbone."))
    assert not torch.equal(run.projector[0].weight, simclr["projector.0.weight"])
    del state["backbone.2.weight"]
    path = write(tmp_path / "w", "plain", state)
    with pytest.raises(ConfigError, match="another model.* missing: backbone.2.weight"):
        started(SimCLR, config, f"log.load_from={path}", "log.run=second")


def tensors_below(state, prefix):
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def test_of_a_whole_classifier_all_but_another_head_is_loaded(tiny, config, tmp_path):
    class Whole(tiny):
        def initialize_modules(self):
            self.net = nn.Sequential()
            self.net.body = nn.Linear(64, 8)
            self.net.fc = nn.Linear(8, 10)

        def forward(self, x):
            return self.net(x.flatten(1))

    state = {"body.weight": torch.ones(8, 64), "body.bias": torch.ones(8)}
    state |= {"fc.weight": torch.ones(1000, 8), "fc.bias": torch.ones(1000)}
    path = f"log.load_from={write(tmp_path / 'w', 'plain', state)}"
    run = Whole(config("base", path))
    run.setup()
    run.cleanup()
    assert equal(run.net.body.state_dict(), tensors_below(state, "body."))
    assert not torch.equal(run.net.fc.bias, torch.ones(10))
    with pytest.raises(ConfigError, match="has no net.fc, and an evaluation"):
        Whole(config("base", path, "log.run=x", "mode=test", NO_PROBE)).run()


@pytest.mark.parametrize("mode", ["fit", "test"])
def test_a_file_of_which_nothing_fits_is_refused(config, tmp_path, mode):
    state = {f"model.{n}": t for n, t in network(width=8).items()}
    state |= {"head.weight": torch.ones(4), "norm.bias": torch.ones(4)}  # of any norm
    path = write(tmp_path / "w", "timm", state)
    with pytest.raises(ConfigError, match="another model|no tensor of the model"):
        started(SimCLR, config, f"log.load_from={path}", f"mode={mode}", NO_PROBE)


# --- to evaluate ----------------------------------------------------------------------


def test_features_of_a_foreign_backbone_are_evaluated(config, tmp_path, rows):
    path = f"log.load_from={write(tmp_path / 'w', 'plain', network())}"
    keys = [*MODEL, path, "mode=test"]
    run = SimCLR(config("base", *keys, NO_PROBE))
    run.run()
    (row,) = rows(run.run_dir)
    assert (row["epoch"], row["step"]) == (0, 0) and row["test/knn_acc1"] > 0.1
    assert equal(run.backbone.state_dict(), torch.load(tmp_path / "w"))
    with pytest.raises(ConfigError, match="no linear probe; set log.eval.linear=null"):
        SimCLR(config("base", *keys, "log.run=second")).run()


def test_what_was_never_trained_is_not_evaluated(config, tmp_path):
    path = f"log.load_from={write(tmp_path / 'w', 'plain', network())}"
    keys = [MODEL[0], path, "mode=test", NO_PROBE]
    with pytest.raises(ConfigError, match="has no classifier, and an evaluation"):
        Supervised(config("supervised", *keys)).run()


def test_a_checkpoint_of_ours_saved_again_keeps_its_probe(tiny, config, tmp_path):
    first = tiny(config("base", "optim.epochs=1"))
    first.run()
    state = checkpoint.load(first.run_dir / "ckpts" / "last.ckpt")
    torch.save(state, tmp_path / "again.pth")
    keys = ["log.run=second", "mode=test", f"log.load_from={tmp_path / 'again.pth'}"]
    second = tiny(config("base", *keys))
    second.run()
    assert second.step == first.step
    assert second.metrics["test/acc1"] == first.metrics["test/acc1"]
