"""model.checkpointing changes the memory of a step, and nothing else."""

import copy
import pickle

import pytest
import torch
from torch import nn

from stable_ssl import load_config
from stable_ssl.checkpoint import equal
from stable_ssl.config import ConfigError
from stable_ssl.methods import SimCLR, method_class
from stable_ssl.models import EMA, backbone
from stable_ssl.models.checkpointing import Checkpointed, checkpoint_activations
from tests.methods.test_every_method import BARE, TINY
from tests.test_exact_batch import read, run_undrawn

VIT = "{name: vit, image_size: 8, patch_size: 2, dim: 16, depth: 2, heads: 2, "
VIT += "drop_path_rate: 0.2, proj_drop_rate: 0.1, width: null}"
RESNET = "{name: resnet18, stem: cifar, width: null}"
CASES = {
    "simclr-vit": ("simclr", VIT, []),
    "simclr-resnet": ("simclr", RESNET, ["data.batch_size=8"]),
    "dino": ("dino", VIT, ["++model.freeze_epochs=0"]),
    "mae": ("mae", VIT, []),
    "ijepa": ("ijepa", VIT[:-1] + ", class_token: false}", []),
    "exact": (
        "simclr",
        VIT,
        [
            "++model.projector_norm=false",
            "optim.accumulate=2",
            "optim.exact_batch=true",
        ],
    ),
}


def train(case, folder, checkpointing):
    """Train three steps; return weights, rows and how many blocks are checkpointed."""
    torch.set_num_threads(1)
    method, spec, own = CASES[case]
    options = [*TINY, *BARE, "optim.steps=3", f"log.folder={folder}/{checkpointing}"]
    options += [f"++model.backbone={spec}", "log.every_n_steps=1", *own]
    options += [f"++model.checkpointing={checkpointing}", "data.val=null"]
    trainer = method_class(method)(load_config(method, [*options, "data.test=null"]))
    run_undrawn(trainer)
    rows = read(trainer.run_dir) if trainer.rank == 0 else []
    blocks = sum(isinstance(m, Checkpointed) for m in trainer.modules())
    return trainer.state_dict(), rows, blocks


DEAR = ("simclr-resnet", "exact")


@pytest.mark.parametrize(
    "case",
    [c if c not in DEAR else pytest.param(c, marks=pytest.mark.slow) for c in CASES],
)
def test_weights_and_rows_are_those_without(case, tmp_path):
    """To the bit, with dropout, teachers, masks and running statistics."""
    plain, plain_rows, none = train(case, tmp_path, "false")
    weights, rows, blocks = train(case, tmp_path, "true")
    assert none == 0 and blocks >= 2
    assert equal(weights, plain)
    assert rows == plain_rows and len(rows) == 3


def test_running_statistics_move_once():
    from torchvision.models.resnet import BasicBlock

    torch.manual_seed(0)
    plain = nn.Sequential(BasicBlock(4, 4), BasicBlock(4, 4))
    checkpointed = copy.deepcopy(plain)
    checkpoint_activations(checkpointed)
    x = torch.randn(3, 4, 5, 5)
    for model in (plain, checkpointed):
        for _ in range(2):
            model(x).square().sum().backward()
    assert equal(checkpointed.state_dict(), plain.state_dict())
    assert plain[1].bn2.num_batches_tracked == 2
    for a, b in zip(checkpointed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.slow
def test_statistics_of_two_processes_are_those_without(ranks, tmp_path):
    case = "simclr-resnet"
    (plain, plain_rows, _), _ = ranks(2, train, case, str(tmp_path), "false")
    (weights, rows, blocks), _ = ranks(2, train, case, str(tmp_path), "true")
    assert blocks == 8 and equal(weights, plain) and rows == plain_rows


def kept(model, x):
    """Return the bytes that a forward pass keeps for its gradient, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    bytes_by_address = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            bytes_by_address[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x)
    return sum(bytes_by_address.values())


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "vit", "image_size": 32, "patch_size": 4, "dim": 64, "depth": 6},
        {"name": "resnet18", "stem": "cifar"},
    ],
)
def test_a_step_keeps_less(spec):
    heads = {"heads": 2} if spec["name"] == "vit" else {}
    model = backbone({**spec, **heads})
    x = torch.randn(4, 3, 32, 32)
    before = kept(model, x)
    checkpoint_activations(model)
    assert kept(model, x) < before / 3
    model.eval()
    assert kept(model, x) > before / 3  # of evaluation nothing is made again


def test_a_copy_is_plain_and_can_be_pickled():
    model = backbone({"name": "resnet18"})
    checkpoint_activations(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not any(isinstance(m, Checkpointed) for m in other.modules())
        assert equal(other.state_dict(), model.state_dict())
    teacher = EMA(model)
    checkpoint_activations(nn.ModuleList([model]).append(backbone("resnet18")))
    assert not any(isinstance(m, Checkpointed) for m in teacher.modules())


def test_a_model_without_blocks_is_refused(tmp_path):
    options = [*TINY, "optim.steps=1", "++model.checkpointing=true"]
    options += [f"log.folder={tmp_path}"]
    with pytest.raises(ConfigError, match="no block that is known"):
        SimCLR(load_config("simclr", options)).setup()


def test_a_compiled_block_is_refused_where_it_has_batch_norms():
    with pytest.raises(ConfigError, match=r"hardware\.compile=true .* batch norms"):
        checkpoint_activations(backbone("resnet18"), compiled=True)
    torch.compiler.reset()
    torch.manual_seed(0)
    spec = {"name": "vit", "image_size": 8, "dim": 16, "depth": 1, "heads": 2}
    plain = backbone({**spec, "proj_drop_rate": 0.2})
    checkpointed, x = copy.deepcopy(plain), torch.randn(2, 3, 8, 8)
    checkpoint_activations(checkpointed, compiled=True)
    for model in (plain, checkpointed):
        torch.manual_seed(1)
        torch.compile(model, backend="aot_eager")(x).square().mean().backward()
    for a, b in zip(checkpointed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_a_run_may_go_on_with_it(tmp_path):
    options = [*TINY, *BARE, f"++model.backbone={VIT}", f"log.folder={tmp_path}"]
    options += ["optim.scheduler.name=constant"]
    run_undrawn(SimCLR(load_config("simclr", [*options, "optim.steps=1"])))
    again = [*options, "optim.steps=2", "++model.checkpointing=true"]
    trainer = SimCLR(load_config("simclr", again))
    run_undrawn(trainer)
    assert trainer.step == 2
