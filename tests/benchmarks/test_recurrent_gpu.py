"""The peer that runs PyTorch's modules by episodes computes what the kernels' plain loops do."""

import pytest
import torch
from torch import nn

from benchmarks.recurrent_gpu import by_episodes
from seqrl.memory.kernels import reference


@pytest.mark.parametrize(("module", "num_states"), [(nn.GRU, 1), (nn.LSTM, 2)])
def test_by_episodes_resets_where_episodes_begin(module, num_states):
    # Golden: without `& ~is_first[0, row, None]` a state goes on into an episode that begins at t = 0.
    torch.manual_seed(0)
    module = module(3, 5).double()
    x = torch.randn(7, 4, 3, dtype=torch.float64, requires_grad=True)
    state = tuple(torch.randn(4, 5, dtype=torch.float64) for _ in range(num_states))
    is_first = torch.rand(7, 4) < 0.3
    is_first[0] = torch.tensor([True, False, False, True])
    y = by_episodes(module, x, state, is_first)
    function = reference.gru if num_states == 1 else reference.lstm
    expected = function(x, *state, is_first, *module.parameters())[0]
    torch.testing.assert_close(y, expected)
    grads = (
        torch.autograd.grad(out.square().sum(), [x, *module.parameters()], retain_graph=True) for out in (y, expected)
    )
    for actual, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(actual, wanted)
