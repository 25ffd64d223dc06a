"""A memory by its name on the command line: one of ours, or one's own as `module:Class`."""

from seqrl.errors import UserError, nearest
from seqrl.memory.base import Memory
from seqrl.memory.frame_stack import FrameStack
from seqrl.memory.linear import LinearRecurrence
from seqrl.memory.linear_attention import LinearAttention
from seqrl.memory.none import NoMemory
from seqrl.memory.recurrent import GRU, LSTM
from seqrl.memory.transformer import Transformer
from seqrl.own_code import find_class, what_is

MEMORIES = ("none", "frame_stack", "gru", "lstm", "linear", "linear_attention", "transformer")


def make_memory(
    name: str, input_size: int, hidden_size: int, *, num_frames: int = 4, memory_horizon: int | None = None
) -> Memory:
    """The memory called `name`. `num_frames` serves the frame stack, `memory_horizon` the GRU and the LSTM.

    `module:Class` imports the module and calls the class with the two sizes alone. Raises UserError for an unknown
    name, and for a class that cannot be imported, is no `Memory`, or does not take these sizes.
    """
    check_name(name)
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
    return _make_own(name, input_size, hidden_size)


def check_name(name: str, flag: str = "--memory") -> None:
    """Raise UserError for a name that is neither one of ours nor like `module:Class`. Nothing is imported."""
    module, _, kind = name.rpartition(":")
    if name not in MEMORIES and not (module and kind):
        raise UserError(f"unknown memory '{name}' ({flag}): {nearest(name, (*MEMORIES, 'module:Class'))}")


def simplicity(name: str) -> int:
    """The place of a memory from the simplest on; those of one's own come after ours."""
    return MEMORIES.index(name) if name in MEMORIES else len(MEMORIES)


def _make_own(name: str, input_size: int, hidden_size: int) -> Memory:
    kind = find_class("memory", name, (Memory,), "seqrl.memory.Memory")
    try:
        memory = kind(input_size=input_size, hidden_size=hidden_size)
    except (Exception, SystemExit) as error:  # whatever the constructor raises
        call = f"{kind.__name__}(input_size={input_size}, hidden_size={hidden_size})"
        raise UserError(f"memory '{name}' cannot be made ({what_is(error)}): it is called as {call}") from error
    sizes = getattr(memory, "input_size", None), getattr(memory, "output_size", None)
    if sizes != (input_size, hidden_size):
        raise UserError(
            f"memory '{name}' has input_size {sizes[0]} and output_size {sizes[1]}: "
            f"set them to the input_size and the hidden_size that it is called with, {input_size} and {hidden_size}"
        )
    return memory
