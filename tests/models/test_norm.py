import copy

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stable_ssl import distributed
from stable_ssl.models.norm import SyncBatchNorm, convert_sync_batchnorm

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def network(dtype):
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(96, 8, bias=False),
        nn.BatchNorm1d(8, momentum=None),
        nn.Tanh(),
        nn.BatchNorm1d(8, affine=False),
    ]
    return nn.Sequential(*layers).to(dtype, memory_format=torch.channels_last)


def batch(dtype):
    generator = torch.Generator().manual_seed(1)
    x = 1 + torch.randn(8, 3, 6, 6, generator=generator, dtype=torch.float64)
    y = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    return x.to(dtype), y.to(dtype)


def train(net, x, y):
    """Take two steps, so that running statistics move twice; return the gradient."""
    for _ in range(2):
        net.zero_grad()
        (net(x) - y).square().mean().backward()
    return {name: p.grad for name, p in net.named_parameters()}


def error(found, expected):
    """Return the largest error of a tensor, relative to its norm; tiny ones to all."""
    wanted = {name: t.double() for name, t in expected.items()}
    whole = torch.stack([t.norm() for t in wanted.values()]).norm()
    errors = [
        (found[name] - t).norm() / max(t.norm(), 1e-3 * whole)
        for name, t in wanted.items()
    ]
    return float(max(errors))


def compare():
    """Return the errors on this rank against one process: gradient, statistics."""
    rank, world = distributed.rank(), distributed.world_size()
    errors = {}
    for dtype in TOLERANCE:
        x, y = batch(dtype)
        alone = network(dtype)
        expected = train(alone, x, y)
        net = convert_sync_batchnorm(network(dtype), CPU)
        wrapper = DistributedDataParallel(net)
        train(wrapper, x.chunk(world)[rank], y.chunk(world)[rank])
        found = {name: p.grad for name, p in net.named_parameters()}
        statistics = dict(alone.named_buffers())
        errors[dtype] = (
            error(found, expected),
            error(dict(net.named_buffers()), statistics),
        )
    return errors, uneven(), too_few(), half(), penalty()


def slopes(net, x):
    """Return the gradient of a penalty of the slope at x, as WGAN-GP trains by."""
    x = x.requires_grad_()
    (slope,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
    (slope.flatten(1).norm(dim=1) - 1).square().mean().backward()
    return {n: p.grad for n, p in net.named_parameters() if p.grad is not None}


def penalty():
    """Return the error of that gradient, the mean over ranks, against one process."""
    rank, world = distributed.rank(), distributed.world_size()
    x, _ = batch(torch.float64)
    expected = slopes(network(torch.float64), x)
    net = convert_sync_batchnorm(network(torch.float64), CPU)
    found = slopes(net, x.detach().chunk(world)[rank])
    return error({n: distributed.all_mean(g) for n, g in found.items()}, expected)


def uneven():
    """Return the error of outputs where ranks hold 1, 2, ... samples."""
    rank, world = distributed.rank(), distributed.world_size()
    sizes = [1, 2, 3, 4][:world]
    x = torch.arange(40, dtype=torch.float64).view(10, 4).sin()[: sum(sizes)]
    norm = SyncBatchNorm(4, affine=False, track_running_stats=False).double()
    expected = nn.BatchNorm1d(4, affine=False, dtype=torch.float64)(x)
    return float((norm(x.split(sizes)[rank]) - expected.split(sizes)[rank]).abs().max())


def too_few():
    """Return what is said of one value a channel over all ranks."""
    size = 1 if distributed.rank() == 0 else 0
    try:
        SyncBatchNorm(2)(torch.ones(size, 2))
    except ValueError as error:
        return str(error)


def half():
    """Return the dtypes under autocast, and the error beside float32."""
    x = 20 + torch.arange(12.0).view(6, 2).sin()
    norm = SyncBatchNorm(2)
    with torch.autocast("cpu", torch.bfloat16):
        found = norm(x.bfloat16())
    expected = nn.BatchNorm1d(2)(x.bfloat16().float())
    off = (found - expected).detach().abs().max()
    return found.dtype, norm.running_var.dtype, float(off)


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_equal_one_process_with_the_whole_batch(ranks, world):
    for errors, uneven, too_few, half, penalty in ranks(world, compare):
        for dtype, (gradient, statistics) in errors.items():
            assert gradient < TOLERANCE[dtype] and statistics < TOLERANCE[dtype], errors
        assert uneven < 1e-12
        assert penalty < 1e-10
        assert "1 value per channel over all ranks" in too_few
        assert half[:2] == (torch.bfloat16, torch.float32) and half[2] < 0.01


def test_one_process_is_torchs_own():
    x, y = batch(torch.float32)
    expected, net = network(torch.float32), network(torch.float32)
    before = {id(t) for t in [*net, *net.parameters(), *net.buffers()]}
    assert convert_sync_batchnorm(net, CPU) is net
    assert {id(t) for t in [*net, *net.parameters(), *net.buffers()]} == before
    assert type(net[1]) is type(net[5]) is SyncBatchNorm
    gradients, wanted = train(net, x, y), train(expected, x, y)
    assert all(gradients[name].equal(wanted[name]) for name in wanted)
    assert net.eval()(x).equal(expected.eval()(x))
    assert list(net.state_dict()) == list(expected.state_dict())
    convert_sync_batchnorm(copy.deepcopy(net), CPU).load_state_dict(
        expected.state_dict()
    )


def test_a_norm_with_a_forward_of_its_own_is_refused():
    class WithActivation(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    net = nn.Sequential(nn.Identity(), WithActivation(3))
    with pytest.raises(ValueError, match="1 is a WithActivation.*sync_batchnorm=false"):
        convert_sync_batchnorm(net, CPU)


def test_on_a_gpu_torchs_norm_takes_the_parameters():
    net = network(torch.float32)
    weight = net[1].weight
    found = convert_sync_batchnorm(net, torch.device("cuda"))
    assert type(found[1]) is nn.SyncBatchNorm and found[1].weight is weight
    back = convert_sync_batchnorm(found, CPU)
    assert type(back[1]) is SyncBatchNorm and back[1].weight is weight
