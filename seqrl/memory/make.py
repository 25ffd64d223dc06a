"""A memory by its name on the command line: one of ours, or one's own as `module:Class`."""

import contextlib
import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seqrl.errors import UserError, nearest
from seqrl.memory.base import Memory, State
from seqrl.memory.frame_stack import FrameStack
from seqrl.memory.linear import LinearRecurrence
from seqrl.memory.linear_attention import LinearAttention
from seqrl.memory.none import NoMemory
from seqrl.memory.recurrent import GRU, LSTM
from seqrl.memory.transformer import Transformer
from seqrl.own_code import find_class, what_is
from seqrl.trajectory import tree_flatten

MEMORIES = ("none", "frame_stack", "gru", "lstm", "linear", "linear_attention", "transformer")
SIZES_OF_OURS = {
    "linear_attention": ("num_layers", "num_heads", "key_size"),
    "transformer": ("num_layers", "num_heads", "window"),
}
"""What keyword arguments may set of ours, besides what has a flag of its own."""


def make_memory(
    name: str,
    input_size: int,
    hidden_size: int,
    *,
    num_frames: int = 4,
    memory_horizon: int | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Memory:
    """The memory called `name`. `num_frames` serves the frame stack, `memory_horizon` the GRU and the LSTM.

    `module:Class` imports the module, calls the class with the two sizes and `kwargs` alone, and unrolls a copy of what
    it gives once on a few rows. Of ours, `kwargs` go to those in `SIZES_OF_OURS`. Raises UserError for an unknown name,
    for arguments that the memory does not have, and for a class that cannot be imported, is no `Memory`, does not take
    these sizes, or whose outputs or states are not of the contract's shapes.
    """
    check_name(name)
    settings = dict(kwargs or {})
    if is_own(name):
        return _make_own(name, input_size, hidden_size, settings)
    _check_settings_of_ours(name, settings)
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
            return LinearAttention(input_size, hidden_size, **settings)
    return Transformer(input_size, hidden_size, **settings)


def is_own(name: str) -> bool:
    """Whether a memory is one's own, and not one of ours."""
    return name not in MEMORIES


def check_name(name: str, flag: str = "--memory") -> None:
    """Raise UserError for a name that is neither one of ours nor like `module:Class`. Nothing is imported."""
    module, _, kind = name.rpartition(":")
    if name not in MEMORIES and not (module and kind):
        raise UserError(f"unknown memory '{name}' ({flag}): {nearest(name, (*MEMORIES, 'module:Class'))}")


def simplicity(name: str) -> int:
    """The place of a memory from the simplest on; those of one's own come after ours."""
    return MEMORIES.index(name) if name in MEMORIES else len(MEMORIES)


def _check_settings_of_ours(name: str, settings: Mapping[str, Any]) -> None:
    known = SIZES_OF_OURS.get(name, ())
    horizon = ["--memory-horizon"] * (name in ("gru", "lstm"))
    flags = " and ".join(["--hidden-size", *["--num-frames"] * (name == "frame_stack"), *horizon])
    for key, value in settings.items():
        if key not in known:
            way_out = nearest(key, known) if known else "leave it out"
            raise UserError(
                f"memory '{name}' has no argument '{key}' (--memory-kwargs), its flags are {flags}: {way_out}"
            )
        if type(value) is not int:
            raise UserError(f"--memory-kwargs {key}={value}: it must be a whole number")


def _make_own(name: str, input_size: int, hidden_size: int, settings: Mapping[str, Any]) -> Memory:
    kind = find_class("memory", name, (Memory,), "seqrl.memory.Memory")
    _check_keywords(name, kind, settings)
    arguments = {"input_size": input_size, "hidden_size": hidden_size, **settings}
    try:
        memory = kind(**arguments)
    except (Exception, SystemExit) as error:  # whatever the constructor raises
        call = f"{kind.__name__}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
        raise UserError(f"memory '{name}' cannot be made ({what_is(error)}): it is called as {call}") from error
    sizes = getattr(memory, "input_size", None), getattr(memory, "output_size", None)
    if sizes != (input_size, hidden_size):
        raise UserError(
            f"memory '{name}' has input_size {sizes[0]} and output_size {sizes[1]}: "
            f"set them to the input_size and the hidden_size that it is called with, {input_size} and {hidden_size}"
        )
    _try_out(name, memory)
    return memory


def _check_keywords(name: str, kind: type[Memory], settings: Mapping[str, Any]) -> None:
    """Raise UserError for the first of `settings` that the class does not take. The sizes have a flag."""
    parameters = inspect.signature(kind).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    sizes = ("input_size", "hidden_size")
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in sizes]
    for key in settings:
        if key in sizes:
            raise UserError(f"--memory-kwargs {key}: the sizes of a memory are given by --hidden-size")
        if key not in known and not takes_any:
            way_out = nearest(key, known) if known else "it takes the sizes alone"
            raise UserError(f"memory '{name}' has no argument '{key}' (--memory-kwargs): {way_out}")


def _try_out(name: str, memory: Memory) -> None:
    """Raise UserError where a call of `unroll` on a few rows shows that the memory is not of the contract's shapes.

    The memory and the global random state stay as they were. The laws are left to `seqrl.testing.check_memory`.
    """
    T, B = 2, 3
    devices = {parameter.device for parameter in memory.parameters()}
    with torch.random.fork_rng(devices=[d for d in devices if d.type == "cuda"]), torch.no_grad():
        with contextlib.suppress(Exception):  # of what cannot be copied, buffers and attributes may move by two rows
            memory = copy.deepcopy(memory)
        x = torch.randn(T, B, memory.input_size, device=next(iter(devices), None))
        is_first = torch.zeros(T, B, dtype=torch.bool, device=x.device)
        called = "initial_state"
        try:
            states = {size: memory.initial_state(size) for size in (1, B)}
            problem = next(filter(None, (_wrong_state(state, size) for size, state in states.items())), "")
            if not problem:
                called = "unroll"
                answer = memory.unroll(x, states[B], is_first)
                problem = _wrong_answer(answer, states[B], [T, B, memory.output_size])
        except (Exception, SystemExit) as error:  # whatever the memory raises
            problem = f"{called} fails ({what_is(error)}): it is called with x {list(x.shape)} and is_first {[T, B]}"
    if problem:
        raise UserError(f"memory '{name}': {problem}; seqrl.testing.check_memory tries it")


def _wrong_state(state: State, batch_size: int) -> str:
    """What is wrong with a state of `batch_size` rows; empty if nothing."""
    for path, leaf in tree_flatten(state).items():
        where = f"initial_state({batch_size}){path and ' ' + path}"
        if not isinstance(leaf, Tensor):
            return f"{where} is a {type(leaf).__name__}, expected a tensor, or a tuple or dict of tensors"
        if leaf.shape[:1] != (batch_size,):
            return f"{where} is {list(leaf.shape)}, expected [{batch_size}, ...], the batch first"
    return ""


def _wrong_answer(answer: Any, before: State, shape: Sequence[int]) -> str:
    """What is wrong with what `unroll` returned, to which `before` was given; empty if nothing."""
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        return f"unroll returns a {type(answer).__name__}, expected two things, y and the state"
    y, state = answer
    if not isinstance(y, Tensor) or list(y.shape) != shape:
        found = list(y.shape) if isinstance(y, Tensor) else f"a {type(y).__name__}"
        return f"unroll returns y {found}, expected {shape}, which is [num_steps, batch_size, output_size]"
    old, new = _shapes(before), _shapes(state)
    if old != new:
        return (
            f"unroll returns the state {_said(new)}, expected {_said(old)} as it was given: it keeps shapes and types"
        )
    return ""


def _shapes(state: State) -> dict[str, tuple[list[int], str]]:
    return {
        path: (list(leaf.shape), str(leaf.dtype).removeprefix("torch."))
        if isinstance(leaf, Tensor)
        else ([], type(leaf).__name__)
        for path, leaf in tree_flatten(state).items()
    }


def _said(shapes: Mapping[str, tuple[list[int], str]]) -> str:
    return ", ".join(f"{path} {shape} {kind}".strip() for path, (shape, kind) in shapes.items()) or "()"
