"""The online probe: learns, keeps to itself, resumes."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from stable_ssl.evaluation.config import ProbeConfig
from stable_ssl.evaluation.probe import Probe


def build(seed=0, **optimizer):
    probe = Probe(ProbeConfig(**optimizer))
    torch.manual_seed(seed)
    probe.build(16, 4, "cpu")
    return probe


def blobs(n=256, dim=16, classes=4):
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(classes, dim, generator=generator)
    labels = torch.randint(0, classes, (n,), generator=generator)
    return centres[labels] + torch.randn(n, dim, generator=generator), labels


def test_it_learns_a_linear_problem_at_any_scale_of_features():
    x, y = blobs()
    for scale in (1e-3, 1, 1e3):
        probe = build(lr=1e-2)
        for _ in range(100):
            probe.fit(scale * x, y)
        probe.module.eval()
        assert (probe.module(scale * x).argmax(1) == y).float().mean() > 0.95


def test_the_generator_decides_its_weights():
    a, b, c = (build(seed) for seed in (1, 1, 2))
    assert torch.equal(a.module.classifier.weight, b.module.classifier.weight)
    assert not torch.equal(a.module.classifier.weight, c.module.classifier.weight)


def test_it_resumes_bit_for_bit():
    x, y = blobs()
    whole, half = build(), build()
    for _ in range(3):
        whole.fit(x, y)
        half.fit(x, y)
    resumed = build(seed=9)
    resumed.load_state_dict(half.state_dict())
    assert torch.equal(whole.fit(x, y), resumed.fit(x, y))
    assert torch.equal(whole.module.classifier.weight, resumed.module.classifier.weight)


def test_one_sample_is_standardised_as_in_evaluation():
    x, y = blobs()
    probe = build()
    probe.fit(x, y)
    mean, before = (
        probe.module.norm.running_mean.clone(),
        probe.module.classifier.weight.clone(),
    )
    probe.fit(x[:1], y[:1])
    assert torch.equal(probe.module.norm.running_mean, mean)
    assert not torch.equal(probe.module.classifier.weight, before)
    probe.fit(x, y)
    assert not torch.equal(probe.module.norm.running_mean, mean)


@pytest.mark.parametrize("missing", [0, 3, 32])  # labels of 32
@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.int8])
def test_loss_and_gradient_are_those_of_the_cross_entropy(missing, kind):
    x, y = blobs(32)
    y[:missing] = torch.tensor([-1, -7, -100]).repeat(11)[:missing]
    probe, plain = build(optimizer="sgd", lr=1.0), build().module
    before = plain.classifier.weight.detach().clone()
    labels, known = y.clamp(min=0), y >= 0
    losses = cross_entropy(plain(x), labels, reduction="none")[known]
    expected = losses.sum() / max(len(losses), 1)
    expected.backward()
    found = probe.fit(x, y.to(kind))
    torch.testing.assert_close(found, expected.detach())
    weight = before - plain.classifier.weight.grad
    torch.testing.assert_close(probe.module.classifier.weight.detach(), weight)
    assert torch.equal(probe.module.norm.running_var, plain.norm.running_var)
    assert probe.module.classifier.weight.grad is None


@pytest.mark.parametrize(
    ("optimizer", "fused"),
    [
        ("adamw", True),
        ("sgd", True),
        ({"_target_": "torch.optim.AdamW", "foreach": True}, None),
        ({"_target_": "torch.optim.AdamW", "fused": False}, False),
    ],
)
def test_the_optimizer_steps_by_its_fused_kernel_unless_it_is_told_how(
    optimizer, fused
):
    probe = build(optimizer=optimizer)
    assert [g["fused"] for g in probe.optimizer.param_groups] == [fused]
    probe.fit(*blobs())


def test_a_state_of_an_optimizer_that_was_not_fused_goes_on_to_the_bit():
    x, y = blobs()
    plain = build(optimizer={"_target_": "torch.optim.AdamW", "fused": False})
    plain.fit(x, y)
    state = copy.deepcopy(plain.state_dict())
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = None  # as it was saved before
    resumed = build(seed=9)
    resumed.load_state_dict(state)
    assert torch.equal(plain.fit(x, y), resumed.fit(x, y))
    assert torch.equal(plain.module.classifier.weight, resumed.module.classifier.weight)
