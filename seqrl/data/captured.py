"""Acting on a GPU as one CUDA graph: a rollout of small kernels is bound by their launches, and these become one."""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator

from seqrl.acting import ActingModule
from seqrl.actor_critic import ActorCritic
from seqrl.agent import Agent
from seqrl.envs.adapters import Environment, TorchEnvironment
from seqrl.envs.base import TorchVectorEnv
from seqrl.envs.hide import Hide
from seqrl.envs.wrappers import Flicker, Noise
from seqrl.errors import UserError
from seqrl.memory import GRU, LSTM, FrameStack, LinearAttention, LinearRecurrence, NoMemory
from seqrl.nets.heads import is_plain
from seqrl.trajectory import Tree, tree_map

DEVICES = ("cuda",)
"""The types of device that can capture."""
MEMORIES = (NoMemory, FrameStack, GRU, LSTM, LinearRecurrence, LinearAttention)
"""Those that act without reading a value back to the host. A transformer does: it asks whether an episode began."""

Loop = Callable[[Tree], tuple[Tree, Tree]]
"""From what it begins with to what the next one begins with, and what it gives."""


class Captured:
    """A loop, captured as a CUDA graph when this is made, and replayed without Python.

    The loop must have run before, so that all that CUDA's libraries set up at first use is there. Capturing does not
    execute it, and draws nothing. It draws from `generators` alone, and reads nothing back. What it reads besides its
    carry, such as weights, each replay reads anew where it stood at the capture: there it must stay. What Python
    decides in it is decided once.

    Raises UserError where the loop reads a value back.
    """

    _lock = threading.Lock()  # PyTorch captures one graph of a process at a time

    def __init__(self, loop: Loop, carry: Tree, generators: Sequence[Generator], device: torch.device) -> None:
        self._carry = tree_map(torch.clone, carry)
        self._graph = torch.cuda.CUDAGraph()
        if torch.__version__ < "2.14":  # from then on, a graph finds out by itself
            for generator in generators:
                self._graph.register_generator_state(generator)
        try:
            with (
                self._lock,
                torch.cuda.device(device),
                torch.cuda.stream(torch.cuda.current_stream()),  # PyTorch does not come back from a failed capture's
                torch.cuda.graph(self._graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"),
            ):
                self._results = loop(self._carry)
        except RuntimeError as error:  # PyTorch's allocator and generators stay in capture: there is no going on
            cause = error.__context__ or error
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            what = str(cause).splitlines()[0]
            raise UserError(
                f"a step of acting reads a value back from {device}, so no CUDA graph can hold it ({what}): let the "
                "environment's functions return tensors alone, or set reads_back = True on its class"
            ) from error

    def replay(self, carry: Tree) -> tuple[Tree, Tree]:
        """What the loop gives now, in memory of its own: the next replay overwrites the graph's."""
        tree_map(lambda static, leaf: static.copy_(leaf), self._carry, carry)
        self._run()
        return tree_map(torch.clone, self._results)

    def _run(self) -> None:
        self._graph.replay()


class OnDevice(NamedTuple):
    """Environments whose steps never leave the device: what changes from step to step, and where draws come from."""

    environment: TorchEnvironment
    generators: list[Generator]

    @property
    def carry(self) -> Tree:
        return self.environment._env.state, self.environment._ended

    def take_up(self, carry: Tree) -> None:
        """Go on from what `carry` was."""
        self.environment._env.state, self.environment._ended = carry


def on_device(agent: ActingModule, environment: Environment) -> OnDevice | None:
    """The environments' part of a loop that can be captured, or None where acting might read a value back.

    A `TorchVectorEnv` promises that its steps do not, and has all that they depend on in its `state` and its generator,
    unless it has a step or a `state_dict` of its own, or says that it `reads_back`.
    """
    generators = []
    while isinstance(environment, Hide | Flicker | Noise):
        generators.append(environment.generator)
        environment = environment.env
    parts = [agent.actor, agent.critic] if isinstance(agent, ActorCritic) else [agent]
    known = all(isinstance(part, Agent) and type(part.memory) in MEMORIES for part in parts)
    if agent.device.type not in DEVICES or not known:
        return None
    if not all(map(is_plain, agent.heads.values())):
        return None
    if not isinstance(environment, TorchEnvironment) or environment._ended.device != agent.device:
        return None
    inner = environment._env
    own = [name for name in ("step", "state_dict") if getattr(type(inner), name) is not getattr(TorchVectorEnv, name)]
    return None if own or inner.reads_back else OnDevice(environment, [*generators, inner.generator])
