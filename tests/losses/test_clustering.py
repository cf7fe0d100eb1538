import math

import pytest
import torch

from stable_ssl.losses import deepcluster, msn, sinkhorn, swav


def scores(count, n=12, k=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, n, k, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=-1)


def sinkhorn_reference(rows, epsilon, iterations):
    """SwAV's algorithm on exponentials: prototypes share alike, then rows sum to 1."""
    q = [[math.exp(x / epsilon) for x in row] for row in rows.tolist()]
    for _ in range(iterations):
        columns = [sum(column) for column in zip(*q, strict=True)]
        q = [[x / c for x, c in zip(row, columns, strict=True)] for row in q]
        q = [[x / sum(row) for x in row] for row in q]
    return torch.tensor(q, dtype=torch.float64)


# --- Sinkhorn -------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_sinkhorn_equals_the_formula_of_the_paper(epsilon, iterations):
    (x,) = scores(1)
    expected = sinkhorn_reference(x, epsilon, iterations)
    torch.testing.assert_close(sinkhorn(x, epsilon, iterations), expected)


def test_rows_sum_to_one_and_columns_to_equal_shares():
    (x,) = scores(1)
    q = sinkhorn(x, iterations=3)
    torch.testing.assert_close(q.sum(1), torch.ones(12, dtype=q.dtype))
    q = sinkhorn(x, epsilon=0.2, iterations=1000)
    torch.testing.assert_close(q.sum(0), torch.full((4,), 12 / 4, dtype=q.dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sinkhorn_of_features_that_are_not_normalised_is_finite(dtype):
    x = torch.linspace(-6e4, 6e4, 48).view(12, 4)  # exp would be 0 or infinite
    x[0], x[:, 1] = -6e4, -6e4  # a row far below the others, a prototype nobody wants
    q = sinkhorn(x.to(dtype))
    assert q.dtype == torch.float32 and q.isfinite().all()
    torch.testing.assert_close(q.sum(1), torch.ones(12))


def test_assignments_follow_the_rows_and_have_no_gradient():
    (x,) = scores(1).requires_grad_()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    q = sinkhorn(x)
    torch.testing.assert_close(sinkhorn(x[order]), q[order])
    torch.testing.assert_close(sinkhorn(x + 100), q)
    assert not q.requires_grad


# --- SwAV -----------------------------------------------------------------------------


def swav_reference(given, assigned, temperature, queues):
    """Eq. 1, 2 and 6 of the SwAV paper: the mean over (assigned, other view)."""
    total, pairs, n = 0.0, 0, len(given[0])
    for i in range(assigned):
        pool = torch.cat([queues[i], given[i]])
        codes = sinkhorn_reference(pool, 0.05, 3)[-n:].tolist()
        for j, view in enumerate(given):
            if i == j:
                continue
            pairs += 1
            for q, row in zip(codes, (view / temperature).tolist(), strict=True):
                log_sum = math.log(sum(math.exp(x) for x in row))
                total -= sum(a * (x - log_sum) for a, x in zip(q, row, strict=True)) / n
    return total / pairs


@pytest.mark.parametrize(("views", "assigned"), [(2, 2), (5, 2), (3, 1)])
@pytest.mark.parametrize("length", [0, 20])
def test_swav_equals_the_formula_of_the_paper(views, assigned, length):
    given, queues = list(scores(views)), list(scores(assigned, length, seed=1))
    expected = swav_reference(given, assigned, 0.1, queues)
    found = swav(given, assigned, queue_scores=queues if length else None)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_gradients_reach_predictions_alone():
    z = scores(3).requires_grad_()
    swav(list(z), assigned=1).backward()
    assert z.grad[0].norm() == 0 and z.grad[1].norm() > 1e-3 and z.grad[2].norm() > 1e-3


def test_queues_of_the_views_are_not_mixed():
    given, queues = list(scores(2)), list(scores(2, 20, seed=1))
    codes_a = swav(given, queue_scores=queues)
    assert (swav(given, queue_scores=queues[::-1]) - codes_a).abs() > 1e-3
    swapped = swav(given[::-1], queue_scores=queues[::-1])
    torch.testing.assert_close(swapped, codes_a)


@pytest.mark.parametrize(
    "views, keywords, words",
    [
        ([2], {}, "1 views with targets and 1 with predictions"),
        ([2, 2], {"assigned": 0}, "0 views with targets"),
        ([2, 3], {}, r"\(2, 3\) and \(3, 3\)"),
        ([2, 2], {"queue_scores": [torch.ones(2, 3)]}, "1 queues for 2 assigned"),
        ([2, 2], {"temperature": 0}, "temperature=0"),
        ([2, 2], {"epsilon": -1}, "epsilon=-1"),
        ([2, 2], {"iterations": 0}, "iterations=0"),
    ],
)
def test_wrong_input_is_refused_in_words(views, keywords, words):
    with pytest.raises(ValueError, match=words):
        swav([torch.ones(n, 3) for n in views], **keywords)


# --- MSN ------------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [0, 3])
def test_msn_equals_the_formula_of_the_paper(iterations):
    a, b, target = scores(3)
    probabilities = (target / 0.1).softmax(1) ** (1 / 0.25)
    codes = probabilities / probabilities.sum(1, keepdim=True)
    if iterations:
        codes = sinkhorn_reference(codes.log(), 1.0, iterations)
    predicted = torch.cat([(a / 0.1).softmax(1), (b / 0.1).softmax(1)])
    distance = -(torch.cat([codes, codes]) * predicted.log()).sum(1).mean()
    mean = predicted.mean(0)
    regulariser = math.log(4) + (mean * mean.log()).sum()
    found = msn([a, b], target, iterations=iterations, mean_entropy=0.7)
    torch.testing.assert_close(found, distance + 0.7 * regulariser)


def test_msn_learns_from_its_anchors_alone():
    a, target = scores(2)
    a.requires_grad_(), target.requires_grad_()
    msn([a], target).backward()
    assert target.grad is None and (a.grad != 0).all()


# --- DeepCluster ----------------------------------------------------------------------


def clusters(n=6, heads=2, k=4, d=3):
    """Return projections of two views, centroids and assignments; one has none."""
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    centroids = torch.randn(heads, k, d, generator=generator, dtype=torch.float64)
    assignments = torch.randint(k, (n, heads), generator=generator)
    assignments[1, 0] = -1
    return z, torch.nn.functional.normalize(centroids, dim=2), assignments


def test_deepcluster_is_the_cross_entropy_of_each_clustering():
    z, centroids, assignments = clusters()
    means = []
    for head, weight in enumerate(centroids):
        terms = []
        for view in z:
            for row, label in zip(view, assignments[:, head].tolist(), strict=True):
                if label >= 0:
                    logits = (weight @ row / row.norm() / 0.2).tolist()
                    log_sum = math.log(sum(math.exp(x) for x in logits))
                    terms.append(log_sum - logits[label])
        means.append(sum(terms) / len(terms))
    found = deepcluster(list(z), centroids, assignments, 0.2)
    assert found.item() == pytest.approx(sum(means) / len(means), rel=1e-12)


def test_of_deepcluster_the_projections_alone_learn():
    z, centroids, assignments = clusters()
    z.requires_grad_(), centroids.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: deepcluster(list(z), centroids, assignments, 0.5), z
    )
    loss = deepcluster(list(z), centroids, assignments)
    assert torch.autograd.grad(loss, centroids, allow_unused=True) == (None,)


def test_images_without_a_cluster_cost_nothing():
    z, centroids, assignments = clusters()
    loss = deepcluster(list(z.requires_grad_()), centroids, 0 * assignments - 1)
    assert loss == 0 and not torch.autograd.grad(loss, z)[0].any()


@pytest.mark.parametrize(
    "centroids, assignments, temperature, words",
    [
        ((2, 4, 2), (6, 2), 0.1, r"use \(H, K, 3\) and \(6, H\)"),
        ((2, 4, 3), (6, 3), 0.1, r"assignments of \(6, 3\)"),
        ((2, 4, 3), (6, 2), 0, "temperature=0"),
    ],
)
def test_wrong_clusters_are_refused_in_words(
    centroids, assignments, temperature, words
):
    numbers = torch.zeros(assignments, dtype=torch.long)
    with pytest.raises(ValueError, match=words):
        deepcluster([torch.ones(6, 3)], torch.ones(centroids), numbers, temperature)
