"""A centre: what it counts of a step, and what it leaves alone."""

import torch

from stable_ssl import distributed
from stable_ssl.models import Center


def outputs(seed):
    return torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(seed)).double()


def test_it_follows_the_mean_of_a_steps_micro_batches():
    center = Center(5, 0.7).double()
    center.value.fill_(2.0)
    for seed in (0, 1):
        center.observe(outputs(seed))
    assert (center.value == 2).all()  # as long as the step lasts
    center.update()
    mean = torch.cat([outputs(0), outputs(1)]).mean((0, 1))
    torch.testing.assert_close(center.value, 0.7 * 2 + 0.3 * mean)
    assert not center.means and list(center.state_dict()) == ["value"]


def test_an_evaluation_is_not_counted():
    center = Center(5).eval()
    center.observe(outputs(0))
    assert not center.means


def moved():
    center, n = Center(5).double(), 8 // distributed.world_size()
    center.observe(outputs(0)[distributed.rank() * n :][:n])
    center.update()
    return center.value


def test_ranks_have_the_centre_of_the_whole_batch(ranks):
    for value in ranks(2, moved):
        torch.testing.assert_close(value, moved())
