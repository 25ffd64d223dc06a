"""`check_agent`: does an agent act as it learns?"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from seqrl.actions import pack
from seqrl.agent import Agent
from seqrl.memory.base import State
from seqrl.nets import EpsilonGreedy
from seqrl.testing.comparison import require_equal
from seqrl.trajectory import AgentInput, Tree, tree_flatten, tree_map


def check_agent(
    agent: Agent,
    observation: Tree | None = None,
    *,
    num_steps: int = 12,
    batch_size: int = 3,
    seed: int = 0,
    tolerance: float | None = None,
) -> None:
    """Prove, on random inputs, that an agent acts as it learns, in what each head says and in the memory's state.

    *Acting*: `step`, row by row, equals `unroll` of all rows.
    *Reset*: from each `is_first` on, outputs equal those of a fresh start, whatever numbers the state held.
    *First rows*: where `is_first`, the previous action and the previous reward have no influence.
    *Independence*: each batch row equals that row alone.

    `observation` has leaves [T, B, ...] as the agent reads them; if not given, it is drawn from the agent's observation
    space, [num_steps, batch_size, ...]. Each law is tried under resets that come never, at the start, periodically, at
    random and at every step, from a state with a history. Of a head that returns a distribution, the log-probabilities
    of some drawn actions are compared; of one that acts by action values, the values. The proof runs on a copy in
    evaluation mode, in float64 if the agent can: the agent itself and the global random state stay as they were.
    `seqrl.testing.check_memory` proves more of the memory.

    `tolerance` is relative to one plus the largest entry: 1e-8 in float64 and 1e-4 otherwise, if not given.
    Raises AssertionError, with the law, the indices and the two values, at the first difference.
    """
    devices = {p.device for p in agent.parameters()}
    with torch.random.fork_rng(devices=[d for d in devices if d.type == "cuda"]), torch.no_grad():
        torch.manual_seed(seed)
        bench = _Bench.build(agent, observation, num_steps, batch_size, seed, tolerance)
        for law in (_check_acting, _check_reset, _check_first_rows, _check_independence):
            for resets, is_first in _reset_patterns(bench):
                law(bench, bench.inputs._replace(is_first=is_first.to(bench.agent.device)), f" with resets {resets}")


@dataclass
class _Bench:
    """The copy under test, what it reads, and the actions whose probabilities are compared, by head."""

    agent: Agent
    inputs: AgentInput
    others: AgentInput
    state: State
    actions: dict[str, list[Tensor]]
    tolerance: float

    @classmethod
    def build(
        cls, agent: Agent, observation: Tree | None, num_steps: int, batch_size: int, seed: int, tolerance: float | None
    ) -> "_Bench":
        agent = copy.deepcopy(agent).eval()
        agent.reset()
        for index, space in enumerate((agent.observation_space, agent.action_space)):
            space.seed(seed + index)
        if observation is not None:
            num_steps, batch_size = next(iter(tree_flatten(observation).values())).shape[:2]

        def draw(dtype: torch.dtype) -> AgentInput:
            shape = (num_steps, batch_size)
            return AgentInput(
                _draw(agent.observation_space, shape, agent.device) if observation is None else observation,
                pack(_draw(agent.action_space, shape, agent.device), agent.action_space),
                torch.randn(shape, dtype=dtype).to(agent.device),
                torch.zeros(shape, dtype=torch.bool, device=agent.device),
            )

        def with_history(model: Agent, dtype: torch.dtype) -> tuple[dict[str, Any], State]:
            history = draw(dtype)
            history.is_first[num_steps // 2, 0] = True  # so that the histories differ in length
            return model.unroll(history, model.initial_state(batch_size))

        like = next(agent.parameters()).dtype
        try:
            dtype, model = torch.float64, copy.deepcopy(agent).double()
            outputs, state = with_history(model, dtype)
        except (RuntimeError, TypeError):
            dtype, model = like, agent
            outputs, state = with_history(model, dtype)
        actions = {
            name: [output.sample() for _ in range(4)]
            for name, output in outputs.items()
            if hasattr(output, "log_prob") and not isinstance(output, EpsilonGreedy)
        }
        tolerance = tolerance or (1e-8 if dtype == torch.float64 else 1e-4)
        return cls(model, draw(dtype), draw(dtype), state, actions, tolerance)

    def unroll(self, inputs: AgentInput, state: State, start: int = 0, rows: slice = slice(None)) -> "_Result":
        """`inputs` are the steps from `start` on of the batch rows `rows`."""
        steps = slice(start, start + len(inputs.is_first))
        return self._numbers(*self.agent.unroll(inputs, state), steps, rows)

    def step(self, inputs: AgentInput, state: State, t: int) -> "_Result":
        return self._numbers(*self.agent.step(inputs, state), slice(t, t + 1), slice(None))

    def _numbers(self, outputs: dict[str, Any], state: State, steps: slice, rows: slice) -> "_Result":
        numbers: dict[str, Tensor] = {}
        for name, output in outputs.items():
            if name in self.actions:
                numbers |= {
                    f"{name}.log_prob.{i}": output.log_prob(a[steps, rows]) for i, a in enumerate(self.actions[name])
                }
            elif isinstance(output, EpsilonGreedy):  # its log-probabilities are −∞ but for the greedy action's
                forbidden = output.values == torch.finfo(output.values.dtype).min
                numbers[f"{name}.values"] = output.values.masked_fill(forbidden, 0.0)
            else:
                numbers |= tree_flatten(output, name)
        return _Result(numbers, state)

    def equal(self, law: str, name: str, actual: Tree, expected: Tree, why: str) -> None:
        found = tree_flatten(actual)
        for path, leaf in tree_flatten(expected).items():
            require_equal(law, f"{name} {path}".strip(), found[path], leaf, self.tolerance, why)


@dataclass
class _Result:
    """Numbers [T, B, ...] that say what each head said, and the memory's state afterwards."""

    numbers: dict[str, Tensor]
    state: State


def _reset_patterns(bench: _Bench) -> Iterator[tuple[str, Tensor]]:
    T, B = bench.inputs.is_first.shape
    t, b = torch.arange(T)[:, None], torch.arange(B)
    yield "never", torch.zeros(T, B).bool()
    yield "at t = 0", (t == 0).expand(T, B)
    yield "every 4 steps", (t + b) % 4 == 0
    yield "at random", torch.rand(T, B) < 0.3
    yield "at every step", torch.ones(T, B).bool()


def _check_acting(bench: _Bench, inputs: AgentInput, resets: str) -> None:
    whole, state = bench.unroll(inputs, bench.state), bench.state
    for t in range(len(inputs.is_first)):
        one = bench.step(tree_map(lambda leaf, t=t: leaf[t], inputs), state, t)
        expected = {name: leaf[t : t + 1] for name, leaf in whole.numbers.items()}
        bench.equal("acting", "output", one.numbers, expected, f"in one unroll, at t = {t}{resets}")
        state = one.state
    bench.equal("acting", "the state", state, whole.state, f"after one unroll{resets}")


def _check_reset(bench: _Bench, inputs: AgentInput, resets: str) -> None:
    whole = bench.unroll(inputs, bench.state)
    for t in inputs.is_first.any(1).nonzero().flatten().tolist():
        rows = inputs.is_first[t]
        fresh = bench.unroll(
            tree_map(lambda leaf, t=t: leaf[t:], inputs), bench.agent.initial_state(len(rows)), start=t
        )
        found = {name: leaf[t:, rows] for name, leaf in whole.numbers.items()}
        expected = {name: leaf[:, rows] for name, leaf in fresh.numbers.items()}
        bench.equal("reset", "output", found, expected, f"after a fresh start at t = {t}{resets}")


def _check_first_rows(bench: _Bench, inputs: AgentInput, resets: str) -> None:
    expected = bench.unroll(inputs, bench.state).numbers
    for name in ("previous_action", "previous_reward"):
        old, new = getattr(inputs, name), getattr(bench.others, name)
        first = inputs.is_first.view(*inputs.is_first.shape, *[1] * (old.ndim - 2))
        found = bench.unroll(inputs._replace(**{name: torch.where(first, new, old)}), bench.state)
        bench.equal("first rows", "output", found.numbers, expected, f"before {name} changed at is_first{resets}")


def _check_independence(bench: _Bench, inputs: AgentInput, resets: str) -> None:
    whole = bench.unroll(inputs, bench.state)
    for b in range(inputs.is_first.shape[1]):
        row = slice(b, b + 1)
        start = tree_map(lambda leaf, row=row: leaf[row], bench.state)
        alone = bench.unroll(tree_map(lambda leaf, row=row: leaf[:, row], inputs), start, rows=row)
        why = f"when row {b} is alone{resets}"
        found = {name: leaf[:, row] for name, leaf in whole.numbers.items()}
        bench.equal("independence", "output", found, alone.numbers, why)
        state = tree_map(lambda leaf, row=row: leaf[row], whole.state)
        bench.equal("independence", "the state", state, alone.state, why)


def _draw(space: gym.Space, shape: tuple[int, int], device: torch.device) -> Tree:
    """Leaves [T, B, ...] drawn from `space`, as an agent reads them: discrete values count from 0."""
    if isinstance(space, gym.spaces.Dict):
        return {key: _draw(child, shape, device) for key, child in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(_draw(child, shape, device) for child in space.spaces)
    values = np.stack([np.asarray(space.sample()) for _ in range(shape[0] * shape[1])])
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        values = values - space.start
    elif isinstance(space, gym.spaces.MultiBinary):
        values = values.astype(bool)
    elif np.issubdtype(values.dtype, np.floating):
        values = values.clip(-1e3, 1e3)  # many a space is bounded by the largest float
    return torch.as_tensor(values, device=device).unflatten(0, shape)
