"""The online probe: learns, keeps to itself, resumes."""

import torch

from stable_ssl.evaluation.probe import Probe, ProbeConfig


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
