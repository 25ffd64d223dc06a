"""One step of an agent as a function of tensors alone: what an exported file holds."""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor, nn

from seqrl.acting import ActingModule
from seqrl.agent import Agent
from seqrl.decision_agent import DecisionAgent, DecisionState
from seqrl.memory.base import State
from seqrl.nets.distributions import Categorical, EpsilonGreedy, Gaussian, MultiCategorical
from seqrl.trajectory import AgentInput, Tree, tree_leaves, tree_map


class Leaf(NamedTuple):
    """A tensor that goes in or comes out: its name, and its type and shape without the batch axis, its first."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class ExportedStep(nn.Module):
    """What an agent does with one row, observations and actions being as the environment has them.

        (observation, previous_action, previous_reward, is_first, state) -> (action, what the heads say, next state)

    In: the observation's leaves, the three other inputs, `target_return` for an agent that is asked for a return, and
    the state's leaves. Out: `action` (the likeliest), the parameters of the policy's distribution, what each other head
    says, and the leaves of the state after the row. All are [B, ...]; `inputs` and `outputs` name them.

    Running statistics are constants of the function. Where `is_first`, previous action, previous reward and state do
    not matter, so that zeros begin an episode. All is in float32, also of an agent that was trained under autocast. The
    agent itself stays as it is.
    """

    def __init__(self, agent: ActingModule):
        super().__init__()
        self.agent = in_float32(copy.deepcopy(agent)).requires_grad_(False).eval()
        for module in list(self.agent.modules()):
            for name, part in list(module.named_children()):
                if isinstance(part, nn.EmbeddingBag):
                    setattr(module, name, _SumOfEmbeddings(part.weight))
        self.asks_return = isinstance(agent, DecisionAgent)
        self.observation = observation_leaves(agent.observation_space, 2)
        self.state = agent.initial_state(2)
        example = dict(zip(self.input_names(), self.example(2), strict=True))
        self.inputs = [Leaf(name, _dtype(leaf), tuple(leaf.shape[1:])) for name, leaf in example.items()]
        with torch.no_grad():
            outputs = self.named(self.example(2))
        self.outputs = [Leaf(name, _dtype(leaf), tuple(leaf.shape[1:])) for name, leaf in outputs.items()]

    def input_names(self) -> list[str]:
        observation = [name for name, _ in named_leaves(self.observation, "observation")]
        rest = ["previous_action", "previous_reward", "is_first", *["target_return"] * self.asks_return]
        return [*observation, *rest, *(name for name, _ in named_leaves(self.state, "state"))]

    def example(self, batch_size: int) -> tuple[Tensor, ...]:
        """Inputs of the first row of `batch_size` episodes that show zeros, in the order of `inputs`."""
        observation = observation_leaves(self.agent.observation_space, batch_size)
        first = self.agent.initial_input(observation)
        target = [torch.zeros(batch_size)] * self.asks_return
        state = tree_map(lambda leaf: leaf[:1].expand(batch_size, *leaf.shape[1:]).clone(), self.state)
        rest = (first.previous_action, first.previous_reward, first.is_first, *target)
        return (*tree_leaves(observation), *rest, *tree_leaves(state))

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(leaves).values())

    def named(self, leaves: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """What comes out, by name and in order."""
        given = iter(leaves)
        observation = tree_map(lambda _: next(given), self.observation)
        previous_action, previous_reward, is_first = next(given), next(given), next(given)
        target = next(given) if self.asks_return else None
        state = tree_map(lambda _: next(given), self.state)
        start = _start(self.agent.action_space)
        previous_action = previous_action if start is None else previous_action - start
        going_on = ~is_first.view(-1, *[1] * (previous_action.ndim - 1))
        inputs = AgentInput(
            shifted(observation, self.agent.observation_space, -1),
            torch.where(going_on, previous_action, 0),
            previous_reward,
            is_first,
        )
        if target is not None:
            said, state = _asked(self.agent, inputs, target, state)
        else:
            said, state = self.agent.step(inputs, state)
        policy = said.pop("policy")
        action = self.agent.environment_action(policy, policy.mode()[0])
        outputs = {"action": action if start is None else action + start, **parameters(policy)}
        outputs |= {name: value[0] for name, value in said.items() if isinstance(value, Tensor)}
        return outputs | {f"next_{name}": leaf for name, leaf in named_leaves(state, "state")}


class _SumOfEmbeddings(nn.Module):
    """`nn.EmbeddingBag` in its sum mode, in operations that ONNX has."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = weight

    def forward(self, index: Tensor) -> Tensor:
        return nn.functional.embedding(index, self.weight).sum(-2)


def in_float32(agent: ActingModule) -> ActingModule:
    """`agent`, whose memory from now on computes in float32."""
    for part in agent.modules():
        if isinstance(part, Agent):
            part.autocast = None
    return agent


def parameters(policy: Any) -> dict[str, Tensor]:
    """A distribution's parameters [B, ...] by name, of one that has a leading time axis of 1."""
    match policy:
        case Categorical():
            return {"policy.log_probs": policy.log_probs[0]}
        case MultiCategorical():
            return {"policy.log_probs": torch.cat([part.log_probs[0] for part in policy.parts], -1)}
        case Gaussian():
            mean = policy.mean[0]
            return {"policy.mean": mean, "policy.log_std": policy.log_std.expand_as(policy.mean)[0]}
        case EpsilonGreedy():
            return {"policy.values": policy.values[0]}
    raise AssertionError(f"a distribution without a name for its parameters: {type(policy).__name__}")


def named_leaves(tree: Tree, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """The leaves of a tree with names such as observation.position or state.keys.0, in the order of `tree_leaves`."""
    if isinstance(tree, dict):
        items = list(tree.items())
    elif isinstance(tree, tuple):
        items = list(zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True))
    else:
        yield prefix, tree
        return
    for key, child in items:
        yield from named_leaves(child, f"{prefix}.{key}")


def observation_leaves(space: gym.Space, batch_size: int) -> Tree:
    """The lowest observations of a space as an exported file takes them: float32, uint8, bool or int64 [B, ...]."""
    if isinstance(space, gym.spaces.Dict):
        return {key: observation_leaves(child, batch_size) for key, child in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(observation_leaves(child, batch_size) for child in space.spaces)
    start = _start(space)
    if start is not None:
        return start.expand(batch_size, *(space.shape or ())).clone()
    assert isinstance(space, gym.spaces.Box | gym.spaces.MultiBinary)
    kind = torch.float32 if space.dtype is not None and space.dtype.kind == "f" else torch.int64
    if isinstance(space, gym.spaces.MultiBinary) or space.dtype == bool:
        kind = torch.bool
    elif space.dtype == "uint8":
        kind = torch.uint8
    return torch.zeros(batch_size, *space.shape, dtype=kind)


def _start(space: gym.Space | None) -> Tensor | None:
    """The lowest element of a space of integers, for an agent counts from 0; None for other spaces."""
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        return torch.as_tensor(space.start, dtype=torch.int64)
    return None


def shifted(tree: Tree, space: gym.Space, sign: int) -> Tree:
    """An element of a space as an agent reads it, integers counted from 0 (`sign` −1), or back again (+1)."""
    if isinstance(space, gym.spaces.Dict):
        return {key: shifted(tree[key], child, sign) for key, child in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(shifted(part, child, sign) for part, child in zip(tree, space.spaces, strict=True))
    start = _start(space)
    return tree if start is None else tree + sign * start


def _asked(agent: Any, inputs: AgentInput, target: Tensor, state: State) -> tuple[dict[str, Any], DecisionState]:
    """`DecisionAgent.step` with the return that is asked for as an input."""
    timestep = torch.where(inputs.is_first, 0, state.timestep + 1)
    left = torch.where(inputs.is_first, target, (state.return_to_go - inputs.previous_reward) / agent.gamma)
    row = tree_map(lambda leaf: leaf.unsqueeze(0), inputs)
    said, memory = agent.unroll_rows(row, left.unsqueeze(0), timestep.unsqueeze(0), state.memory)
    return said, DecisionState(memory, left, timestep)


def _dtype(leaf: Tensor) -> str:
    return str(leaf.dtype).removeprefix("torch.")
