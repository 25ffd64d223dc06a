"""How well a policy does inside a trial, inner episode by inner episode, its weights at rest."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from seqrl.acting import ActingModule, Policy
from seqrl.envs import Environment
from seqrl.envs.trials import EPISODE_START
from seqrl.errors import UserError
from seqrl.evaluate import equal_shares
from seqrl.seeds import derived_seed
from seqrl.statistics import mean_and_half_width
from seqrl.trajectory import AgentInput

AGENT = "agent"
"""The name of who adapts, among the policies of an `Adaptation`."""
OPTIMAL = "optimal"
"""The name of the reference that knows the task: regret and shares are taken against it."""
RANDOM = "random"
"""The name of the reference that acts at random."""

Watch = Callable[[str, int, float, int], None]
"""Told after each step: who plays, how many inner episodes began there, what all rewards sum to, and how many rows."""


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What an agent and its references brought in the same trials, inner episode by inner episode."""

    returns: dict[str, np.ndarray]
    """By policy, the agent first: float64 [trials, inner episodes]. Row i is of the same task for all policies."""
    digest: str
    """Of the agent's weights, before and after."""

    @property
    def num_trials(self) -> int:
        return len(self.returns[AGENT])

    @property
    def num_episodes(self) -> int:
        """Inner episodes of the longest trial."""
        return self.returns[AGENT].shape[1]

    @property
    def num_last(self) -> int:
        """How many inner episodes the last tenth of a trial is: at least one."""
        return max(1, round(self.num_episodes / 10))

    def total(self, name: str) -> np.ndarray:
        """[trials]: what each trial brought."""
        return np.nansum(self.returns[name], 1)

    def first(self, name: str) -> np.ndarray:
        """[trials]: what each first inner episode brought."""
        return self.returns[name][:, 0]

    def last(self, name: str) -> np.ndarray:
        """[trials]: the mean of each trial's last `num_last` inner episodes, of those that it has."""
        return np.array([row[~np.isnan(row)][-self.num_last :].mean() for row in self.returns[name]])

    def gain(self) -> tuple[float, float]:
        """How much more the agent's last inner episodes bring than the first: mean and half its 95 % interval."""
        return mean_and_half_width((self.last(AGENT) - self.first(AGENT)).tolist())

    def difference(self, one: str, other: str) -> tuple[float, float]:
        """How much more a trial brings `one` than `other`: mean and half its 95 % interval, paired by task."""
        return mean_and_half_width((self.total(one) - self.total(other)).tolist())

    def regret(self, name: str) -> tuple[float, float] | None:
        """What a trial brings less than it brings who knows the task; None where nobody does."""
        return self.difference(OPTIMAL, name) if OPTIMAL in self.returns else None

    def regret_curve(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """The same up to and with each inner episode, [inner episodes] each, the last as in `regret`."""
        if OPTIMAL not in self.returns:
            return None
        most = max(self.returns[each].shape[1] for each in (OPTIMAL, name))
        best, mine = (
            np.pad(np.nan_to_num(self.returns[each]), ((0, 0), (0, most - self.returns[each].shape[1]))).cumsum(1)
            for each in (OPTIMAL, name)
        )
        mean, half_width = np.array([mean_and_half_width(column) for column in (best - mine).T.tolist()]).T
        return mean, half_width

    def share_of_optimal(self, name: str) -> float | None:
        """The return of all trials over that of who knows the tasks; None where nobody does, or either is negative."""
        if OPTIMAL not in self.returns:
            return None
        mine, best = float(self.total(name).mean()), float(self.total(OPTIMAL).mean())
        return mine / best if best > 0 and mine >= 0 else None

    def curve(self, name: str, width: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The mean return by inner episode and half its 95 % interval over trials, [inner episodes] each.

        Of each trial's running means over `width` inner episodes where that is above 1, so that the interval is theirs.
        """
        columns = running_mean(self.returns[name], width).T
        pairs = [mean_and_half_width(column[~np.isnan(column)].tolist()) for column in columns]
        mean, half_width = np.array(pairs).T
        return mean, half_width


def adapt(
    agent: ActingModule,
    environment: Environment,
    num_trials: int = 200,
    seed: int = 10_000,
    sample: bool = True,
    references: Mapping[str, Policy] | None = None,
    watch: Watch | None = None,
) -> Adaptation:
    """Play `num_trials` trials with `agent`, its weights frozen, and the same trials with each of `references`.

    Policies take turns on `environment`, which begins anew with the same seed for each; the references may read its
    state, as oracles do (`seqrl.references.references_for(environment)` gives all that are known). More trials than
    environments are played in rounds with seeds of their own, so that the tasks are the same however long trials last.
    `sample` draws the agent's actions, else the likeliest is taken; references always draw.

    Raises UserError for fewer than one trial, an environment without trials, and an agent whose weights changed.
    """
    if num_trials < 1:
        raise UserError(f"--num-trials is {num_trials}: it must be at least 1")
    before = weights_digest(agent)
    returns = {AGENT: _rounds(agent, environment, num_trials, seed, sample, AGENT, watch)}
    after = weights_digest(agent)
    if after != before:
        raise UserError(
            f"the agent's weights changed while it played (sha256 {before} → {after}), so this is no learning in "
            "context: call agent.eval() first, and find what writes to its parameters or buffers"
        )
    for name, policy in (references or {}).items():
        assert name not in returns, f"two policies are called {name}"
        returns[name] = _rounds(policy, environment, num_trials, seed, True, name, watch)
    return Adaptation(returns=returns, digest=before)


def weights_digest(module: nn.Module) -> str:
    """The first 16 hexadecimal digits of sha256 over all that a checkpoint keeps of `module`: its parameters and
    persistent buffers, each with name, type, shape and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def running_mean(returns: np.ndarray, width: int) -> np.ndarray:
    """Each entry of [trials, inner episodes] as the mean of the `width` (odd) around it, or of those that there are."""
    assert width % 2 == 1, "a window has a middle"
    known = ~np.isnan(returns)
    place = np.arange(returns.shape[1])
    start, stop = np.maximum(place - width // 2, 0), np.minimum(place + width // 2 + 1, len(place))

    def window_sums(values: np.ndarray) -> np.ndarray:
        until = np.pad(values.cumsum(1), ((0, 0), (1, 0)))
        return until[:, stop] - until[:, start]

    means = window_sums(np.where(known, returns, 0.0)) / np.maximum(window_sums(known.astype(np.float64)), 1)
    return np.where(known, means, np.nan)


def _rounds(
    policy: Policy, environment: Environment, num_trials: int, seed: int, sample: bool, name: str, watch: Watch | None
) -> np.ndarray:
    """`trial_returns` in rounds of one trial for each environment, each with its own seed."""
    told = None if watch is None else partial(watch, name)
    rounds: list[np.ndarray] = []
    for start in range(0, num_trials, environment.num_envs):
        number = min(environment.num_envs, num_trials - start)
        round_seed = derived_seed(seed, len(rounds) + 1)
        rounds.append(trial_returns(policy, environment, number, round_seed, sample, told))
    longest = max(part.shape[1] for part in rounds)
    padded = [np.pad(part, ((0, 0), (0, longest - part.shape[1])), constant_values=np.nan) for part in rounds]
    return np.concatenate(padded)


@torch.no_grad()
def trial_returns(
    policy: Policy,
    environment: Environment,
    num_trials: int,
    seed: int = 0,
    sample: bool = True,
    watch: Callable[[int, float, int], None] | None = None,
) -> np.ndarray:
    """The return of each inner episode of `num_trials` whole trials, float64 [num_trials, inner episodes].

    Each environment gives its first trials, as many as every other (one more for some), as in `evaluate`. The same
    `seed` gives every policy the same tasks, in trials of a fixed length. Trials with fewer inner episodes than others
    are filled up with NaN. `watch` is told after each step how many inner episodes began there, the rewards' sum,
    and the number of environments.

    Raises UserError for fewer than one trial, and for an environment whose observations tell of no inner episodes.
    """
    if num_trials < 1:
        raise UserError(f"--num-trials is {num_trials}: it must be at least 1")
    step = environment.reset(seed)
    if not (isinstance(step.observation, dict) and EPISODE_START in step.observation):
        raise UserError(f"the observation has no '{EPISODE_START}': give an environment of trials (seqrl envs)")
    batch_size = environment.num_envs
    wanted = equal_shares(num_trials, batch_size)
    # With the environments' own seed, the first actions would be drawn by the very numbers that the tasks are made of.
    generator = torch.Generator(policy.device).manual_seed(derived_seed(seed, 0))
    inputs, state, ended = (
        policy.initial_input(step.observation),
        policy.initial_state(batch_size),
        np.zeros(batch_size),
    )
    rewards, starts, firsts = [], [], []
    while (ended < wanted).any():
        starts.append(step.observation[EPISODE_START].bool() & step.mask)
        firsts.append(inputs.is_first)
        outputs, state = policy.step(inputs, state)
        distribution = outputs["policy"]
        raw = distribution.sample(generator) if sample else distribution.mode()
        action = policy.environment_action(distribution, raw[0])
        step = environment.step(action)
        rewards.append(step.reward)
        ended += (step.terminated | step.truncated).cpu().numpy()
        inputs = AgentInput.following(step, action)
        if watch is not None:
            watch(int(starts[-1].sum()), float(step.reward.sum()), batch_size)
    arrays = (torch.stack(rows).cpu().numpy() for rows in (rewards, starts, firsts))
    columns = zip(*(array.T for array in arrays), wanted, strict=True)
    trials = [trial for reward, start, first, want in columns for trial in _trials(reward, start, first)[:want]]
    result = np.full((len(trials), max(map(len, trials))), np.nan)
    for row, trial in zip(result, trials, strict=True):
        row[: len(trial)] = trial
    return result


def _trials(reward: np.ndarray, start: np.ndarray, first: np.ndarray) -> list[np.ndarray]:
    """One environment's inner returns, a trial an entry. The masked row behind a trial belongs to its last inner
    episode, where it adds nothing: its reward is 0."""
    rows = np.flatnonzero(start)
    returns = np.add.reduceat(reward.astype(np.float64), rows)
    return np.split(returns, np.searchsorted(rows, np.flatnonzero(first)[1:]))
