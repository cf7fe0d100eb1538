"""What every loss keeps: its precision, a finite gradient, its value on many ranks.

The faults looked for on ranks were all found in published code: gathered rows whose
gradient is only the local one, all-reduced tensors without gradient, statistics and
negatives of one rank only, positives at another rank's column, factors of world_size.
"""

import pytest
import torch

from stable_ssl import distributed, losses

N, K = 16, 8  # rows of the whole batch, and their width


def normal(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def pair(scale=1.0):
    return [scale * normal(N, K, seed=i) for i in range(2)]


def masked():
    mask = torch.rand(N, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    assert len(mask.view(4, -1).sum(1).unique()) > 1  # ranks have different counts
    return [normal(N, 6, 3, seed=0), normal(N, 6, 3, seed=1), mask]


def like(x, constant):
    return constant.to(torch.promote_types(x.dtype, torch.float32))


CONSTANT = normal(5, K, seed=9)
POSITIVE = CONSTANT.T @ CONSTANT
DIRECTIONS = torch.nn.functional.normalize(normal(K, 32, seed=8), dim=0)
LABELS = torch.tensor([3, 0, 0, 7, 1, 3, 3, 2, 0, 5, 7, 7, 1, 0, 3, 4])
CENTROIDS = torch.nn.functional.normalize(normal(2, 4, K, seed=7), dim=2)
CASES = {  # name: (function of the rows of a rank, all rows)
    "nt_xent": (losses.nt_xent, pair()),
    "info_nce": (lambda q, k: losses.info_nce(q, k, 0.2), pair()),
    "info_nce negatives": (
        lambda q, k: losses.info_nce(q, k, 0.2, like(q, CONSTANT)),
        pair(),
    ),
    "info_nce detached queries": (
        lambda q, k: losses.info_nce(q.detach(), k, 0.2),
        pair(),
    ),
    "dcl": (losses.dcl, pair()),
    "dcl weighted": (lambda a, b: losses.dcl(a, b, 0.2, 0.5), pair()),
    "moco": (lambda q, k: losses.moco(q, k, like(q, CONSTANT), 0.2), pair()),
    "sup_con": (lambda a, b, y: losses.sup_con([a, b], y), [*pair(), LABELS]),
    "barlow_twins": (losses.barlow_twins, pair()),
    "tico": (lambda a, b: losses.tico(a, b, like(a, POSITIVE), 4.0), pair()),
    "vicreg": (losses.vicreg, pair(0.5)),
    "cosine_regression": (losses.cosine_regression, pair()),
    "negative_cosine": (losses.negative_cosine, pair()),
    "dino": (
        lambda a, b: losses.dino([a, b], [b, a], like(a, CONSTANT[0]), 0.1, 0.04),
        pair(),
    ),
    "dino sinkhorn": (
        lambda a, b: losses.dino([a, b], [b, a], None, 0.1, 0.5),
        pair(),
    ),
    "ibot": (
        lambda a, b, mask: losses.ibot(a, b, mask, like(a, CONSTANT[0, :3]), 0.1, 0.04),
        masked(),
    ),
    "ibot sinkhorn": (
        lambda a, b, mask: losses.ibot(a, b, mask, None, 0.1, 0.5),
        masked(),
    ),
    "msn": (lambda a, b: losses.msn([a, a / 2], b), pair()),
    "gram": (losses.gram, masked()[:2]),
    "feature_matching": (losses.feature_matching, pair()),
    "koleo": (losses.koleo, pair()[:1]),
    "ressl": (lambda a, b: losses.ressl(a, b, like(a, CONSTANT)), pair()),
    "swav": (lambda a, b: losses.swav([a, b, a / 2], queue_scores=[b, a]), pair()),
    "w_mse": (
        lambda a, b, o: losses.w_mse([a[:, :2], b[:, :2]], o, 8, 0.01),
        [*pair(), torch.arange(N) * 7 % N],
    ),
    "mmcr": (lambda a, b: losses.mmcr([a, b], 0.3, [b, a]), pair()),
    "deepcluster": (
        lambda a, b, y: losses.deepcluster([a, b, a / 2], like(a, CENTROIDS), y),
        [*pair(), LABELS[:, None] % 4 - torch.tensor([0, 1])],
    ),
    "masked_mse": (losses.masked_mse, masked()),
    "masked_l1": (losses.masked_l1, masked()),
    "masked_smooth_l1": (losses.masked_smooth_l1, masked()),
    "sigreg": (lambda z: losses.sigreg(z, like(z, DIRECTIONS)), pair()[:1]),
    "visreg": (lambda z: losses.visreg(z, like(z, DIRECTIONS)), pair()[:1]),
    "invariance": (lambda a, b: losses.invariance([a, b, a / 2], 2), pair()),
    "pseudo_label": (lambda a, b: losses.pseudo_label(a, b, 0.5), pair(2.0)),
    "consistency": (losses.consistency, pair()),
}
NOT_SCALAR = {"sinkhorn", "normalize_patches", "second_moment"}


def test_every_loss_is_here():
    assert {name.split()[0] for name in CASES} == set(losses.__all__) - NOT_SCALAR


@pytest.mark.parametrize("name", CASES)
def test_what_would_be_broadcast_is_refused(name):
    """One argument has fewer rows than the others, another width, or a dimension more.

    `koleo` and `gram` take any width.
    """
    function, rows = CASES[name]
    for i, x in enumerate(rows):
        wrong = [x[..., None]]
        wrong += [x[:1], x[:-1]] if len(rows) > 1 else []
        wrong += [x[..., :1]] if x.ndim > 1 and name not in ("koleo", "gram") else []
        for other in wrong:
            with pytest.raises(ValueError, match="found|expected"):
                function(*rows[:i], other, *rows[i + 1 :])


def learn(name, dtype, part=0, parts=1, autocast=False):
    """Return the loss and the gradient of a part of the rows."""
    function, rows = CASES[name]
    own = [x.chunk(parts)[part].clone() for x in rows]
    own = [x.to(dtype) if x.is_floating_point() else x for x in own]
    learned = [x.requires_grad_() for x in own if x.is_floating_point()]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = function(*own)
    loss.backward()
    zero = torch.zeros_like
    return loss.detach(), [x.grad if x.grad is not None else zero(x) for x in learned]


# --- ranks ----------------------------------------------------------------------------

PRECISIONS = {torch.float32: 1e-5, torch.float64: 1e-10}
FOUND = {}  # by number of ranks: what each of them found


def on_a_rank():
    """Return this rank's losses, gradients and assignments; runs on every rank."""
    place = distributed.rank(), distributed.world_size()
    found = {(n, d): learn(n, d, *place) for n in CASES for d in PRECISIONS}
    own = pair()[0].chunk(place[1])[place[0]]
    return found, losses.sinkhorn(own), losses.second_moment(own)


@pytest.fixture(params=[2, pytest.param(4, marks=pytest.mark.slow)])
def parts(request, ranks):
    """Return what the processes found, started once for all tests."""
    if request.param not in FOUND:
        FOUND[request.param] = ranks(request.param, on_a_rank)
    return FOUND[request.param]


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", CASES)
def test_ranks_have_the_loss_and_gradient_of_the_whole_batch(parts, name, dtype):
    tolerance = PRECISIONS[dtype]
    loss, gradients = learn(name, dtype)
    values, by_rank = zip(*(found[name, dtype] for found, *_ in parts), strict=True)
    mean = torch.stack(values).mean()
    assert (mean - loss).abs() <= tolerance * loss.abs()
    assert sum(g.norm() for g in gradients) > 1e-3
    for whole, *shares in zip(gradients, *by_rank, strict=True):
        gradient = torch.cat(shares) / len(parts)  # DDP's mean
        assert (gradient - whole).norm() <= tolerance * whole.norm()


def test_ranks_share_the_prototypes_of_the_whole_batch(parts):
    found = torch.cat([assignments for _, assignments, _ in parts])
    torch.testing.assert_close(found, losses.sinkhorn(pair()[0]))


def test_ranks_have_the_second_moment_of_the_whole_batch(parts):
    for *_, moment in parts:
        torch.testing.assert_close(moment, losses.second_moment(pair()[0]))


# --- precision ------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_autocast_does_not_enter(name):
    loss, gradients = learn(name, torch.float32, autocast=True)
    expected, of_expected = learn(name, torch.float32)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    assert all(map(torch.equal, gradients, of_expected))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_computed_in_float32(name, dtype):
    loss, gradients = learn(name, dtype)
    assert loss.dtype == torch.float32
    assert all(g.dtype == dtype and g.isfinite().all() for g in gradients)
    function, rows = CASES[name]
    rounded = [x.to(dtype).double() if x.is_floating_point() else x for x in rows]
    assert loss.item() == pytest.approx(function(*rounded).item(), rel=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_zero_rows_in_float16_give_no_nan(name):
    function, rows = CASES[name]
    own = [x.half() if x.is_floating_point() else x for x in rows]
    for x in own:
        if x.is_floating_point():
            x[:3] = 0  # a normalisation's eps of 1e-12 is 0 in float16
            x.requires_grad_()
    loss = function(*own)
    loss.backward()
    assert loss.isfinite()
    assert not any(x.grad.isnan().any() for x in own if x.grad is not None)
