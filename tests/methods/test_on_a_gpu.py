"""A step on a GPU, of tensors that have a shape and a device and no values.

So it needs no GPU, and shows two faults that a CPU hides: an operation on tensors of
two devices, and one that reads a value and would make the host wait for the GPU.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from stable_ssl.augment import OPS, View, build_ops
from stable_ssl.batch import batches_from, seen
from stable_ssl.evaluation import suite
from stable_ssl.methods import METHODS, method_class
from stable_ssl.seeding import sample_keys

OLDER = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14)
pytestmark = [
    pytest.mark.skipif(
        torch.cuda.is_available(), reason="on a real GPU all other tests show it"
    ),
    pytest.mark.skipif(OLDER, reason="an older torch asks a driver for these tensors"),
]
GPU = torch.device("cuda", 0)
ARGUMENTS = {  # that an op needs
    "random_resized_crop": {"size": 6},
    "resize": {"size": 6},
    "center_crop": {"size": 6},
    "gaussian_blur": {"kernel_size": 3},
    "rotation": {"degrees": 30},
    "shear": {"degrees": 30},
    "noise": {"std": 0.1},
    "normalize": {"mean": [0.5] * 3, "std": [0.5] * 3},
    "color_jitter": dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.4),
    **{name: {"amount": 0.4} for name in ("brightness", "contrast", "saturation")},
    "hue": {"amount": 0.1},
}


@pytest.fixture(scope="module")
def valueless():
    """Return one mode for all: constants that the library keeps belong to it."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def on_gpu(x):
    """Return a tensor of x's shape, without values, on a GPU."""
    return torch.empty_like(x, device=GPU)


def move(module):
    """Replace a module's tensors by such, as `to` would."""
    moved = {}  # shared ones stay shared
    for part in module.modules():
        for own in (part._parameters, part._buffers):
            for name, x in own.items():
                if x is None:
                    continue
                if id(x) not in moved:
                    new = on_gpu(x)
                    if isinstance(x, torch.nn.Parameter):
                        new = torch.nn.Parameter(new, requires_grad=x.requires_grad)
                    moved[id(x)] = x, new
                own[name] = moved[id(x)][1]
    return module


@pytest.mark.parametrize("name", OPS)
def test_an_augmentation(name, valueless):
    view = View(build_ops([{"name": name, **ARGUMENTS.get(name, {})}]))
    with valueless:
        images = torch.empty(4, 3, 8, 8, dtype=torch.uint8, device=GPU)
        index = torch.empty(4, dtype=torch.int64, device=GPU)
        assert view(images, sample_keys(0, 1, index, 0)).device == GPU


@pytest.mark.filterwarnings("ignore:User provided device_type")
def test_batches_of_a_loader_of_ones_own(valueless):
    with valueless:
        loader = [(torch.empty(4, 3), torch.empty(4))] * 3
        batches = [*seen(loader, GPU, 2), *batches_from(loader, 0, 1, 3, GPU)]
    assert [x.device for pair in batches for x in pair] == 8 * [GPU]


LARS = "optim.optimizer=lars", "optim.grad_max_norm=1"
OWN = {name: () for name in METHODS}
del OWN["ijepa"]  # draws the sizes of its masks on the CPU
del OWN["deepcluster_v2"]  # sees all images before an epoch
OWN["w_mse"] = "++model.part=8", "++model.projector=[32,4]"  # of a batch of 8


@pytest.mark.parametrize("name, overrides", [("simclr", LARS), *OWN.items()])
def test_a_step(name, overrides, config, valueless, monkeypatch):
    run = method_class(name)(config(name, "data.batch_size=8", *overrides))

    def backward(loss):
        trained = [p for m in run.evaluation.modules for p in m.parameters()]
        for p in trained:
            p.grad = torch.empty_like(p) if p.requires_grad else None

    run.initialize_run()
    run.seed_everything()
    run.initialize_data()
    run.count_steps()
    run.initialize_modules()
    real = next(iter(run.train_loader))
    with valueless:
        batch = tree_map_only(torch.Tensor, on_gpu, real)
        x, labels = run.labelled(batch)
        monkeypatch.setattr(suite, "check_labels", lambda *_: None)
        monkeypatch.setattr(torch.nn.Module, "to", lambda module, *_, **__: module)
        monkeypatch.setattr(torch.Tensor, "backward", backward)
        run.device, run.loaders = GPU, {}
        move(run)
        run.place_modules()
        run.initialize_optimizer()
        run._collect_optimizers()
        run.initialize_scheduler()
        run._build_stepper()
        run.initialize_evaluation()
        run.before_train_epoch()
        run.train_micro_batch(batch)
        assert all(x.device == GPU for x in run.state_dict().values())
    run.cleanup()
