"""How well a policy does inside a trial, inner episode by inner episode, its weights at rest."""

import numpy as np
import torch

from seqrl.collect import Policy
from seqrl.envs import Environment
from seqrl.envs.trials import EPISODE_START
from seqrl.errors import UserError
from seqrl.trajectory import AgentInput


@torch.no_grad()
def trial_returns(
    policy: Policy, environment: Environment, num_trials: int, seed: int = 0, sample: bool = True
) -> np.ndarray:
    """The return of each inner episode of `num_trials` whole trials, float64 [num_trials, inner episodes].

    Each environment gives its first trials, as many as every other (one more for some), as in `evaluate`. The same
    `seed` gives every policy the same tasks, in trials of a fixed length. Trials with fewer inner episodes than others
    are filled up with NaN.

    Raises UserError for fewer than one trial, and for an environment whose observations tell of no inner episodes.
    """
    if num_trials < 1:
        raise UserError(f"--num-trials is {num_trials}: it must be at least 1")
    step = environment.reset(seed)
    if not (isinstance(step.observation, dict) and EPISODE_START in step.observation):
        raise UserError(f"the observation has no '{EPISODE_START}': give an environment of trials (seqrl envs)")
    batch_size = environment.num_envs
    wanted = np.full(batch_size, num_trials // batch_size) + (np.arange(batch_size) < num_trials % batch_size)
    generator = torch.Generator(policy.device).manual_seed(seed)
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
