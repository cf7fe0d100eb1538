"""Keys are uniform and independent; the global state survives, and is left alone."""

import io
import random

import numpy
import pytest
import torch
from scipy import stats

from stable_ssl import seeding

N = 20_000
INDEX = torch.arange(N)


def correlation(a, b):
    return abs(numpy.corrcoef(a.double().numpy(), b.double().numpy())[0, 1])


@pytest.mark.slow
def test_compiled_draws_are_the_eager_ones():
    def draw(keys):
        own = seeding.fold_in(keys, torch.arange(64) + 3)
        return seeding.bits(own, (16,)), seeding.uniform(seeding.fold_in(own, 1), (7,))

    key = seeding.fold_in(5, 1)
    for compiled, eager in zip(torch.compile(draw)(key), draw(key), strict=True):
        assert torch.equal(compiled, eager)


def test_the_finaliser_is_splitmix64():
    """The published first outputs of SplitMix64 from state 0, one counter step each."""
    words = [seeding.fold_in(0, i).item() % 2**64 for i in range(2)]
    assert words == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@pytest.mark.parametrize("key", [0, 7, -3, 2**63 - 1, 2**70 + 5])
@pytest.mark.parametrize("data", [0, 12, 2**40])
def test_integers_and_tensors_fold_alike(key, data):
    wrapped = torch.tensor(seeding._signed(key))
    expected = seeding.fold_in(key, data)
    for other in (
        seeding.fold_in(wrapped, data),
        seeding.fold_in(key, torch.tensor(data)),
        seeding.fold_in(wrapped, torch.tensor(data)),
    ):
        assert other.dtype == torch.int64
        assert torch.equal(other, expected)


def test_fold_in_broadcasts():
    keys = seeding.fold_in(INDEX[:5, None], INDEX[:3])
    assert keys.shape == (5, 3)
    assert keys[4, 2] == seeding.fold_in(4, 2)


def test_a_key_belongs_to_one_seed_epoch_index_and_view():
    keys = torch.cat(
        [
            seeding.sample_keys(seed, epoch, INDEX, view)
            for seed in range(3)
            for epoch in range(3)
            for view in range(3)
        ]
    )
    assert len(keys.unique()) == len(keys)


@pytest.mark.parametrize("kind", [torch.int32, torch.int64, torch.uint8])
def test_a_key_does_not_depend_on_its_batch(kind):
    keys = seeding.sample_keys(1, 2, INDEX[:100].to(kind), 3)
    alone = [seeding.sample_keys(1, 2, torch.tensor([i]), 3) for i in range(100)]
    assert torch.equal(keys, torch.cat(alone))
    draws = seeding.uniform(keys, (2, 3))
    assert torch.equal(draws[17:18], seeding.uniform(keys[17:18], (2, 3)))
    noise = seeding.normal(keys, (3, 5))
    assert torch.equal(noise[17:18], seeding.normal(keys[17:18], (3, 5)))


def test_every_bit_is_a_fair_coin():
    words = seeding.bits(seeding.sample_keys(0, 0, INDEX))
    ones = torch.stack([(words >> b) & 1 for b in range(64)]).sum(1).double()
    z = (ones - N / 2) / (N / 4) ** 0.5
    assert stats.chi2.sf((z**2).sum().item(), 64) > 1e-3


def test_keys_that_are_near_share_no_draw():
    words = torch.cat(
        (seeding.bits(INDEX, (9,)), seeding.fold_in(INDEX, 1)[:, None]), 1
    )
    assert len(words.unique()) == words.numel()


@pytest.mark.parametrize("shift", [0, 32, 63])
def test_one_flipped_bit_of_the_key_flips_half_the_draw(shift):
    keys = seeding.sample_keys(0, 0, INDEX)
    bit = torch.ones((), dtype=torch.int64) << shift
    changed = seeding.bits(keys) ^ seeding.bits(keys ^ bit)
    flips = torch.stack([(changed >> b) & 1 for b in range(64)]).double().mean(1)
    assert ((flips - 0.5).abs() < 5 * 0.5 / N**0.5).all()


def test_uniform_is_uniform():
    u = seeding.uniform(seeding.sample_keys(0, 0, INDEX), (4,))
    assert u.dtype == torch.float32
    assert u.shape == (N, 4)
    assert ((u * 2**24) % 1 == 0).all()
    assert 0 <= u.min() and u.max() < 1
    for column in u.unbind(1):
        counts = torch.histc(column, 100, 0, 1)
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    wide = seeding.uniform(seeding.sample_keys(0, 0, INDEX), (4,), low=-2, high=5)
    torch.testing.assert_close(wide, u * 7 - 2)


def test_normal_is_normal():
    z = seeding.normal(seeding.sample_keys(0, 0, INDEX), (3,))
    assert z.shape == (N, 3)
    assert seeding.normal(INDEX[:4]).shape == (4,)
    for column in z.unbind(1):
        assert stats.kstest(column.numpy(), "norm").pvalue > 1e-3
    assert correlation(z[:, 0], z[:, 2]) < 5 / N**0.5  # a sine and cosine of one angle
    assert correlation(z[:, 0] ** 2, z[:, 2] ** 2) < 5 / N**0.5


def test_randint_is_uniform_below_high():
    keys = seeding.sample_keys(0, 0, INDEX)
    counts = seeding.randint(keys, 7).bincount(minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    high = 1 + INDEX % 5
    draws = seeding.randint(keys, high)
    assert ((draws >= 0) & (draws < high)).all()
    assert (draws[high == 1] == 0).all()
    assert seeding.randint(keys[:3], 10, (2,)).shape == (3, 2)


@pytest.mark.parametrize("change", ["index", "view", "epoch", "seed", "fold", "draw"])
def test_neighbours_are_independent(change):
    keys = seeding.sample_keys(0, 0, INDEX)
    u = seeding.uniform(keys)
    if change == "draw":
        other = seeding.uniform(keys, (2,))[:, 1]
    else:
        other = seeding.uniform(
            {
                "index": seeding.sample_keys(0, 0, INDEX + 1),
                "view": seeding.sample_keys(0, 0, INDEX, 1),
                "epoch": seeding.sample_keys(0, 1, INDEX),
                "seed": seeding.sample_keys(1, 0, INDEX),
                "fold": seeding.fold_in(keys, 0),
            }[change]
        )
    assert correlation(u, other) < 5 / N**0.5
    cells = (u * 8).long() * 8 + (other * 8).long()
    assert stats.chisquare(cells.bincount(minlength=64).numpy()).pvalue > 1e-3


def test_permutation_is_a_function_of_its_arguments():
    order = seeding.permutation(1000, 0, 1)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert torch.equal(order, seeding.permutation(1000, 0, 1))
    for other in ((0, 2), (1, 1), (1, 0)):
        fixed = (order == seeding.permutation(1000, *other)).sum()
        assert fixed < 10  # one is expected
    assert seeding.permutation(0).shape == (0,)


def test_permutations_are_equally_likely():
    draws = [tuple(seeding.permutation(4, 0, e).tolist()) for e in range(2400)]
    counts = [draws.count(order) for order in set(draws)]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


# --- the global generators ------------------------------------------------------------


def draw():
    return random.random(), numpy.random.rand(), torch.rand(()).item()


def test_keyed_draws_leave_the_generators_alone():
    seeding.seed_everything(3)
    expected = draw()
    seeding.seed_everything(3)
    keys = seeding.sample_keys(0, 0, INDEX)
    seeding.uniform(keys), seeding.normal(keys), seeding.randint(keys, 3)
    seeding.permutation(10, 0)
    assert draw() == expected


def test_seed_everything():
    seeding.seed_everything(0)
    first = draw()
    seeding.seed_everything(0)
    assert draw() == first
    seeding.seed_everything(1)
    assert not set(draw()) & set(first)


def test_the_state_survives_a_file():
    seeding.seed_everything(0)
    draw(), random.gauss(0, 1), numpy.random.randn()  # half of a pair is kept
    file = io.BytesIO()
    torch.save(seeding.get_rng_state(), file)
    expected = draw(), random.gauss(0, 1), numpy.random.randn()
    seeding.seed_everything(1)
    file.seek(0)
    seeding.set_rng_state(torch.load(file, weights_only=True))
    assert (draw(), random.gauss(0, 1), numpy.random.randn()) == expected


def test_preserve_rng_restores_the_state_even_after_an_error():
    seeding.seed_everything(0)
    expected = draw()
    seeding.seed_everything(0)
    with pytest.raises(RuntimeError), seeding.preserve_rng():
        draw()
        raise RuntimeError
    assert draw() == expected


# --- another device -------------------------------------------------------------------


@pytest.mark.gpu
def test_the_gpu_draws_what_the_cpu_draws():
    index = INDEX.cuda()
    keys, here = (
        seeding.sample_keys(5, 6, index, 1),
        seeding.sample_keys(5, 6, INDEX, 1),
    )
    assert torch.equal(keys.cpu(), here)
    assert torch.equal(seeding.uniform(keys, (3,)).cpu(), seeding.uniform(here, (3,)))
    assert torch.equal(seeding.randint(keys, 9).cpu(), seeding.randint(here, 9))
    torch.testing.assert_close(
        seeding.normal(keys).cpu(), seeding.normal(here), atol=1e-5, rtol=1e-5
    )
    torch.cuda.manual_seed(0)
    state, expected = seeding.get_rng_state(), torch.rand(3, device="cuda")
    seeding.set_rng_state(state)
    assert torch.equal(torch.rand(3, device="cuda"), expected)
