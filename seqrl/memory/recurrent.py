"""The two recurrent networks of the field: GRU and LSTM."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqrl.errors import UserError
from seqrl.memory import kernels
from seqrl.memory.base import Memory, State
from seqrl.memory.sizes import check_sizes


class GRU(Memory):
    """One layer of gated recurrent units, by the equations of `torch.nn.GRU` (see `seqrl.memory.kernels.gru`).

    Weights are stacked and named as in `torch.nn.GRUCell`. They start orthogonal from state to state, Xavier-uniform
    from the input, and with zero biases.

    With `memory_horizon` T, half of the update gates z, which keep the state, start with the bias log U(1, T − 1):
    those units forget over 1 to T steps, and gradients reach that far back before anything is learned (chrono
    initialisation, Tallec & Ollivier 2018, arXiv 1804.11188). The other half stays quick: with all units slow,
    problems that need a short memory train more slowly (docs/log.md).

    Shapes: x [T, B, input_size] -> y [T, B, hidden_size], y_t = h_t. The state is h [B, hidden_size].
    Raises UserError where a size is below 1 or `memory_horizon` below 2.
    """

    def __init__(self, input_size: int, hidden_size: int, *, memory_horizon: int | None = None) -> None:
        super().__init__()
        check_sizes("GRU", input_size=input_size, hidden_size=hidden_size)
        self.input_size, self.output_size = input_size, hidden_size
        self.weight_ih = _stacked(nn.init.xavier_uniform_, 3, hidden_size, input_size)
        self.weight_hh = _stacked(nn.init.orthogonal_, 3, hidden_size, hidden_size)
        self.bias_ih = nn.Parameter(torch.zeros(3 * hidden_size))
        self.bias_hh = nn.Parameter(torch.zeros(3 * hidden_size))
        if memory_horizon is not None:
            _reset, update, _new = self.bias_ih.data.chunk(3)
            slow = update[: hidden_size // 2]
            slow.copy_(_chrono_bias("GRU", memory_horizon, len(slow)))

    def initial_state(self, batch_size: int) -> Float[Tensor, "B H"]:
        """h = 0."""
        return self.weight_hh.new_zeros(batch_size, self.output_size)

    def unroll(
        self, x: Float[Tensor, "T B D"], state: State, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], Float[Tensor, "B H"]]:
        """Read T rows; see `Memory.unroll`."""
        return kernels.gru(x, state, is_first, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)


class LSTM(Memory):
    """One layer of long short-term memory, by the equations of `torch.nn.LSTM` (see `seqrl.memory.kernels.lstm`).

    Weights are stacked and named as in `torch.nn.LSTMCell`. They start orthogonal from state to state, Xavier-uniform
    from the input, and with zero biases but the forget gate's, which is one (Jozefowicz et al. 2015).

    With `memory_horizon` T, half of the forget gates start with the bias log U(1, T − 1) and their input gates with
    minus that: those cells forget over 1 to T steps, and gradients reach that far back before anything is learned
    (chrono initialisation, Tallec & Ollivier 2018, arXiv 1804.11188). The other half stays quick, as in `GRU`.

    Shapes: x [T, B, input_size] -> y [T, B, hidden_size], y_t = h_t. The state is (h, c), each [B, hidden_size].
    Raises UserError where a size is below 1 or `memory_horizon` below 2.
    """

    def __init__(self, input_size: int, hidden_size: int, *, memory_horizon: int | None = None) -> None:
        super().__init__()
        check_sizes("LSTM", input_size=input_size, hidden_size=hidden_size)
        self.input_size, self.output_size = input_size, hidden_size
        self.weight_ih = _stacked(nn.init.xavier_uniform_, 4, hidden_size, input_size)
        self.weight_hh = _stacked(nn.init.orthogonal_, 4, hidden_size, hidden_size)
        self.bias_ih = nn.Parameter(torch.zeros(4 * hidden_size))
        self.bias_hh = nn.Parameter(torch.zeros(4 * hidden_size))
        input_gate, forget_gate, _cell, _output = self.bias_ih.data.chunk(4)
        forget_gate.fill_(1.0)
        if memory_horizon is not None:
            slow = forget_gate[: hidden_size // 2]
            slow.copy_(_chrono_bias("LSTM", memory_horizon, len(slow)))
            input_gate[: len(slow)].copy_(-slow)

    def initial_state(self, batch_size: int) -> tuple[Float[Tensor, "B H"], Float[Tensor, "B H"]]:
        """h = 0 and c = 0."""
        h = self.weight_hh.new_zeros(batch_size, self.output_size)
        return h, torch.zeros_like(h)

    def unroll(
        self, x: Float[Tensor, "T B D"], state: State, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], tuple[Float[Tensor, "B H"], Float[Tensor, "B H"]]]:
        """Read T rows; see `Memory.unroll`."""
        h, c = state
        y, h, c = kernels.lstm(x, h, c, is_first, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return y, (h, c)


def _stacked(init: Callable[[Tensor], Tensor], num_gates: int, rows: int, columns: int) -> nn.Parameter:
    """The gates' matrices, one above the other, each initialised on its own."""
    return nn.Parameter(torch.cat([init(torch.empty(rows, columns)) for _ in range(num_gates)]))


def _chrono_bias(owner: str, memory_horizon: int, num_units: int) -> Tensor:
    if memory_horizon < 2:
        raise UserError(f"memory_horizon is {memory_horizon} in {owner}: give at least 2 steps, or None")
    return torch.empty(num_units).uniform_(1, memory_horizon - 1).log()
