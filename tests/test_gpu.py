"""Training on a real GPU: it never waits for the host, and resumes to the bit."""

import math

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from stable_ssl.augment import Op, Replay, View, build_ops
from stable_ssl.checkpoint import equal, load, snapshot
from stable_ssl.data.datasets import digits
from stable_ssl.methods import METHODS, SimCLR, method_class
from stable_ssl.seeding import sample_keys

pytestmark = pytest.mark.gpu
SHORT = [
    "data.batch_size=32",
    "optim.epochs=null",
    "optim.steps=8",
    "log.checkpoint.every_n_steps=4",
    "log.every_n_steps=8",
    "log.eval.every_n_epochs=null",
    "log.monitor=null",
]
WAITS = {"ijepa", "mmcr"}  # sizes of masks are drawn on the CPU; svd reads its success
OWN = {"w_mse": ("++model.part=16", "++model.projector=[32,8]")}  # of a batch of 32


class Killed(Exception):
    """Stands for the end of a process."""


@pytest.fixture(autouse=True)
def settings_of_torch():
    yield
    torch.cuda.set_sync_debug_mode("default")


def guarded(cls):
    """Return a trainer whose steps fail where they wait for the GPU.

    The first steps build and measure; a step of a row may wait.
    """

    class Guarded(cls):
        def before_train_step(self):
            if 2 <= self.step < 6:
                torch.cuda.set_sync_debug_mode("error")
            super().before_train_step()

        def after_train_step(self):
            super().after_train_step()
            torch.cuda.set_sync_debug_mode("default")

    return Guarded


@pytest.mark.parametrize("method", sorted({*METHODS} - WAITS))
def test_a_step_does_not_wait_for_the_gpu(method, config):
    own = OWN.get(method, ())
    trainer = guarded(method_class(method))(config(method, *SHORT, *own))
    trainer.run()
    assert trainer.device.type == "cuda"
    assert trainer.step == 8


def test_a_batch_does_not_wait_for_the_gpu(config):
    trainer = SimCLR(config("simclr", *SHORT))
    trainer.setup()
    list(trainer.train_loader)
    torch.cuda.set_sync_debug_mode("error")
    batches = list(trainer.train_loader)
    torch.cuda.set_sync_debug_mode("default")
    assert all(view.is_cuda for views, _ in batches for view in views)
    trainer.cleanup()


@pytest.mark.parametrize("method", METHODS)
def test_resume_is_exact_on_a_gpu(method, config):
    class Dying(method_class(method)):
        def before_train_step(self):
            if self.step == 6:
                raise Killed
            super().before_train_step()

    options = [*SHORT, "hardware.deterministic=true", *OWN.get(method, ())]
    whole = method_class(method)(config(method, *options, "log.run=whole"))
    whole.run()
    with pytest.raises(Killed):
        Dying(config(method, *options)).run()
    resumed = method_class(method)(config(method, *options))
    resumed.run()
    a, b = (load(run.run_dir / "ckpts" / "last.ckpt") for run in (whole, resumed))
    for name in a.keys() - {"config", "rows", "metrics", "logged"}:
        assert equal(a[name], b[name]), name


@pytest.mark.parametrize(
    "overrides",
    [
        ("hardware.precision=bfloat16",),
        ("hardware.precision=float16",),
        ("hardware.precision=float16", "++optim.grad_max_norm=1"),
        ("hardware.precision=bfloat16", "hardware.compile=true", "data.compile=true"),
    ],
    ids=["bfloat16", "float16", "float16 clipped", "compiled"],
)
def test_a_training_learns_in_every_precision(config, rows, overrides):
    words = [*SHORT, "optim.steps=60", "log.every_n_steps=10"]
    trainer = SimCLR(config("simclr", *words, *overrides))
    trainer.run()
    losses = [row["train/loss"] for row in rows(trainer.run_dir) if "train/loss" in row]
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]


def test_images_that_workers_decode_arrive_as_on_the_cpu(config, tmp_path):
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for i in range(48):
        size = (40 + i, 60, 3)
        pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        path = tmp_path / "images" / "train" / str(i % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()).save(path)
    crop = "{name: random_resized_crop, size: 32}"
    jitter = "{name: color_jitter, brightness: 0.4, hue: 0.1}"
    node = "{dataset: {name: image_folder, root: images, subset: train,"
    node += f" image_transform: [[{crop}, {jitter}], [{crop}]]}}, num_workers: 2}}"
    words = [*SHORT, f"++data.train={node}", "data.val=null", "data.test=null"]
    words += ["data.batch_size=16", f"data.root={tmp_path}", "log.eval.knn=null"]
    words += ["log.eval.linear=null"]
    batches = {}
    for accelerator in ("cpu", "gpu"):
        own = f"hardware.accelerator={accelerator}"
        trainer = SimCLR(config("simclr", *words, own, f"log.run={accelerator}"))
        trainer.setup()
        batches[accelerator] = list(trainer.train_loader)
        trainer.cleanup()
    for here, there in zip(*batches.values(), strict=True):
        assert torch.equal(here[1], there[1].cpu())
        for view, other in zip(here[0], there[0], strict=True):
            torch.testing.assert_close(other.cpu(), view, atol=1e-4, rtol=0)


def test_a_graph_makes_the_bits_of_its_view():
    ops = [
        {"name": "random_resized_crop", "size": 32},
        {"name": "horizontal_flip"},
        {"name": "color_jitter", "brightness": 0.4, "contrast": 0.4, "hue": 0.1},
        {"name": "gaussian_blur", "kernel_size": 3, "p": 0.5},
        {"name": "noise", "std": 0.1},
    ]
    view = View(build_ops(ops))
    replay, index = Replay(view), torch.arange(64, device="cuda")
    pixels = torch.randint(0, 256, (2, 64, 3, 32, 32), dtype=torch.uint8, device="cuda")
    made = []
    for epoch in range(6):
        images, keys = pixels[epoch % 2], sample_keys(0, epoch, index)
        made.append((replay(images, keys), view(images, keys)))
    assert all(graph is not None for graph in replay.graphs.values())
    assert all(torch.equal(a, b) for a, b in made)


def test_a_copy_of_a_state_is_on_the_host_and_shares_memory_as_it_did():
    base = torch.arange(24.0, device="cuda")
    weight = torch.nn.Parameter(base.view(2, 3, 4))
    state = {"modules": {"weight": weight, "tied": base[4:10]}, "step": torch.ones(())}
    found = snapshot(state)
    host = found["modules"]
    assert {tensor.device.type for tensor in host.values()} == {"cpu"}
    assert torch.equal(host["weight"], weight.detach().cpu())
    host["weight"].zero_()
    assert not host["tied"].any() and base[1:].all()
    assert found["step"] == 1


class Waiting(Op):
    """An op that reads a value."""

    def apply(self, x):
        return x * x.amax().item()


def test_a_view_that_waits_is_made_without_a_graph_and_harms_no_other():
    images = torch.rand(8, 3, 16, 16, device="cuda")
    keys = sample_keys(0, 0, torch.arange(8, device="cuda"))
    stream = torch.cuda.current_stream()
    waiting, other = (
        Replay(View([Waiting()])),
        Replay(View(build_ops([{"name": "noise", "std": 0.1}]))),
    )
    with pytest.warns(UserWarning, match="made without a graph"):
        made = [waiting(images, keys) for _ in range(5)]
    assert torch.cuda.current_stream() == stream
    assert torch.cuda.get_sync_debug_mode() == 0
    assert all(torch.equal(view, made[0]) for view in made)
    views = [other(images, keys) for _ in range(5)]
    assert all(graph is not None for graph in other.graphs.values())
    assert all(torch.equal(view, views[0]) for view in views)


class Placed(SimCLR):
    """Keep a value on the GPU, and one on the CPU that numpy reads."""

    def initialize_modules(self):
        super().initialize_modules()
        self.edges, self.center = torch.zeros(3), torch.zeros(3, device=self.device)

    def after_train_step(self):
        super().after_train_step()
        self.edges = torch.from_numpy(self.edges.numpy() + 1)
        self.center = self.center + self.config.hardware.seed + 1


def test_loaders_and_attributes_of_ones_own_are_where_they_belong(config):
    held = digits(subset="train")
    x, y = held.images.float() / 255, held.labels
    plain = DataLoader(TensorDataset(x, y), 100)
    views = DataLoader([([a, a], b) for a, b in zip(x, y, strict=True)], 64)
    keys = ["data.num_classes=10", "optim.epochs=null", "log.monitor=null"]
    for steps in (4, 8):
        own = [*keys, f"optim.steps={steps}", "optim.scheduler=null"]
        run = Placed(config("simclr", *own), train=views, val=plain, bank=plain)
        run.run()
    assert run.metrics["val/knn_acc1"] > 0.5 and "val/acc1" in run.metrics
    assert run.edges.tolist() == run.center.tolist() == [8, 8, 8]
    assert run.center.device.type == run.device.type and run.edges.device.type == "cpu"
