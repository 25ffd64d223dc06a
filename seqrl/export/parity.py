"""Does an exported file say what the agent says?"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from seqrl.acting import ActingModule
from seqrl.decision_agent import DecisionAgent
from seqrl.envs import Environment
from seqrl.errors import UserError
from seqrl.export.step import ExportedStep, named_leaves, parameters, shifted
from seqrl.exported import Exported
from seqrl.nets.distributions import Gaussian
from seqrl.trajectory import AgentInput, Tree

TOLERANCE = 1e-5
MEAN_EPISODE = 50
"""Steps after which a random episode ends, on average."""


class Parity(NamedTuple):
    """How far the file is from the agent: the largest |a − b| / max(1, |a|) of all that either says, and where."""

    steps: int
    difference: float
    where: str


@torch.no_grad()
def compare(agent: ActingModule, exported: Exported, rows: list[AgentInput]) -> Parity:
    """Both read the same rows, each with its own state. What they say is compared, and so the state in what follows.

    An action of two that are equally good to the tolerance counts as far as the better is better. States themselves
    are not compared: a cache may hold anything where no key is seen. Raises UserError where something is not finite.
    """
    batch_size = len(rows[0].is_first)
    state, exported_state = agent.initial_state(batch_size), exported.initial_inputs(batch_size)
    space = agent.observation_space, agent.action_space
    worst, where = 0.0, "nothing"
    for step, row in enumerate(rows):
        said, state = agent.step(row, state)
        policy = said.pop("policy")
        expected = parameters(policy) | {name: leaf[0] for name, leaf in said.items() if isinstance(leaf, Tensor)}
        outputs = exported.step(exported_state | as_the_environment_has_it(row, *space))
        exported_state |= {name[5:]: leaf for name, leaf in outputs.items() if name.startswith("next_state")}
        differences = {name: _relative(leaf.numpy(), outputs[name]) for name, leaf in expected.items()}
        differences["action"] = _of_actions(agent, policy, outputs["action"])
        for name, difference in differences.items():
            if not difference <= worst:  # NaN too
                worst, where = difference, f"{name} at step {step}"
        if not np.isfinite(worst):
            raise UserError(f"the agent and its exported step differ without bound in {where}: is a weight not finite?")
    return Parity(len(rows), worst, where)


def as_the_environment_has_it(row: AgentInput, observation: gym.Space, action: gym.Space) -> dict[str, np.ndarray]:
    """The inputs of an exported step, but for the state, of what an agent reads."""
    tree = {
        "observation": shifted(row.observation, observation, 1),
        "previous_action": shifted(row.previous_action, action, 1),
        "previous_reward": row.previous_reward,
        "is_first": row.is_first,
    }
    leaves = (pair for name, child in tree.items() for pair in named_leaves(child, name))
    return {name: leaf.numpy() for name, leaf in leaves}


def random_rows(step: ExportedStep, num_steps: int, batch_size: int, seed: int) -> list[AgentInput]:
    """Rows of random elements of the agent's spaces, with episodes that end at random."""
    draws = np.random.default_rng(seed)
    agent = step.agent
    rows = []
    for index in range(num_steps):
        first = torch.from_numpy(draws.random(batch_size) < 1 / MEAN_EPISODE)
        first = torch.ones_like(first) if index == 0 else first
        action = _random(agent.action_space, batch_size, draws)
        action = torch.where(first.view(-1, *[1] * (action.ndim - 1)), 0, action)
        reward = torch.from_numpy(draws.standard_normal(batch_size, np.float32)).masked_fill(first, 0)
        rows.append(AgentInput(_random(agent.observation_space, batch_size, draws), action, reward, first))
    return rows


def recorded_rows(agent: ActingModule, environment: Environment, num_steps: int, seed: int) -> list[AgentInput]:
    """Rows of episodes that the agent plays, its actions drawn."""
    generator = torch.Generator().manual_seed(seed)
    return list(_played(agent, environment, num_steps, generator, seed))


@torch.no_grad()
def _played(
    agent: ActingModule, environment: Environment, num_steps: int, generator: torch.Generator, seed: int
) -> Iterator[AgentInput]:
    inputs, state = agent.initial_input(environment.reset(seed).observation), agent.initial_state(environment.num_envs)
    for _ in range(num_steps):
        yield inputs
        outputs, state = agent.step(inputs, state)
        action = agent.environment_action(outputs["policy"], outputs["policy"].sample(generator)[0])
        inputs = AgentInput.following(environment.step(action), action)


def _random(space: gym.Space, batch_size: int, draws: np.random.Generator) -> Tree:
    """Elements of a space as an agent reads them: integers counted from 0, unbounded numbers of a few units."""
    match space:
        case gym.spaces.Dict():
            return {key: _random(child, batch_size, draws) for key, child in space.spaces.items()}
        case gym.spaces.Tuple():
            return tuple(_random(child, batch_size, draws) for child in space.spaces)
        case gym.spaces.Discrete():
            return torch.from_numpy(draws.integers(0, int(space.n), batch_size))
        case gym.spaces.MultiDiscrete():
            return torch.from_numpy(draws.integers(0, space.nvec, (batch_size, *space.shape)))
        case gym.spaces.MultiBinary():
            return torch.from_numpy(draws.random((batch_size, *space.shape)) < 0.5)
    assert isinstance(space, gym.spaces.Box)
    low, high = space.low.astype(np.float64).clip(-3, None), space.high.astype(np.float64).clip(None, 3)
    low, high = np.where(low <= high, low, space.low), np.where(low <= high, high, space.high)  # wholly beyond ±3
    if space.dtype.kind == "f":
        return torch.from_numpy(draws.uniform(low, high, (batch_size, *space.shape)).astype(np.float32))
    whole = draws.integers(space.low.astype(np.int64), space.high.astype(np.int64) + 1, (batch_size, *space.shape))
    return torch.from_numpy(whole.astype(space.dtype if space.dtype in (np.uint8, bool) else np.int64))


def _of_actions(agent: ActingModule, policy: Any, found: np.ndarray) -> float:
    """How far an action is from the agent's: in its own numbers, or of categories by how much likelier the best is."""
    likeliest = policy.mode()[0]
    if isinstance(policy, Gaussian):
        return _relative(agent.environment_action(policy, likeliest).numpy(), found)
    action = shifted(torch.from_numpy(found), agent.action_space, -1).view_as(likeliest)
    if torch.equal(action, likeliest):
        return 0.0
    return float(_score(policy, likeliest).sub(_score(policy, action)).max())


def _score(policy: Any, action: Tensor) -> Tensor:
    """What the likeliest action has most of, [B]: value or log-probability."""
    if hasattr(policy, "values"):
        return policy.values[0].gather(-1, action.unsqueeze(-1)).squeeze(-1)
    return policy.log_prob(action.unsqueeze(0))[0]


def _relative(expected: np.ndarray, found: np.ndarray) -> float:
    if expected.shape != found.shape:
        raise UserError(f"the exported step gives the shape {found.shape} where the agent gives {expected.shape}")
    expected, found = expected.astype(np.float64), found.astype(np.float64)
    return float((np.abs(expected - found) / np.maximum(1.0, np.abs(expected))).max(initial=0.0))


def with_target(agent: ActingModule, exported: Exported) -> None:
    """Ask both for the same return: the agent's own."""
    if isinstance(agent, DecisionAgent):
        exported.target_return = agent.target_return.numpy()
