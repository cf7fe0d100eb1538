import copy
import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from stable_ssl import distributed
from stable_ssl.config import ConfigError
from stable_ssl.models import Queue
from stable_ssl.vectors import unit


def numbered(*numbers):
    """Return vectors on a half circle, of norm 3, that can be told apart."""
    angles = torch.tensor(numbers) * math.pi / 100
    return 3 * torch.stack([angles.cos(), angles.sin()], 1)


def numbers(queue):
    """Return which of the numbered vectors the rows are, the oldest first."""
    rows = queue.rows.roll(-int(queue.pointer), 0)
    return (torch.atan2(rows[:, 1], rows[:, 0]) * 100 / math.pi).round().int().tolist()


def test_first_rows_are_unit_and_of_the_seed_alone():  # fault 13
    before = torch.get_rng_state()
    queue = Queue(64, 8, seed=3)
    assert torch.get_rng_state().equal(before)
    assert queue.rows.dtype == torch.float32 and not queue.rows.requires_grad
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(64))
    assert Queue(64, 8, seed=3).rows.equal(queue.rows)
    assert not Queue(64, 8, seed=4).rows.isclose(queue.rows).any()
    assert queue.rows.mean(0).norm() < 0.3  # random directions


def test_a_student_learns_from_the_negatives_of_a_queue():  # fault 13
    torch.manual_seed(0)
    queue = Queue(256, 16)
    weight = torch.randn(16, 16, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.5)
    losses = []
    for _ in range(80):
        x = 1 + torch.randn(32, 16)  # the mean is to be unlearnt
        q = unit((x + 0.1 * torch.randn(32, 16)) @ weight)
        with torch.no_grad():
            k = unit(x @ weight)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.rows.T], 1) / 0.2
        loss = cross_entropy(logits, torch.zeros(32, dtype=torch.long))
        queue.enqueue(k)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert max(losses) < math.log(257)  # of 256 negatives like the positive
    assert losses[-1] < losses[8] - 0.5  # by when the queue is full


def test_the_oldest_leave_first_and_no_tail_is_dropped():  # fault 16
    queue = Queue(5, 2)
    queue.enqueue(numbered(1, 2))
    queue.enqueue(numbered(3, 4))
    assert queue.pointer == 4
    queue.enqueue(numbered(5, 6, 7))  # wraps around
    assert queue.pointer == 2 and numbers(queue) == [3, 4, 5, 6, 7]
    queue.enqueue(numbered(8))
    assert numbers(queue) == [4, 5, 6, 7, 8]


@pytest.mark.parametrize("n", [5, 6, 13])
def test_of_a_batch_larger_than_the_queue_the_last_stay(n):
    queue = Queue(5, 2)
    queue.enqueue(numbered(50, 51))
    queue.enqueue(numbered(*range(n)))
    assert numbers(queue) == list(range(n))[-5:]


def test_a_resumed_queue_is_the_same():  # fault 16
    queue, other = Queue(5, 2), Queue(5, 2, seed=1)
    queue.enqueue(numbered(1, 2, 3))
    assert set(queue.state_dict()) == {"rows", "pointer"}
    other.load_state_dict(copy.deepcopy(queue.state_dict()))
    for q in (queue, other):
        q.enqueue(numbered(4, 5, 6))
    assert other.rows.equal(queue.rows) and other.pointer == queue.pointer == 1


def test_enqueueing_before_the_backward_pass_is_safe():
    queue = Queue(6, 2)
    z = numbered(10, 20).requires_grad_()
    (expected,) = torch.autograd.grad((z @ queue.rows.T).square().sum(), z)
    loss = (z @ queue.rows.T).square().sum()
    queue.enqueue(z)
    (found,) = torch.autograd.grad(loss, z)
    assert found.equal(expected) and not queue.rows.requires_grad


def test_half_vectors_are_normalised_in_float32():
    queue = Queue(2, 2)
    queue.enqueue(200 * numbered(10, 20).half())  # squares overflow float16
    assert queue.rows.dtype == torch.float32 and numbers(queue) == [10, 20]


def test_nearest_is_by_cosine():
    queue = Queue(3, 2)
    queue.enqueue(numbered(10, 50, 90))
    z = (7 * numbered(12, 89, 31, 52)).requires_grad_()
    found = queue.nearest(z)
    assert not found.requires_grad
    torch.testing.assert_close(found, unit(numbered(10, 90, 50, 50)))
    many, z = Queue(2048, 8), torch.randn(64, 8)
    with torch.autocast("cpu", torch.bfloat16):  # would not tell rows apart
        inside = many.nearest(z)
    assert inside.equal(many.nearest(z))


def test_wrong_sizes_are_refused_in_words():
    with pytest.raises(ConfigError, match="use 1 or more"):
        Queue(0, 8)


def on_a_part():
    """Enqueue this rank's part of three batches; return the state."""
    queue = Queue(7, 2)
    for first in (0, 8, 16):
        part = torch.arange(first, first + 8).chunk(distributed.world_size())
        queue.enqueue(numbered(*part[distributed.rank()].tolist()))
    return queue.state_dict()


def test_ranks_hold_the_queue_of_one_process(ranks):  # fault 16
    expected = on_a_part()
    assert expected["pointer"] == 0
    for found in ranks(2, on_a_part):
        assert all(found[name].equal(expected[name]) for name in expected)
