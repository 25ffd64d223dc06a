"""A memory by its name on the command line."""

from seqrl.errors import UserError, nearest
from seqrl.memory.base import Memory
from seqrl.memory.frame_stack import FrameStack
from seqrl.memory.linear import LinearRecurrence
from seqrl.memory.linear_attention import LinearAttention
from seqrl.memory.none import NoMemory
from seqrl.memory.recurrent import GRU, LSTM
from seqrl.memory.transformer import Transformer

MEMORIES = ("none", "frame_stack", "gru", "lstm", "linear", "linear_attention", "transformer")


def make_memory(
    name: str, input_size: int, hidden_size: int, *, num_frames: int = 4, memory_horizon: int | None = None
) -> Memory:
    """The memory called `name`. `num_frames` serves the frame stack, `memory_horizon` the GRU and the LSTM.

    Raises UserError for an unknown name.
    """
    match name:
        case "none":
            return NoMemory(input_size, hidden_size)
        case "frame_stack":
            return FrameStack(input_size, hidden_size, num_frames=num_frames)
        case "gru":
            return GRU(input_size, hidden_size, memory_horizon=memory_horizon)
        case "lstm":
            return LSTM(input_size, hidden_size, memory_horizon=memory_horizon)
        case "linear":
            return LinearRecurrence(input_size, hidden_size)
        case "linear_attention":
            return LinearAttention(input_size, hidden_size)
        case "transformer":
            return Transformer(input_size, hidden_size)
    raise UserError(f"unknown memory '{name}' (--memory): {nearest(name, MEMORIES)}")
