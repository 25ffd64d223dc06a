"""Logged episodes of policies that play: trained agents, random actions, or a function written for the purpose."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Generator, Tensor

from seqrl.acting import Policy
from seqrl.actions import choices, is_mixed, nothing_done, parts
from seqrl.data.episodes import Episode
from seqrl.envs import Environment
from seqrl.errors import UserError
from seqrl.evaluate import equal_shares
from seqrl.progress import progress_bar
from seqrl.seeds import derived_seed
from seqrl.trajectory import AgentInput, Tree, action_mask, tree_leaves, tree_map


class Scripted:
    """A function of the current row as a `Policy`: `choose(inputs, generator)` gives actions [B, *action shape].

    Discrete actions count from 0, as everywhere in tensors; Box actions are in the space's own units. It is to draw
    from `generator` and from nothing else; where the likeliest action is asked for, it gets one that always begins the
    same. `inputs` is an `AgentInput` with leaves [B, ...].
    """

    device = torch.device("cpu")

    def __init__(self, action_space: gym.Space, choose: Callable[[AgentInput, Generator], Tensor]):
        self.action_space, self.choose = action_space, choose

    def initial_input(self, observation: Tree) -> AgentInput:
        batch_size = next(tree_leaves(observation)).shape[0]
        action = nothing_done(self.action_space, batch_size)
        return AgentInput(observation, action, torch.zeros(batch_size), torch.ones(batch_size, dtype=torch.bool))

    def initial_state(self, batch_size: int) -> Generator:
        return Generator().manual_seed(0)

    def step(self, inputs: AgentInput, state: Generator) -> tuple[dict[str, Any], Generator]:
        return {"policy": _Choice(self.choose, inputs, state)}, state

    def environment_action(self, distribution: Any, raw: Tensor) -> Tensor:
        return raw


class _Choice:
    def __init__(self, choose: Callable[[AgentInput, Generator], Tensor], inputs: AgentInput, state: Generator):
        self.choose, self.inputs, self.state = choose, inputs, state

    def sample(self, generator: Generator) -> Tensor:
        return self.choose(self.inputs, generator).unsqueeze(0)

    def mode(self) -> Tensor:
        return self.sample(self.state)


def random_policy(action_space: gym.Space) -> Scripted:
    """Uniformly random actions, of those that the observation's `action_mask` allows."""
    return Scripted(
        action_space,
        lambda inputs, generator: random_actions(
            action_space, len(inputs.is_first), generator, action_mask(inputs.observation)
        ),
    )


def random_actions(space: gym.Space, batch_size: int, generator: Generator, allowed: Tensor | None = None) -> Tensor:
    """Actions [B, *action shape], all allowed ones equally likely; discrete ones count from 0.

    `allowed` (bool) is [B, n] for a Discrete space, [B, Σ n_i] for MultiDiscrete ones, [B, 2 n] for MultiBinary ones;
    for mixed ones, those of the leaves side by side. A bounded entry of a Box is uniform; one with a single bound is
    that bound ± Exp(1), one without is N(0, 1), as Gymnasium draws them. Raises UserError for other spaces.
    """
    device = generator.device
    if is_mixed(space):
        return _random_parts(space, batch_size, generator, allowed)
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return _random_box(space, batch_size, generator)
    sizes = list(choices(space).values())
    if not sizes:
        raise UserError(f"no random actions of {space}: use Discrete, MultiDiscrete, MultiBinary or a Box of floats")
    draws = torch.rand(batch_size, sum(sizes), generator=generator, device=device)
    if allowed is not None:
        draws = draws.masked_fill(~allowed.to(device), -1.0)  # the largest draw wins, and a forbidden one never does
    action = torch.stack([part.argmax(-1) for part in draws.split(sizes, -1)], -1)
    return action.reshape(batch_size, *(space.shape or ()))


def _random_parts(space: gym.Space, batch_size: int, generator: Generator, allowed: Tensor | None) -> Tensor:
    drawn, start = [], 0
    for part in parts(space):
        end = start + sum(choices(part.space).values())
        mask = None if allowed is None or end == start else allowed[:, start:end]
        drawn.append(random_actions(part.space, batch_size, generator, mask).reshape(batch_size, -1).float())
        start = end
    return torch.cat(drawn, -1)


def _random_box(space: gym.spaces.Box, batch_size: int, generator: Generator) -> Tensor:
    device, shape = generator.device, (batch_size, *space.shape)
    low, high = (torch.as_tensor(bound, dtype=torch.float32, device=device) for bound in (space.low, space.high))
    uniform = torch.rand(shape, generator=generator, device=device)
    above = torch.empty(shape, device=device).exponential_(generator=generator)
    action = torch.randn(shape, generator=generator, device=device)
    action = torch.where(low.isfinite(), low + above, action)
    action = torch.where(high.isfinite(), high - above, action)
    both = low.isfinite() & high.isfinite()
    inside = torch.where(both, low, 0.0) + uniform * torch.where(both, high - low, 0.0)
    return torch.where(both, inside.clamp(low, high), action)  # rounding may lead out of the box


def collect(
    policy: Policy,
    environment: Environment,
    num_episodes: int,
    seed: int = 0,
    *,
    sample: bool = True,
    epsilon: float = 0.0,
    random_share: float = 0.0,
) -> Iterator[Episode]:
    """Play `num_episodes` whole episodes and give each as it ends.

    Actions are drawn from the policy, or with `sample` False its likeliest. `random_share` of the episodes, drawn by
    `seed`, are played by uniformly random actions; in the others each action is random with the chance `epsilon`.

    Each environment gives its first episodes, as many as every other (one more for some), as in `evaluate`: taking
    whichever end first would favour the short ones. Which episodes come does not depend on how long they are, but
    their order does: an iterator that is left early has given more of the short ones.

    Raises UserError for numbers outside their range, from this call and not from the first episode.
    """
    for name, value in (("random_share", random_share), ("epsilon", epsilon)):
        if not 0.0 <= value <= 1.0:
            raise UserError(f"--{name.replace('_', '-')} is {value}: give a number from 0 to 1")
    if num_episodes < 1:
        raise UserError(f"--num-episodes is {num_episodes}: it must be at least 1")
    return _play(policy, environment, num_episodes, seed, sample, epsilon, random_share)


@torch.no_grad()
def _play(
    policy: Policy, environment: Environment, num_episodes: int, seed: int, sample: bool, epsilon: float, share: float
) -> Iterator[Episode]:
    batch_size, space = environment.num_envs, environment.single_action_space
    wanted = equal_shares(num_episodes, batch_size)
    random_episodes = _random_episodes(wanted, share, seed)
    mixed = epsilon > 0 or share > 0
    generator = Generator(policy.device).manual_seed(derived_seed(seed, 2))
    chance = Generator(policy.device).manual_seed(derived_seed(seed, 1))  # so that ε = 0 draws as if there were no ε
    given = np.zeros(batch_size, dtype=np.int64)
    step = environment.reset(seed)
    inputs, state = policy.initial_input(step.observation), policy.initial_state(batch_size)
    rows = _Rows(batch_size)
    while (given < wanted).any():
        outputs, state = policy.step(inputs, state)
        distribution = outputs["policy"]
        raw = distribution.sample(generator) if sample else distribution.mode()
        action = policy.environment_action(distribution, raw[0])
        if mixed:
            at_random = torch.as_tensor(random_episodes[np.arange(batch_size), given], device=policy.device)
            at_random = at_random | (torch.rand(batch_size, generator=chance, device=policy.device) < epsilon)
            other = random_actions(space, batch_size, chance, action_mask(inputs.observation))
            at_random = at_random.view(-1, *[1] * (action.ndim - 1))
            action = torch.where(at_random, other.to(action.dtype), action)
        step = environment.step(action)
        rows.append(_numpy(inputs.observation), _numpy(action), step.reward.cpu().numpy())
        for index in (step.terminated | step.truncated).nonzero().flatten().tolist():
            if given[index] < wanted[index]:
                final = step.observation if step.final_observation is None else step.final_observation
                last = tree_map(lambda leaf, b=index: leaf[b].cpu().numpy(), final)
                yield rows.episode(index, last, bool(step.terminated[index]), bool(step.truncated[index]))
            given[index] += given[index] < wanted[index]
        rows.begin(step.is_first.cpu().numpy() | (given >= wanted))
        inputs = AgentInput.following(step, action)


class _Rows:
    """The rows of the episodes that are going on: lists of [B, ...], and where each environment's episode begins."""

    def __init__(self, batch_size: int):
        self.rows: list[tuple[Tree, np.ndarray, np.ndarray]] = []
        self.start = np.zeros(batch_size, dtype=np.int64)

    def append(self, observation: Tree, action: np.ndarray, reward: np.ndarray) -> None:
        self.rows.append((observation, action, reward))

    def begin(self, is_first: np.ndarray) -> None:
        """The next row is the first of these environments' episodes [B]; rows of no episode any more are forgotten."""
        self.start[is_first] = len(self.rows)
        past = int(self.start.min())
        if past > len(self.rows) // 2:  # seldom, so that moving the rest costs next to nothing
            del self.rows[:past]
            self.start -= past

    def episode(self, index: int, last: Tree, terminated: bool, truncated: bool) -> Episode:
        """The episode of one environment, up to the newest row; `last` is its final observation."""
        rows = self.rows[self.start[index] :]
        observations = [tree_map(lambda leaf: leaf[index], observation) for observation, _, _ in rows]
        observation = tree_map(lambda *leaves: np.stack(leaves), *observations, last)
        action, reward = (np.stack([row[k][index] for row in rows]) for k in (1, 2))
        return Episode(observation, action, reward, terminated, truncated)


def _random_episodes(wanted: np.ndarray, share: float, seed: int) -> np.ndarray:
    """[B, most wanted + 1] bool: which episode of which environment is random; those beyond the wanted are not."""
    is_random = np.zeros((len(wanted), int(wanted.max()) + 1), dtype=bool)
    index, episode = np.nonzero(np.arange(is_random.shape[1]) < wanted[:, None])
    # With `seed` itself they would be the very episodes that `EpisodeDataset.split` holds out by it.
    order = np.random.default_rng(derived_seed(seed, 3)).permutation(len(index))[: round(share * len(index))]
    is_random[index[order], episode[order]] = True
    return is_random


def _numpy(tree: Tree) -> Tree:
    return tree_map(lambda leaf: leaf.cpu().numpy(), tree)


def watched(episodes: Iterable[Episode], num_episodes: int, label: str) -> Iterator[Episode]:
    """The same episodes, with a progress bar on standard error."""
    with progress_bar() as progress:
        task = progress.add_task(label, total=num_episodes, episode_return=None, steps_per_second=0.0)
        begin, num_steps, mean = time.monotonic(), 0, 0.0
        for k, episode in enumerate(episodes, 1):
            num_steps += len(episode.reward)
            mean += (float(episode.reward.sum(dtype=np.float64)) - mean) / k
            rate = num_steps / max(time.monotonic() - begin, 1e-9)
            progress.update(task, completed=k, episode_return=mean, steps_per_second=rate)
            yield episode
