import copy
import math

import pytest
import torch
from torch import nn

from stable_ssl import distributed
from stable_ssl.config import ConfigError
from stable_ssl.models import EMA, backbone, momentum
from stable_ssl.models.norm import convert_sync_batchnorm


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU())


def moved(student):
    """Return the student after a forward pass in training and a step."""
    student(torch.randn(8, 4)).square().sum().backward()
    torch.optim.SGD(student.parameters(), lr=0.1).step()
    return student


def test_the_momentum_is_in_optimizer_steps_from_base_to_final():  # fault 26
    total, base = 40, 0.9
    taus = [momentum(step, total, base) for step in range(total + 1)]
    assert taus[0] == base and taus[-1] == 1.0
    assert all(a < b for a, b in zip(taus, taus[1:], strict=False))
    assert taus[10] == pytest.approx(1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2)
    assert momentum(total + 1, total, base) == 1.0  # not back down the cosine
    assert momentum(0, 0, base, 0.99) == 0.99
    assert momentum(7, total, 0.99, 0.99) == 0.99
    assert momentum(total, total, 0.9, 0.95) == 0.95
    line = [momentum(step, total, 0.9, 1.0, "polynomial") for step in (0, 10, 40, 41)]
    assert line == pytest.approx([0.9, 0.925, 1.0, 1.0], rel=1e-15)


def test_micro_batches_are_no_steps(tiny, config):  # fault 26
    class Distilled(tiny):
        def initialize_modules(self):
            super().initialize_modules()
            self.teacher, self.taus = EMA(self.layer, 0.5), []

        def after_train_step(self):
            self.teacher.update(self.layer, self.step, self.total_steps)
            self.taus.append(momentum(self.step, self.total_steps, 0.5))

    trainer = Distilled(config("base", "optim.accumulate=2"))
    trainer.run()
    assert len(trainer.taus) == trainer.total_steps and trainer.taus[-1] == 1.0
    assert sorted(set(trainer.taus)) == trainer.taus
    weight = trainer.teacher.module.weight
    assert 0 < (weight - trainer.layer.weight).norm() < 0.5 * weight.norm()


@pytest.mark.parametrize("schedule", ["cosine", "polynomial"])
def test_the_teacher_moves_by_the_formula_of_the_paper(schedule):
    student = network().double()
    teacher = EMA(student, 0.6, 0.9, schedule)
    expected = copy.deepcopy(student.state_dict())
    for step in (1, 2, 3):
        moved = {k: v + 1 for k, v in student.state_dict().items()}
        student.load_state_dict(moved)
        left = (math.cos(math.pi * (step - 1) / 3) + 1) / 2
        tau = 0.9 - 0.3 * (left if schedule == "cosine" else 1 - (step - 1) / 3)
        teacher.update(student, step, 3)
        for name, new in moved.items():
            if name in dict(student.named_parameters()):
                new = tau * expected[name] + (1 - tau) * new
            expected[name] = new
    found = teacher.module.state_dict()
    assert found["1.running_var"].equal(moved["1.running_var"])
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=0)


def test_momentum_one_leaves_the_teacher_and_zero_copies_the_student():
    student = network()
    still, follower = EMA(student, 1.0, 1.0), EMA(student, 0.0, 0.0)
    start = copy.deepcopy(still.state_dict())
    moved(student)
    still.update(student, 1, 2)
    follower.update(student, 1, 2)
    for name, value in still.named_parameters():
        assert value.equal(start[name])
    for name, value in student.state_dict().items():
        assert follower.module.state_dict()[name].equal(value)


def test_a_teacher_that_is_called_in_training_keeps_its_own_statistics():
    student = network()
    teacher = EMA(student, 0.5)
    moved(student)
    teacher.eval()(torch.randn(8, 4))  # as for an evaluation
    teacher.update(student, 1, 2)
    assert teacher.module[1].running_mean.equal(student[1].running_mean)
    own = copy.deepcopy(teacher.module).train()
    for step in (2, 3):
        moved(student)
        x = torch.randn(8, 4)
        teacher.train()(x)
        teacher.update(student, step, 3)
        own(x)
        assert teacher.module[1].running_mean.equal(own[1].running_mean)
        assert teacher.module[1].num_batches_tracked == step
        own.load_state_dict(teacher.module.state_dict())


def test_a_teacher_is_never_trained():
    class Method(nn.Module):
        def __init__(self):
            super().__init__()
            self.student = network()
            self.teacher = EMA(self.student)

    method = Method()
    trained = [n for n, p in method.named_parameters() if p.requires_grad]
    assert len(trained) == 4 and not any("teacher" in name for name in trained)
    x = torch.randn(8, 4, requires_grad=True)
    assert not method.teacher(x).requires_grad
    loss = (method.student(x) - method.teacher(x)).square().sum()
    loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    names = {n for n in method.state_dict() if n.startswith("teacher.module.")}
    assert len(names) == len(method.student.state_dict())


def test_a_teacher_that_a_checkpoint_lacks_is_a_copy_of_the_loaded_student(
    tiny, config
):
    class Distilled(tiny):
        def initialize_modules(self):
            super().initialize_modules()
            self.teacher = EMA(self.layer, 1.0)

    def started(trainer, run, path):
        run = trainer(config("base", f"log.run={run}", f"log.load_from={path}"))
        run.setup()
        run.cleanup()
        text = (run.run_dir / "console.log").read_text()
        return run, "teacher: not in the checkpoint, so a copy of its student" in text

    first = tiny(config("base", "hardware.seed=1"))
    first.run()
    path = first.run_dir / "ckpts" / "last.ckpt"
    second, said = started(Distilled, "second", path)
    assert said and second.layer.weight.equal(first.layer.weight)
    assert second.teacher.module.weight.equal(first.layer.weight)
    third = Distilled(config("base", "log.run=third"))
    third.run()
    path = third.run_dir / "ckpts" / "last.ckpt"
    fourth, said = started(Distilled, "fourth", path)
    assert not said and fourth.teacher.module.weight.equal(third.teacher.module.weight)
    assert not third.teacher.module.weight.equal(third.layer.weight)


def test_the_mode_is_the_trainers():
    teacher = EMA(network())
    x = 5 + torch.randn(8, 4)
    teacher.train()
    assert teacher.module[1].training
    before = teacher.module[1].running_mean.clone()
    own = teacher(x)
    assert not teacher.module[1].running_mean.equal(before)
    teacher.eval()
    assert not torch.allclose(teacher(x), own)


def test_an_update_in_training_does_not_break_the_students_backward():
    student = backbone("convnet", width=2)
    teacher = EMA(student, 0.5)
    loss = (student(torch.randn(4, 3, 8, 8)) - 1).square().mean()
    teacher.update(student, 1, 2)
    loss.backward()


@pytest.mark.parametrize("base, final", [(-0.1, 1), (0.99, 1.1), (0.99, 0.9)])
def test_wrong_momenta_are_refused_in_words(base, final):
    with pytest.raises(ConfigError, match="from 0 to 1"):
        EMA(network(), base, final)


def test_a_student_of_another_shape_is_refused():
    with pytest.raises(ValueError):
        EMA(network()).update(nn.Linear(4, 3), 1, 2)


def distil():
    """Train a student on this rank's part towards its teacher; return the teacher."""
    rank, world = distributed.rank(), distributed.world_size()
    student = network().double()
    method = nn.ModuleDict({"student": student, "teacher": EMA(student, 0.5)})
    convert_sync_batchnorm(method, torch.device("cpu"))
    x = torch.arange(64, dtype=torch.float64).view(16, 4).sin().chunk(world)[rank]

    def loss():
        return (student(x) - method["teacher"](x.flip(1)) - 1).square().mean()

    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for step in (1, 2, 3):
        optimizer.zero_grad()
        loss().backward()
        distributed.average_gradients(list(student.parameters()))
        optimizer.step()
        method["teacher"].update(student, step, 4)
    return method["teacher"].state_dict()


@pytest.mark.slow
def test_ranks_have_the_teacher_of_one_process(ranks):
    expected, (one, other) = distil(), ranks(2, distil)
    for name, value in expected.items():
        assert one[name].equal(other[name]), name
        torch.testing.assert_close(one[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "vit", "image_size": 8, "patch_size": 2, "dim": 16, "depth": 2}
        | {"heads": 2, "drop_path_rate": 0.5},
        {"name": "convnext_tiny", "stochastic_depth_prob": 0.5},
    ],
    ids=["timm", "torchvision"],
)
def test_a_teacher_drops_no_paths(spec):
    student = backbone(spec).train()
    teacher = EMA(student).train()
    x = torch.randn(2, 3, 8, 8) if spec["name"] == "vit" else torch.randn(2, 3, 32, 32)
    assert teacher(x).equal(teacher(x))
    torch.manual_seed(0)
    assert not student(x).equal(student(x))
