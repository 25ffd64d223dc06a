"""The quick tanh and linear layer against PyTorch's own."""

import pytest
import torch
from torch import nn

from seqrl.nets.functions import BLOCK, CHUNK, Linear, tanh


def gradients(call, *inputs):
    y = call()
    return [y, *torch.autograd.grad(y, inputs, torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape))]


@pytest.mark.parametrize("sizes", [(2, 32), (32, 1), (32, 3), (1, 1), (20, 24)])
@pytest.mark.parametrize("rows", [7, 2 * CHUNK, 3 * CHUNK + 5])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_pytorchs(sizes, rows, bias):
    """Broken by `rest` left out of `forward` or of `_outer_products`."""
    torch.manual_seed(0)
    ours = Linear(*sizes, bias=bias, dtype=torch.float64)
    x = torch.randn(rows, sizes[0], dtype=torch.float64, requires_grad=True)
    theirs = gradients(lambda: nn.functional.linear(x, ours.weight, ours.bias), x, *ours.parameters())
    for a, b in zip(gradients(lambda: ours(x), x, *ours.parameters()), theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_linear_takes_time_first_rows_and_leaves_inputs_without_gradient_alone():
    layer = Linear(3, 32)
    x = torch.randn(2, 2, CHUNK, 3).transpose(1, 2)
    y = layer(x)
    assert y.shape == (2, CHUNK, 2, 32)
    y.sum().backward()
    assert x.grad is None
    assert layer.weight.grad.shape == (32, 3)


@pytest.mark.parametrize("numel", [10, BLOCK, 2 * BLOCK + 3])
def test_tanh_is_pytorchs(numel):
    """Broken by `alpha=1` in the last line of `_Tanh.forward`."""
    x = torch.linspace(-20, 20, numel, dtype=torch.float64, requires_grad=True)
    for a, b in zip(gradients(lambda: tanh(x), x), gradients(lambda: torch.tanh(x), x), strict=True):
        torch.testing.assert_close(a, b)
    assert torch.allclose(tanh(x.detach().float()), torch.tanh(x.detach().float()), atol=2e-7, rtol=0)


def test_tanh_of_a_transposed_tensor():
    x = torch.randn(300, 700).t()
    torch.testing.assert_close(tanh(x), torch.tanh(x))


# Must break: `x.numel() // x.shape[-1]` for the rows, or `0 <` left out. An empty Box beside others is no mistake.
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("rows", [7, 2 * CHUNK])
def test_linear_of_no_features_is_its_bias(rows):
    layer = Linear(0, 3)
    y = layer(torch.zeros(rows, 0))
    assert torch.equal(y, layer.bias.expand(rows, 3))
    y.sum().backward()
    assert torch.equal(layer.bias.grad, torch.full((3,), float(rows)))
