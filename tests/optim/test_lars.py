import copy

import pytest
import torch

from stable_ssl.optim import LARS

SEVEN = torch.tensor([[2.0, 3.0], [6.0, 0.0]])  # norm 7
FIVE = torch.tensor([[3.0, 0.0], [0.0, 4.0]])  # norm 5


def parameter(value=SEVEN, grad=FIVE):
    p = torch.nn.Parameter(value.clone())
    p.grad = grad.clone()
    return p


def test_first_step_by_hand():
    p = parameter()
    LARS([p], lr=2.0, weight_decay=0.1, trust_coefficient=0.02).step()
    ratio = 0.02 * 7 / (5 + 0.1 * 7)
    torch.testing.assert_close(p, SEVEN - 2.0 * ratio * (FIVE + 0.1 * SEVEN))


def test_second_step_by_hand_adds_momentum_and_uses_the_rate_of_the_moment():
    p = parameter()
    optimizer = LARS([p], lr=2.0, momentum=0.9, trust_coefficient=0.02)
    optimizer.step()
    first = 0.02 * 7 / 5 * FIVE
    w = SEVEN - 2.0 * first
    torch.testing.assert_close(p, w)
    optimizer.param_groups[0]["lr"] = 0.5
    p.grad = 2 * FIVE
    optimizer.step()
    second = 0.02 * w.norm() / 10 * 2 * FIVE
    torch.testing.assert_close(p, w - 0.5 * (0.9 * first + second))


def test_a_step_moves_each_tensor_by_a_share_of_its_norm():
    small, large = parameter(SEVEN, 1e-4 * FIVE), parameter(100 * SEVEN, 1e4 * FIVE)
    LARS([small, large], lr=1.0, trust_coefficient=0.01).step()
    assert (small - SEVEN).norm().item() == pytest.approx(0.07, rel=1e-3)
    assert (large - 100 * SEVEN).norm().item() == pytest.approx(7.0, rel=1e-3)


@pytest.mark.parametrize("nesterov", [False, True])
def test_without_adaptation_it_is_momentum_sgd(nesterov):
    ours, theirs = parameter(), parameter()
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": nesterov}
    pair = LARS([ours], adapt=False, **options), torch.optim.SGD([theirs], **options)
    for scale in (1.0, -2.0, 0.5):
        ours.grad, theirs.grad = scale * FIVE, scale * FIVE
        for optimizer in pair:
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_groups_adapt_on_their_own():
    weight, bias = parameter(), parameter()
    groups = [{"params": [weight]}, {"params": [bias], "adapt": False}]
    LARS(groups, lr=0.5, momentum=0.0, trust_coefficient=0.02).step()
    torch.testing.assert_close(weight, SEVEN - 0.5 * 0.02 * 7 / 5 * FIVE)
    torch.testing.assert_close(bias, SEVEN - 0.5 * FIVE)


@pytest.mark.parametrize("clip_lr", [False, True])
def test_zero_norms_take_the_plain_rate(clip_lr):
    new, still = parameter(0 * SEVEN), parameter(SEVEN, 0 * FIVE)
    LARS([new, still], lr=0.5, weight_decay=0.1, clip_lr=clip_lr).step()
    torch.testing.assert_close(new, -0.5 * FIVE)
    torch.testing.assert_close(still, SEVEN - 0.5 * 0.1 * SEVEN)


@pytest.mark.parametrize(
    "lr, rate",
    [(0.3, 0.02 * 7 / 5), (0.001, 0.001), (0.0, 0.0)],  # the ratio; lr below it
)
def test_clip_lr_makes_the_rate_a_ceiling(lr, rate):
    p = parameter()
    LARS([p], lr=lr, trust_coefficient=0.02, clip_lr=True).step()
    torch.testing.assert_close(p, SEVEN - rate * FIVE)


def test_a_parameter_without_gradient_stays_and_gradients_are_left_alone():
    used, unused = parameter(), torch.nn.Parameter(SEVEN.clone())
    LARS([used, unused], lr=1.0, weight_decay=0.1, nesterov=True).step()
    assert torch.equal(unused, SEVEN) and torch.equal(used.grad, FIVE)


def test_the_state_continues():
    p = parameter()
    optimizer = LARS([p], lr=2.0)
    optimizer.step()
    q = parameter(p.detach())
    other = LARS([q], lr=1.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one in (optimizer, other):
        one.step()
    assert torch.equal(p, q)


def test_a_closure_gives_the_loss():
    p = parameter()
    optimizer = LARS([p], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(49)
    assert p.norm() < 7


@pytest.mark.parametrize(
    "options", [{"lr": -1.0}, {"lr": 1.0, "nesterov": True, "momentum": 0.0}]
)
def test_wrong_values_are_refused(options):
    with pytest.raises(ValueError, match="LARS found"):
        LARS([parameter()], **options)
