import math

import pytest
import torch
import torch.nn.functional as F

from stable_ssl.losses import contrastive, dcl, info_nce, moco, nt_xent, sup_con


def views(n=6, d=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, d, generator=generator, dtype=dtype)


def reference(z_a, z_b, temperature):
    """Eq. 1 of the SimCLR paper, term by term; 2k - 1 and 2k are views of one image."""
    z = [view for pair in zip(z_a.tolist(), z_b.tolist(), strict=True) for view in pair]

    def sim(u, v):
        dot = sum(x * y for x, y in zip(u, v, strict=True))
        return dot / math.sqrt(sum(x * x for x in u)) / math.sqrt(sum(y * y for y in v))

    def loss(i, j):
        others = (k for k in range(len(z)) if k != i)
        denominator = sum(math.exp(sim(z[i], z[k]) / temperature) for k in others)
        return -math.log(math.exp(sim(z[i], z[j]) / temperature) / denominator)

    pairs = [(2 * k, 2 * k + 1) for k in range(len(z_a))]
    return sum(loss(i, j) + loss(j, i) for i, j in pairs) / len(z)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_equals_the_formula_of_the_paper(n, temperature):
    z_a, z_b = views(n)
    expected = reference(z_a, z_b, temperature)
    found = nt_xent(z_a, z_b, temperature)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_gradient_equals_finite_differences():
    z_a, z_b = views(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(nt_xent, (z_a, z_b))


def test_swapping_the_views_changes_nothing():
    z_a, z_b = views()
    torch.testing.assert_close(nt_xent(z_a, z_b), nt_xent(z_b, z_a))


def test_permuting_the_batch_changes_nothing_but_together():
    z_a, z_b = views()
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    torch.testing.assert_close(nt_xent(z_a[order], z_b[order]), nt_xent(z_a, z_b))
    assert abs(nt_xent(z_a[order], z_b) - nt_xent(z_a, z_b)) > 1e-3


def test_the_norm_of_a_projection_changes_nothing():
    z_a, z_b = views()
    scale = torch.logspace(-3, 3, len(z_a), dtype=z_a.dtype)[:, None]
    torch.testing.assert_close(nt_xent(scale * z_a, z_b), nt_xent(z_a, z_b))


def test_collapse_costs_log_of_the_candidates():
    z = torch.ones(8, 4)
    assert nt_xent(z, z).item() == pytest.approx(math.log(15))


def test_half_inputs_are_computed_in_float32():
    z_a, z_b = views(dtype=torch.float32).half() * 1000  # squares overflow float16
    found = nt_xent(z_a, z_b, 0.1)
    assert found.dtype == torch.float32
    expected = reference(z_a.double(), z_b.double(), 0.1)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_zero_projection_keeps_the_gradient_bounded():
    z_a, z_b = views(dtype=torch.float32)
    z_a[0] = 0
    z_a.requires_grad_()
    loss = nt_xent(z_a, z_b)
    loss.backward()
    assert loss.isfinite() and z_a.grad.norm() < 1e6


@pytest.mark.parametrize(
    "z_a, z_b, temperature, words",
    [
        (torch.ones(1, 3), torch.ones(1, 3), 0.5, "N=1"),
        (torch.ones(4, 3), torch.ones(5, 3), 0.5, r"\(4, 3\) and \(5, 3\)"),
        (torch.ones(4, 3, 1), torch.ones(4, 3, 1), 0.5, "flatten"),
        (torch.ones(4, 3), torch.ones(4, 3), 0.0, "temperature=0.0"),
    ],
)
def test_wrong_input_is_refused_in_words(z_a, z_b, temperature, words):
    with pytest.raises(ValueError, match=words):
        nt_xent(z_a, z_b, temperature)


# --- without the square of the batch --------------------------------------------------


def whole(anchors, candidates, excluded=None):
    logits = anchors @ candidates.T
    if excluded is not None:
        logits = logits.scatter(1, excluded, -torch.inf)
    return logits.logsumexp(1).mean()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)]
)
@pytest.mark.parametrize("rows", [1, 7, 100])  # of a block; 23 anchors
@pytest.mark.parametrize("left_out", [1, 2])
def test_blocks_equal_the_whole(monkeypatch, dtype, tolerance, rows, left_out):
    monkeypatch.setattr(contrastive, "BLOCK", rows * 31)
    given = torch.randn(54, 9, dtype=dtype).split([23, 31])
    one, two = ([x.clone().requires_grad_() for x in given] for _ in range(2))
    excluded = torch.arange(23)[:, None] + 4 * torch.arange(1, 1 + left_out)
    expected = whole(*one, excluded)
    found = contrastive._mean_log_sum_exp(*two, excluded)
    (3 * expected).backward()
    (3 * found).backward()
    assert (found - expected).abs() <= tolerance * expected.abs()
    for a, b in zip(one, two, strict=True):
        assert (a.grad - b.grad).norm() <= tolerance * a.grad.norm()


def test_memory_does_not_grow_with_the_square_of_the_batch(monkeypatch):
    monkeypatch.setattr(contrastive, "BLOCK", 1000)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    z_a, z_b = views(200, 4).requires_grad_()
    with Watch():
        nt_xent(z_a, z_b).backward()
    assert largest <= 1600  # 2N x D; the similarities would be 160,000


def test_the_loss_compiles_in_one_graph():
    z = views().requires_grad_()
    compiled = torch.compile(nt_xent, fullgraph=True, backend="aot_eager")
    (expected,) = torch.autograd.grad(nt_xent(*z), z)
    (found,) = torch.autograd.grad(compiled(*z), z)
    torch.testing.assert_close(found, expected)


# --- InfoNCE --------------------------------------------------------------------------


def info_nce_reference(q, k, temperature, negatives):
    total = 0.0
    q, k, negatives = (F.normalize(x).tolist() for x in (q, k, negatives))
    for i, u in enumerate(q):
        exps = [
            math.exp(sum(x * y for x, y in zip(u, v, strict=True)) / temperature)
            for v in [*k, *negatives]
        ]
        total -= math.log(exps[i] / sum(exps))
    return total / len(q)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("n", [1, 5])
def test_info_nce_equals_the_formula(n, temperature):
    q, k = views(n, 4)
    negatives = views(7, 4, seed=1)[0]
    expected = info_nce_reference(q, k, temperature, negatives)
    found = info_nce(q, k, temperature, negatives)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    if n > 1:
        expected = info_nce_reference(q, k, temperature, negatives[:0])
        assert info_nce(q, k, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_one_log_sum_exp_over_keys_and_negatives_not_a_sum_of_two():
    ones = torch.ones(4, 3)
    found = info_nce(ones, ones, 0.1, torch.ones(12, 3))
    assert found.item() == pytest.approx(math.log(16))


def test_the_gradient_of_info_nce_reaches_all_that_asks_for_it():
    q, k = views(4, 3).requires_grad_()
    negatives = views(5, 3, seed=1)[0].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, k, n: info_nce(q, k, 0.3, n), (q, k, negatives)
    )
    (grad,) = torch.autograd.grad(info_nce(q.detach(), k, 0.3), k)  # NNCLR's side
    assert grad.norm() > 1e-3


@pytest.mark.parametrize(
    "q, k, negatives, words",
    [
        (torch.ones(1, 3), torch.ones(1, 3), None, "N=1"),
        (torch.ones(4, 3), torch.ones(5, 3), None, r"\(4, 3\) and \(5, 3\)"),
        (torch.ones(4, 3), torch.ones(4, 3), torch.ones(9, 2), r"use \(K, 3\)"),
    ],
)
def test_wrong_input_of_info_nce_is_refused_in_words(q, k, negatives, words):
    with pytest.raises(ValueError, match=words):
        info_nce(q, k, 0.1, negatives)


# --- MoCo -----------------------------------------------------------------------------


def test_moco_equals_the_formula_key_by_key():
    (q, k), queue = views(), views(9, seed=1)[0]
    total = 0.0
    for i in range(len(q)):  # one key at a time: those of other images are no negatives
        total += info_nce_reference(q[i : i + 1], k[i : i + 1], 0.2, queue) / len(q)
    assert moco(q, k, queue, 0.2).item() == pytest.approx(total, rel=1e-12)


def test_of_moco_the_queries_alone_learn():
    (q, k), queue = views(4, 3).requires_grad_(), views(5, 3, seed=1)[0]
    queue.requires_grad_()
    assert torch.autograd.gradcheck(lambda q: moco(q, k, queue, 0.3), q)
    grads = torch.autograd.grad(moco(q, k, queue, 0.3), (k, queue), allow_unused=True)
    assert all(g is None or not g.any() for g in grads)


def test_in_moco_a_collapse_costs_the_log_of_all_candidates():
    ones = torch.ones(4, 3)
    assert moco(ones, ones, torch.ones(15, 3), 0.1).item() == pytest.approx(
        math.log(16), rel=1e-5
    )


@pytest.mark.parametrize(
    "k, queue, tau, words",
    [
        (torch.ones(5, 3), torch.ones(9, 3), 0.1, r"\(4, 3\) and \(5, 3\)"),
        (torch.ones(4, 3), torch.ones(9, 2), 0.1, r"a queue of shape \(9, 2\)"),
        (torch.ones(4, 3), torch.ones(9, 3), 0.0, "temperature=0.0"),
    ],
)
def test_wrong_input_of_moco_is_refused_in_words(k, queue, tau, words):
    with pytest.raises(ValueError, match=words):
        moco(torch.ones(4, 3), k, queue, tau)


# --- DCL ------------------------------------------------------------------------------


def dcl_reference(z_a, z_b, temperature, sigma):
    """Eq. 6 of the DCL paper and the weights of DCLW, term by term."""
    a, b = F.normalize(z_a), F.normalize(z_b)
    n = len(a)
    cosines = (a * b).sum(1).tolist()
    exps = [math.exp(s / sigma) if sigma else 1.0 for s in cosines]
    total = 0.0
    for i in range(n):
        weight = 2 - exps[i] / (sum(exps) / n) if sigma else 1.0
        for anchor in (a[i], b[i]):
            negatives = [view[j] for view in (a, b) for j in range(n) if j != i]
            sims = [(anchor @ v).item() / temperature for v in negatives]
            total -= weight * cosines[i] / temperature
            total += math.log(sum(map(math.exp, sims)))
    return total / (2 * n)


@pytest.mark.parametrize("sigma", [None, 0.5, 2.0])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_dcl_equals_the_formula_of_the_paper(n, sigma):  # fault 6
    z_a, z_b = views(n)
    expected = dcl_reference(z_a, z_b, 0.2, sigma)
    assert dcl(z_a, z_b, 0.2, sigma).item() == pytest.approx(expected, rel=1e-12)


def test_the_gradient_of_dcl_equals_finite_differences():
    z_a, z_b = views(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(dcl, (z_a, z_b))


def test_the_weights_of_dcl_are_constants_and_one_in_the_mean():
    z_a, z_b = views().requires_grad_()
    (found,) = torch.autograd.grad(dcl(z_a, z_b, 0.2, 0.5), z_a)
    cosines = F.cosine_similarity(z_a, z_b)
    weights = (2 - len(z_a) * (cosines.detach() / 0.5).softmax(0)).detach()
    assert weights.mean().item() == pytest.approx(1)
    plain = dcl(z_a, z_b, 0.2) + ((1 - weights) * cosines).mean() / 0.2
    (expected,) = torch.autograd.grad(plain, z_a)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "z_a, z_b, numbers, words",
    [
        (torch.ones(1, 3), torch.ones(1, 3), (0.1,), "N=1"),
        (torch.ones(4, 3), torch.ones(5, 3), (0.1,), r"\(4, 3\) and \(5, 3\)"),
        (torch.ones(4, 3), torch.ones(4, 3), (0.0,), "temperature=0.0"),
        (torch.ones(4, 3), torch.ones(4, 3), (0.1, 0.0), "sigma=0.0"),
    ],
)
def test_wrong_input_of_dcl_is_refused_in_words(z_a, z_b, numbers, words):
    with pytest.raises(ValueError, match=words):
        dcl(z_a, z_b, *numbers)


# --- SupCon ---------------------------------------------------------------------------


def sup_con_reference(views, labels, temperature):
    """Eq. 2 of the SupCon paper, term by term."""
    z = [F.normalize(v) for v in views]
    z, y = torch.cat(z), labels.tolist() * len(views)
    sims = (z @ z.T / temperature).exp().tolist()
    total = 0.0
    for i in range(len(y)):
        others = [a for a in range(len(y)) if a != i]
        positives = [p for p in others if y[p] == y[i]]
        denominator = sum(sims[i][a] for a in others)
        logs = [math.log(sims[i][p] / denominator) for p in positives]
        total -= sum(logs) / len(positives)
    return total / len(y)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("labels", [[5, 5, 0, 9, 0, 5], [3] * 6, [5, 4, 3, 2, 1, 0]])
def test_sup_con_equals_the_formula_of_the_paper(labels, count):
    given = [*views(), views(seed=1)[0]][:count]
    labels = torch.tensor(labels)
    found = sup_con(given, labels, 0.2)
    expected = sup_con_reference(given, labels, 0.2)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_sup_con_with_labels_all_different_is_nt_xent():
    z_a, z_b = views()
    found = sup_con([z_a, z_b], torch.tensor([4, -1, 7, 0, 2, 9]), 0.5)
    torch.testing.assert_close(found, nt_xent(z_a, z_b, 0.5), rtol=1e-12, atol=0)


def test_permuting_batch_views_or_names_of_labels_changes_nothing_in_sup_con():
    z_a, z_b = views()
    labels = torch.tensor([0, 0, 1, 1, 2, 1])
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    expected = sup_con([z_a, z_b], labels)
    for found in (
        sup_con([z_a[order], z_b[order]], labels[order]),
        sup_con([z_b, z_a], labels),
        sup_con([z_a, z_b], 10 - 3 * labels),
    ):
        torch.testing.assert_close(found, expected)


def test_the_gradient_of_sup_con_equals_finite_differences():
    z = views(4, 3).requires_grad_()
    labels = torch.tensor([1, 0, 1, 1])
    assert torch.autograd.gradcheck(lambda z: sup_con(list(z), labels), z)


@pytest.mark.parametrize(
    "views, labels, words",
    [
        ([torch.ones(4, 3)], torch.zeros(4), "1 view"),
        ([torch.ones(4, 3)] * 2, torch.zeros(3), r"shape \(3,\) for 4 images"),
        ([torch.ones(4, 3), torch.ones(4, 2)], torch.zeros(4), "expected the same"),
        ([], torch.zeros(4), "0 view"),
    ],
)
def test_wrong_input_of_sup_con_is_refused_in_words(views, labels, words):
    with pytest.raises(ValueError, match=words):
        sup_con(views, labels)
