"""The text of a module with a memory of one's own, a running mean: what tests of such memories build on."""

EMA = """
import torch
from torch import nn

from seqrl.memory import Memory


class Ema(Memory):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.linear = nn.Linear(input_size, hidden_size)

    def initial_state(self, batch_size):
        return self.linear.weight.new_zeros(batch_size, self.input_size)

    def unroll(self, x, state, is_first):
        means = []
        for x_t, first in zip(x, is_first, strict=True):
            state = self.mix(torch.where(first[:, None], 0.0, state), x_t)
            means.append(state)
        return self.linear(torch.stack(means)), state

    def mix(self, state, x):
        return 0.9 * state + 0.1 * x

"""
