import pytest
import torch
from torch import nn

from stable_ssl.config import ConfigError
from stable_ssl.models import mlp


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
