import math

import pytest
import torch
from torch.nn.functional import normalize

from stable_ssl.losses import cosine_regression, dino, negative_cosine, ressl


def rows(count, n=6, d=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, n, d, generator=generator, dtype=torch.float64)


# --- cosines --------------------------------------------------------------------------


def test_byol_equals_the_formula_without_a_further_division():
    """Eq. 2 of BYOL: squared distance of normalised rows, the mean over the batch."""
    p, z = rows(2)
    distances = [
        sum(
            (x / math.hypot(*u) - y / math.hypot(*v)) ** 2
            for x, y in zip(u, v, strict=True)
        )
        for u, v in zip(p.tolist(), z.tolist(), strict=True)
    ]
    found = cosine_regression(p, z).item()
    assert found == pytest.approx(sum(distances) / len(p), rel=1e-12)
    assert negative_cosine(p, z).item() == pytest.approx(found / 2 - 1, rel=1e-12)


@pytest.mark.parametrize("loss", [cosine_regression, negative_cosine])
def test_cosines_ignore_norms_and_order_and_stop_at_the_target(loss):
    p, z = (x.requires_grad_() for x in rows(2))
    order, scale = torch.tensor([3, 1, 5, 0, 4, 2]), torch.logspace(-3, 3, 6)[:, None]
    torch.testing.assert_close(loss(scale * p, z / scale), loss(p, z))
    torch.testing.assert_close(loss(p[order], z[order]), loss(p, z))
    loss(p, z).backward()
    assert p.grad.norm() > 1e-3 and z.grad is None
    assert torch.autograd.gradcheck(lambda p: loss(p, z.detach()), p)


@pytest.mark.parametrize("loss", [cosine_regression, negative_cosine])
def test_wrong_shapes_of_cosines_are_refused_in_words(loss):
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(5, 3\)"):
        loss(torch.ones(4, 3), torch.ones(5, 3))


# --- DINO -----------------------------------------------------------------------------


def dino_reference(student, teacher, center, tau_s, tau_t):
    """Eq. 3 of the DINO paper, with algorithm 1's centre and temperatures."""

    def softmax(logits, tau):
        exps = [math.exp(x / tau) for x in logits]
        return [x / sum(exps) for x in exps]

    total, pairs = 0.0, 0
    for i, t in enumerate(teacher):
        for j, s in enumerate(student):
            if i == j:
                continue
            pairs += 1
            for u, v in zip((t - center).tolist(), s.tolist(), strict=True):
                both = zip(softmax(u, tau_t), softmax(v, tau_s), strict=True)
                total -= sum(p * math.log(q) for p, q in both) / len(t)
    return total / pairs


@pytest.mark.parametrize(("views", "first"), [(2, 2), (5, 2), (3, 1)])
def test_dino_equals_the_formula_of_the_paper(views, first):
    student, teacher = list(rows(views)), list(rows(first, seed=1))
    center = rows(1, seed=2)[0, 0]
    expected = dino_reference(student, teacher, center, 0.1, 0.04)
    for shape in ((5,), (1, 5)):
        found = dino(student, teacher, center.view(shape), 0.1, 0.04)
        assert found.item() == pytest.approx(expected, rel=1e-12)


def test_a_shift_of_logits_and_centre_changes_nothing_and_the_teacher_is_detached():
    student, teacher = (rows(2, seed=i).requires_grad_() for i in range(2))
    center = torch.linspace(-2, 2, 5, dtype=torch.float64)
    expected = dino(list(student), list(teacher), center, 0.1, 0.04)
    shifted = dino(list(student + 7), list(teacher + 3), center + 3, 0.1, 0.04)
    torch.testing.assert_close(shifted, expected)
    swapped = dino(list(student.flip(0)), list(teacher.flip(0)), center, 0.1, 0.04)
    torch.testing.assert_close(swapped, expected)
    expected.backward()
    assert student.grad.norm() > 1e-3 and teacher.grad is None


def test_a_sharp_teacher_with_large_logits_gives_no_nan():
    student, teacher = 1e4 * rows(2).float(), 1e4 * rows(2, seed=1).float()
    assert dino(list(student), list(teacher), torch.zeros(5), 0.1, 0.04).isfinite()


def test_a_single_view_is_refused_not_a_silent_nan():
    (one,) = rows(1)
    with pytest.raises(ValueError, match="1 views with targets and 1 with"):
        dino([one], [one], torch.zeros(5), 0.1, 0.04)


@pytest.mark.parametrize(
    "student, teacher, temperature, words",
    [
        ([2, 2], [2, 2, 2], 0.1, "3 views with targets and 2"),
        ([2, 2], [], 0.1, "0 views with targets"),
        ([2, 2, 4], [2, 2], 0.1, r"\(2, 3\) and \(4, 3\)"),
        ([2, 2], [2, 2], 0, "student_temperature=0"),
    ],
)
def test_wrong_input_of_dino_is_refused_in_words(student, teacher, temperature, words):
    student, teacher = ([torch.ones(n, 3) for n in x] for x in (student, teacher))
    with pytest.raises(ValueError, match=words):
        dino(student, teacher, torch.zeros(3), temperature, 0.04)


# --- ReSSL ----------------------------------------------------------------------------


def test_ressl_equals_the_formula_of_the_paper():
    (student, teacher), (queue,) = rows(2), rows(1, 9, seed=1)
    s, t, q = (normalize(x).tolist() for x in (student, teacher, queue))
    total = 0.0
    for u, v in zip(s, t, strict=True):
        likeness = [
            [math.exp(sum(map(math.prod, zip(x, y, strict=True))) / tau) for y in q]
            for x, tau in ((u, 0.1), (v, 0.04))
        ]
        ours, theirs = ([x / sum(row) for x in row] for row in likeness)
        total -= sum(p * math.log(x) for p, x in zip(theirs, ours, strict=True))
    found = ressl(student, teacher, queue)
    assert found.item() == pytest.approx(total / len(s), rel=1e-12)


def test_of_ressl_the_student_alone_learns():
    (student, teacher), (queue,) = rows(2, 3, 4), rows(1, 5, 4, seed=1)
    student.requires_grad_(), teacher.requires_grad_(), queue.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: ressl(s, teacher, queue), student)
    grads = torch.autograd.grad(
        ressl(student, teacher, queue), (teacher, queue), allow_unused=True
    )
    assert grads == (None, None)


@pytest.mark.parametrize(
    "teacher, queue, temperature, words",
    [
        (torch.ones(5, 3), torch.ones(9, 3), 0.1, r"\(4, 3\) and \(5, 3\)"),
        (torch.ones(4, 3), torch.ones(9, 2), 0.1, r"a queue of shape \(9, 2\)"),
        (torch.ones(4, 3), torch.ones(9, 3), 0.0, "student_temperature=0.0"),
    ],
)
def test_wrong_input_of_ressl_is_refused_in_words(teacher, queue, temperature, words):
    with pytest.raises(ValueError, match=words):
        ressl(torch.ones(4, 3), teacher, queue, temperature)
