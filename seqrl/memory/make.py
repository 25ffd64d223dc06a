"""A memory by its name on the command line: one of ours, or one's own as `module:Class`."""

import importlib
import traceback
from pathlib import Path

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
    kind = _import(name)
    try:
        memory = kind(input_size=input_size, hidden_size=hidden_size)
    except (Exception, SystemExit) as error:  # whatever the constructor raises
        call = f"{kind.__name__}(input_size={input_size}, hidden_size={hidden_size})"
        raise UserError(f"memory '{name}' cannot be made ({_what(error)}): it is called as {call}") from error
    sizes = getattr(memory, "input_size", None), getattr(memory, "output_size", None)
    if sizes != (input_size, hidden_size):
        raise UserError(
            f"memory '{name}' has input_size {sizes[0]} and output_size {sizes[1]}: "
            f"set them to the input_size and the hidden_size that it is called with, {input_size} and {hidden_size}"
        )
    return memory


def _import(name: str) -> type[Memory]:
    module_name, _, kind_name = name.rpartition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the module raises
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(
                f"memory '{name}': there is no module '{error.name}'; one in this folder is found with PYTHONPATH=."
            ) from error
        raise UserError(f"memory '{name}': {module_name} cannot be imported ({_what(error)}): mend it") from error
    kind = getattr(module, kind_name, None)
    if kind is None:
        known = [key for key, value in vars(module).items() if _is_memory(value) and value is not Memory]
        way_out = nearest(kind_name, known) if known else "it has no subclass of seqrl.memory.Memory"
        raise UserError(f"memory '{name}': {module_name} has no '{kind_name}': {way_out}")
    if not _is_memory(kind):
        raise UserError(f"memory '{name}' is no subclass of seqrl.memory.Memory: extend that (docs/your_own.md)")
    return kind


def _is_memory(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Memory)


def _what(error: BaseException) -> str:
    """The error in one line, and where in the user's code it was raised."""
    here = (__file__, importlib.__file__)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename not in here and f.filename[:1] != "<"]
    where = f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"
