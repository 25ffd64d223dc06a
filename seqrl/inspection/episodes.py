"""Episodes played to be looked at, step by step: what was seen, done, expected and earned, and what was remembered.

`seqrl.pages.inspector` makes a page of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from seqrl.acting import ActingModule
from seqrl.actions import is_mixed, names
from seqrl.actor_critic import ActorCritic
from seqrl.envs import Environment
from seqrl.envs.trials import EPISODE_START
from seqrl.errors import UserError
from seqrl.inspection.attribution import (
    AttentionRecorder,
    Weights,
    attends,
    encoded,
    linear_attention_weights,
    look_at,
    memory_of,
    occlusion,
    saliency,
    tokens_per_row,
    wanted_of,
)
from seqrl.memory.base import Memory
from seqrl.memory.linear_attention import LinearAttention
from seqrl.memory.reencoded import Reencoded
from seqrl.nets.distributions import Categorical, EpsilonGreedy, Gaussian, Mixed, MultiCategorical
from seqrl.seeds import derived_seed
from seqrl.trajectory import ACTION_MASK, AgentInput, Tree, tree_map, tree_stack

Average = dict[Memory, Tensor]
"""What each memory of an agent reads on average, [D]."""
LONGEST_DIFFERENTIATED = 600
"""Rows beyond which an attention memory's saliency and occlusion are left out: they grow with the square."""


@dataclass(frozen=True, kw_only=True)
class Recall:
    """One answer to what is remembered: at each row t, a weight for each row up to t (or the last of them)."""

    name: str
    about: str
    """What a weight is, in a sentence."""
    weights: Weights


@dataclass(frozen=True, kw_only=True)
class Episode:
    """T decisions, and the final observation after them: T + 1 rows."""

    seed: int
    observation: Tree
    """As the agent saw it: NumPy leaves [T + 1, ...]."""
    frames: list[np.ndarray]
    """What the environment draws at each of T + 1 rows, [H, W, 3] uint8; empty where it draws nothing."""
    action: np.ndarray
    """[T, ...], as the environment took it; discrete ones count from 0."""
    policy: dict[str, np.ndarray]
    """What the policy says at each of T + 1 rows: `probs` [T + 1, n] (of several parts, side by side, with `sizes`),
    or `values` [T + 1, n] of actions, or `mean` and `std` [T + 1, A]; `entropy` [T + 1]. Of a mixed action both kinds,
    and `choices` and `numbers`, the places in `action` of those with `probs` and of those with a `mean`."""
    value: np.ndarray | None
    """[T + 1], of rewards as they were learnt from, scaled or squashed; None for an agent without values. Of action
    values, the greatest."""
    asked: np.ndarray | None
    """[T + 1]: the return still asked for, of an agent that is asked for one."""
    reward: np.ndarray
    """[T], each caused by its row's action."""
    terminated: bool
    truncated: bool
    """Both False where the episode was cut short to be shown."""
    inner_starts: list[int]
    """Of a trial, the rows at which inner episodes begin; else none."""
    recalls: list[Recall] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """What the entries of a mixed action are called; else none."""

    @property
    def num_steps(self) -> int:
        return len(self.reward)


@dataclass
class _Rows:
    """What is gathered while an episode is played."""

    inputs: list[AgentInput] = field(default_factory=list)
    raw: list[Tensor] = field(default_factory=list)
    actions: list[Tensor] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    attention: list[list[np.ndarray]] = field(default_factory=list)
    """Of each row, by layer."""


def inspect(
    agent: ActingModule,
    environment: Environment,
    num_episodes: int = 3,
    seed: int = 0,
    *,
    sample: bool = False,
    max_steps: int = 1000,
) -> list[Episode]:
    """Play episodes and gather what is to be shown of them. `environment` is a single one; `sample` draws actions.

    An episode is cut after `max_steps` decisions. Raises UserError for fewer than one episode or step.
    """
    for flag, number in (("--num-episodes", num_episodes), ("--max-steps", max_steps)):
        if number < 1:
            raise UserError(f"{flag} is {number}: it must be at least 1")
    assert environment.num_envs == 1, "one episode after the other is played"
    if isinstance(agent, ActorCritic) and agent.privileged:  # its critic would need what nobody shows here
        agent = agent.actor
    generator = torch.Generator(agent.device).manual_seed(derived_seed(seed, 2))
    seeds = [seed + k for k in range(num_episodes)]
    played = [_play(agent, environment, each, generator if sample else None, max_steps) for each in seeds]
    memories = {memory_of(agent, head) for head in agent.heads}
    average = {memory: torch.cat([_encoded(agent, memory, rows) for rows, _ in played]).mean(0) for memory in memories}
    return [_episode(agent, rows, ended, s, average) for (rows, ended), s in zip(played, seeds, strict=True)]


def _encoded(agent: ActingModule, memory: Memory, rows: _Rows) -> Tensor:
    """What a memory of the agent's reads of an episode, [rows, D]."""
    look = look_at(agent, tree_stack(rows.inputs), lambda said: said["policy"].mode())
    return encoded(memory, look, len(rows.inputs))


@torch.no_grad()
def _play(
    agent: ActingModule, environment: Environment, seed: int, generator: torch.Generator | None, max_steps: int
) -> tuple[_Rows, tuple[bool, bool]]:
    """One episode, and whether it was terminated and truncated."""
    rows = _Rows()
    step = environment.reset(seed)
    inputs, state = agent.initial_input(step.observation), agent.initial_state(1)
    memory = memory_of(agent)
    while True:
        with AttentionRecorder() as recorder:
            outputs, state = agent.step(inputs, state)
        rows.attention.append(recorder.by_row(tokens_per_row(memory), len(rows.inputs) + 1))
        rows.inputs.append(inputs)
        rows.outputs.append(outputs)
        if hasattr(state, "return_to_go"):
            rows.asked.append(float(state.return_to_go[0]))
        if (frame := environment.render()) is not None:
            rows.frames.append(frame)
        ended = (bool(step.terminated[0]), bool(step.truncated[0]))
        if any(ended) or len(rows.rewards) == max_steps:
            return rows, ended
        policy = outputs["policy"]
        raw = policy.mode() if generator is None else policy.sample(generator)
        action = agent.environment_action(policy, raw[0])
        step = environment.step(action)
        rows.raw.append(raw[0])
        rows.actions.append(action)
        rows.rewards.append(float(step.reward[0]))
        observation = step.observation if step.final_observation is None else step.final_observation
        going_on = torch.zeros_like(step.is_first)  # a final observation still belongs to this episode
        inputs = AgentInput.following(step._replace(observation=observation, is_first=going_on), action)


def _episode(agent: ActingModule, rows: _Rows, ended: tuple[bool, bool], seed: int, average: Average) -> Episode:
    observation = tree_map(lambda leaf: leaf[:, 0].cpu().numpy(), tree_stack([row.observation for row in rows.inputs]))
    starts: list[int] = []
    if isinstance(observation, dict) and EPISODE_START in observation:
        starts = np.flatnonzero(observation[EPISODE_START].reshape(len(rows.inputs)) == 1).tolist()
    return Episode(
        seed=seed,
        observation=observation,
        frames=rows.frames,
        action=np.stack([action[0].cpu().numpy() for action in rows.actions]),
        policy=_policy_of(rows.outputs),
        value=_values_of(rows.outputs),
        asked=np.array(rows.asked) if rows.asked else None,
        reward=np.array(rows.rewards),
        terminated=ended[0],
        truncated=ended[1],
        inner_starts=starts,
        recalls=recalls_of(agent, rows, average),
        names=names(agent.action_space) if is_mixed(agent.action_space) else [],
    )


def _policy_of(outputs: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """What the policy says at each row, as numbers."""
    policies = [said["policy"] for said in outputs]
    entropy = _column([policy.entropy() for policy in policies])
    first = policies[0]
    if isinstance(first, Categorical):
        return {"probs": _column([policy.log_probs.exp() for policy in policies]), "entropy": entropy}
    if isinstance(first, MultiCategorical):
        return _probs([policy.parts for policy in policies]) | {"entropy": entropy}
    if isinstance(first, EpsilonGreedy):
        return {"values": _column([policy.values for policy in policies])}
    if isinstance(first, Mixed):
        return _parts_of(policies) | {"entropy": entropy}
    return _gaussian(policies) | {"entropy": entropy}


def _gaussian(policies: Sequence[Gaussian]) -> dict[str, np.ndarray]:
    return {
        "mean": _column([policy.to_environment(policy.mean) for policy in policies]),
        "std": _column([policy.log_std.exp().expand_as(policy.mean) for policy in policies]),
    }


def _parts_of(policies: Sequence[Mixed]) -> dict[str, np.ndarray]:
    """What the parts of a mixed action's policy say at each row, and the places of their numbers in it."""
    found: dict[str, list[np.ndarray]] = {}
    places = np.split(np.arange(sum(policies[0].sizes)), np.cumsum(policies[0].sizes)[:-1])
    for k, place in enumerate(places):
        own: list[Any] = [policy.parts[k] for policy in policies]
        if isinstance(own[0], Gaussian):
            said = _gaussian(own) | {"numbers": place}
        else:
            said = _probs([getattr(part, "parts", [part]) for part in own]) | {"choices": place}
        for name, values in said.items():
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(values, -1) for name, values in found.items()}


def _probs(policies: Sequence[Sequence[Categorical]]) -> dict[str, np.ndarray]:
    """Of each row the categoricals, side by side."""
    probs = [torch.cat([part.log_probs.exp() for part in parts], -1) for parts in policies]
    return {"probs": _column(probs), "sizes": np.array([part.log_probs.shape[-1] for part in policies[0]])}


def _values_of(outputs: Sequence[dict[str, Any]]) -> np.ndarray | None:
    if isinstance(outputs[0]["policy"], EpsilonGreedy):
        return _column([said["policy"].values.amax(-1) for said in outputs])
    return _column([said["value"] for said in outputs]) if isinstance(outputs[0].get("value"), Tensor) else None


def _column(leaves: Sequence[Tensor]) -> np.ndarray:
    """[rows, ...] of leaves [1, 1, ...]."""
    return torch.stack([leaf[0, 0] for leaf in leaves]).detach().double().cpu().numpy()


def recalls_of(agent: ActingModule, rows: _Rows, average: Average) -> list[Recall]:
    """All that can be said of what is remembered: attention where there is any, then occlusion and saliency."""
    memory, inputs = memory_of(agent), tree_stack(rows.inputs)
    if isinstance(memory, LinearAttention):
        about, layers = _OF_TABLES, linear_attention_weights(agent, inputs)
    else:
        about, layers = _OF_ATTENTION, [[*weights] for weights in zip(*rows.attention, strict=True)]
    of_actor = len(layers) // 2 if isinstance(agent, ActorCritic) else len(layers)
    names = [f"attention, layer {layer + 1}" for layer in range(of_actor)]
    names += [f"critic's {name}" for name in names[: len(layers) - of_actor]]
    found = [Recall(name=name, about=about, weights=weights) for name, weights in zip(names, layers, strict=True)]
    if isinstance(memory, Reencoded) or (attends(memory) and len(rows.inputs) > LONGEST_DIFFERENTIATED):
        return found
    # The final row has no action: as if its likeliest were taken.
    action = torch.stack([*rows.raw, rows.outputs[-1]["policy"].mode()[0]])
    by_effect, by_slope = [], []
    for name, wanted in wanted_of(rows.outputs[0], action).items():
        look, num_rows = look_at(agent, inputs, wanted), len(rows.inputs)
        memory = memory_of(agent, "value" if name == "value" else "policy")
        weights = occlusion(memory, look, num_rows, average[memory])
        by_effect.append(Recall(name=f"effect on {name}", about=_OF_OCCLUSION, weights=weights))
        weights = saliency(memory, look, num_rows)
        by_slope.append(Recall(name=f"gradient of {name}", about=_OF_SALIENCY, weights=weights))
    return found + by_effect + by_slope


_OF_ATTENTION = "How much of what this layer reads comes from each row, mean over its heads."
_OF_TABLES = (
    "How much of what this layer reads from its table was written at each row, mean over its heads; the rest is the "
    "prior's."
)
_OF_OCCLUSION = "How far it would move, had that row shown an average observation."
_OF_SALIENCY = (
    "How fast it moves with what was encoded at that row: ‖∂/∂x‖. Directions that no observation takes count too, so "
    "recent rows come out large whatever they show."
)


def leaves_of(space: gym.Space, observation: Tree, name: str = "") -> list[tuple[str, gym.Space, np.ndarray]]:
    """The parts of an observation by name, each with its space; the action mask apart."""
    if isinstance(space, gym.spaces.Dict):
        parts = [(key, space[key], observation[key]) for key in space.spaces if name or key != ACTION_MASK]
    elif isinstance(space, gym.spaces.Tuple):
        parts = [(str(k), child, observation[k]) for k, child in enumerate(space.spaces)]
    else:
        return [(name or "observation", space, observation)]
    return [leaf for key, child, part in parts for leaf in leaves_of(child, part, f"{name}.{key}" if name else key)]


def total_of(episode: Episode) -> float:
    """The episode's return."""
    return math.fsum(episode.reward.tolist())
