import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stable_ssl.config import ConfigError
from stable_ssl.models import EMA, DINOHead, Prototypes, mlp
from stable_ssl.models.heads import Directions
from stable_ssl.vectors import unit


def kinds(head):
    return [type(layer).__name__ for layer in head]


def test_hidden_layers_are_normed_and_the_last_is_not():
    head = mlp(6, 16, 8, 4)
    hidden = ["Linear", "BatchNorm1d", "ReLU"]
    assert kinds(head) == [*hidden, *hidden, "Linear"]
    assert head(torch.randn(5, 6)).shape == (5, 4)


def test_no_bias_before_a_batch_norm():
    def biases(head):
        return [m.bias is not None for m in head if isinstance(m, nn.Linear)]

    assert biases(mlp(6, 16, 4)) == [False, True]
    assert biases(mlp(6, 16, 4, final_norm=True)) == [False, False]
    assert biases(mlp(6, 16, 4, norm=False)) == [True, True]
    assert biases(mlp(6, 16, 4, norm=False, bias=False)) == [False, False]


def test_two_dims_are_a_linear_layer():
    assert kinds(mlp(6, 4)) == ["Linear"]
    assert kinds(mlp(6, 4, final_norm=True)) == ["Linear", "BatchNorm1d"]


def test_the_activation_can_be_chosen():
    assert kinds(mlp(6, 16, 4, norm=False, activation=nn.GELU))[1] == "GELU"


@pytest.mark.parametrize("dims", [(), (6,), (6, 0), (6, 4.0), (6, None)])
def test_wrong_widths_are_refused(dims):
    with pytest.raises(ConfigError, match="two or more positive integers"):
        mlp(*dims)


def test_unit_vectors_of_half_are_float32():
    z = 300 * torch.ones(2, 400, dtype=torch.half)  # squares overflow
    assert unit(z).dtype == torch.float32
    torch.testing.assert_close(unit(z).norm(dim=1), torch.ones(2))
    assert unit(torch.zeros(2, 3)).equal(torch.zeros(2, 3))


def test_prototypes_have_norm_one_at_each_step():  # fault 17
    torch.manual_seed(0)
    prototypes = Prototypes(4, 6)
    optimizer = torch.optim.SGD(prototypes.parameters(), lr=5.0, weight_decay=0.1)
    assert [name for name, _ in prototypes.named_parameters()] == ["weight"]
    for _ in range(3):
        prototypes.normalize()
        torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(6))
        z = unit(torch.randn(8, 4))
        torch.testing.assert_close(prototypes(z), z @ prototypes.weight.T)
        F.cross_entropy(prototypes(z) / 0.1, torch.arange(8) % 6).backward()
        radial = (prototypes.weight.grad * prototypes.weight).sum(1)
        assert radial.abs().max() > 1e-3  # the gradient knows nothing of the norm
        optimizer.step()
        optimizer.zero_grad()
        assert (prototypes.weight.norm(dim=1) - 1).abs().max() > 1e-3


def test_directions_are_turned_by_a_weight_normalised_layer():
    directions = Directions(4, 6).double()
    lengths = directions.weight.norm(dim=1)
    assert (lengths < 0.95).any()  # as torch draws a linear layer
    plain = nn.Linear(4, 6, bias=False).double()
    plain.load_state_dict(directions.state_dict())
    normed = nn.utils.parametrizations.weight_norm(plain)
    normed.parametrizations.weight.original0.data.fill_(1.0)
    z = unit(torch.randn(8, 4, dtype=torch.float64))
    torch.testing.assert_close(directions(z), normed(z))
    directions(z).square().sum().backward()
    normed(z).square().sum().backward()
    v = normed.parametrizations.weight.original1
    torch.testing.assert_close(directions.weight.grad, v.grad)


@pytest.mark.parametrize("kind", [Prototypes, Directions])
def test_autocast_does_not_enter_similarities(kind):
    layer, z = kind(4, 6), unit(torch.randn(8, 4))
    with torch.autocast("cpu", torch.bfloat16):
        inside = layer(z)
    assert inside.equal(layer(z))


def test_a_dino_head_compares_a_unit_bottleneck_with_directions():
    head = DINOHead(6, 16, 4, 10)
    assert kinds(head.mlp) == ["Linear", "GELU", "Linear", "GELU", "Linear"]
    x = torch.randn(5, 6)
    expected = F.cosine_similarity(head.mlp(x)[:, None], head.last.weight[None], dim=2)
    torch.testing.assert_close(head(x), expected)
    assert kinds(DINOHead(6, 16, 4, 10, layers=1).mlp) == ["Linear"]


def test_each_layer_of_a_dino_head_has_its_own_batch_norm():  # fault 23
    head = DINOHead(6, 16, 4, 10, layers=4, norm=True)
    norms = [m for m in head.modules() if isinstance(m, nn.BatchNorm1d)]
    assert len({id(norm) for norm in norms}) == len(norms) == 3
    assert len([layer for layer in head.mlp if isinstance(layer, nn.BatchNorm1d)]) == 3


def test_the_students_last_layer_is_the_one_to_freeze():  # fault 22
    torch.manual_seed(0)
    student = DINOHead(6, 16, 4, 10)
    teacher = EMA(student, 0.9)
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.1, weight_decay=0.1)
    before = {name: p.clone() for name, p in student.named_parameters()}
    F.cross_entropy(student(torch.randn(8, 6)), torch.arange(8)).backward()
    assert student.last.weight.grad.norm() > 0
    student.last.weight.grad = None
    optimizer.step()
    teacher.update(student, 1, 2)
    still = [n for n, p in student.named_parameters() if p.equal(before[n])]
    assert still == ["last.weight"]
    moved = [n for n, p in teacher.module.named_parameters() if not p.equal(before[n])]
    assert len(moved) == len(before) - 1
