"""No memory at all: what every other one is measured against."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqrl.memory.base import Memory, State
from seqrl.memory.sizes import check_sizes


class NoMemory(Memory):
    """y_t = tanh(W x_t + b): the output depends on the row at hand alone.

    As wide as the other memories, so that what a memory adds is not mistaken for what width adds. The state is the
    empty tuple.

    Shapes: x [T, B, input_size] -> y [T, B, hidden_size]. Raises UserError where a size is below 1.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        check_sizes("NoMemory", input_size=input_size, hidden_size=hidden_size)
        self.input_size, self.output_size = input_size, hidden_size
        self.linear = nn.Linear(input_size, hidden_size)

    def initial_state(self, batch_size: int) -> State:
        return ()

    def unroll(
        self, x: Float[Tensor, "T B D"], state: State, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], State]:
        return torch.tanh(self.linear(x)), ()
