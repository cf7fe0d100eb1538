import math

import pytest
import torch

from stable_ssl.losses import consistency, pseudo_label


def logits(n=8, k=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.randn(2, n, k, generator=generator, dtype=torch.float64)


def softmax(row):
    exps = [math.exp(x) for x in row]
    return [x / sum(exps) for x in exps]


@pytest.mark.parametrize("threshold", [0.0, 0.9, 1.1])
def test_pseudo_label_is_a_mean_over_all_rows_not_over_the_sure_ones(threshold):
    """Eq. 4 of FixMatch: 1 / (mu B) times the sum over the rows above tau."""
    weak, strong = logits()
    total, sure = 0.0, 0
    for u, v in zip(weak.tolist(), strong.tolist(), strict=True):
        q = softmax(u)
        if max(q) >= threshold:
            sure += 1
            total -= math.log(softmax(v)[q.index(max(q))])
    assert {0.0: sure == 8, 0.9: 0 < sure < 8, 1.1: sure == 0}[threshold]
    found = pseudo_label(weak, strong, threshold)
    assert found.item() == pytest.approx(total / 8, rel=1e-12)


def test_consistency_equals_the_mean_squared_difference_of_probabilities():
    student, teacher = logits()
    squares = [
        (x - y) ** 2
        for u, v in zip(student.tolist(), teacher.tolist(), strict=True)
        for x, y in zip(softmax(u), softmax(v), strict=True)
    ]
    found = consistency(student, teacher)
    assert found.item() == pytest.approx(sum(squares) / len(squares), rel=1e-12)


def test_who_teaches_is_detached_and_who_learns_is_not():
    weak, strong = (x.requires_grad_() for x in logits())
    (pseudo_label(weak, strong, 0.5) + consistency(strong, weak)).backward()
    assert weak.grad is None and strong.grad.norm() > 1e-3


@pytest.mark.parametrize("loss", [pseudo_label, consistency])
def test_permuting_rows_and_shifting_logits_changes_nothing(loss):
    a, b = logits()
    torch.testing.assert_close(loss(a.flip(0) + 3, b.flip(0) - 5), loss(a, b))


@pytest.mark.parametrize("loss", [pseudo_label, consistency])
def test_wrong_shapes_are_refused_in_words(loss):
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(4, 2\)"):
        loss(torch.ones(4, 3), torch.ones(4, 2))
