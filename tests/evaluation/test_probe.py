"""The online probe: learns, keeps to itself, resumes."""

import torch
from torch import nn

from stable_ssl.config import Linear
from stable_ssl.evaluation.probe import LinearProbe


def blobs(n=256, dim=16, classes=4):
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(classes, dim, generator=generator)
    labels = torch.randint(0, classes, (n,), generator=generator)
    return centres[labels] + torch.randn(n, dim, generator=generator), labels


def test_it_learns_a_linear_problem_at_any_scale_of_features():
    x, y = blobs()
    for scale in (1e-3, 1, 1e3):
        probe = LinearProbe(16, 4, Linear(lr=1e-2))
        for _ in range(100):
            probe.fit_batch(scale * x, y)
        probe.eval()
        assert (probe(scale * x).argmax(1) == y).float().mean() > 0.95


def test_no_gradient_and_no_random_number_leaves_it():
    layer = nn.Linear(16, 16)
    x, y = blobs()
    before = torch.get_rng_state()
    probe = LinearProbe(16, 4, Linear())
    probe.fit_batch(layer(x), y)
    assert layer.weight.grad is None
    assert torch.equal(before, torch.get_rng_state())


def test_the_seed_decides_its_weights():
    a, b, c = (LinearProbe(16, 4, Linear(), seed) for seed in (1, 1, 2))
    assert torch.equal(a.classifier.weight, b.classifier.weight)
    assert not torch.equal(a.classifier.weight, c.classifier.weight)


def test_it_resumes_bit_for_bit():
    x, y = blobs()
    whole, half = LinearProbe(16, 4, Linear()), LinearProbe(16, 4, Linear())
    for _ in range(3):
        whole.fit_batch(x, y)
        half.fit_batch(x, y)
    resumed = LinearProbe(16, 4, Linear(), seed=9)
    resumed.load_state(half.state())
    assert torch.equal(whole.fit_batch(x, y), resumed.fit_batch(x, y))
    assert torch.equal(whole.classifier.weight, resumed.classifier.weight)


def test_one_sample_is_standardised_as_in_evaluation():
    x, y = blobs()
    probe = LinearProbe(16, 4, Linear())
    probe.fit_batch(x, y)
    mean, before = probe.norm.running_mean.clone(), probe.classifier.weight.clone()
    probe.fit_batch(x[:1], y[:1])
    assert torch.equal(probe.norm.running_mean, mean)
    assert not torch.equal(probe.classifier.weight, before)
    probe.fit_batch(x, y)
    assert not torch.equal(probe.norm.running_mean, mean)
