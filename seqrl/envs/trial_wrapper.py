"""Trials of any Gymnasium environment: a few of its episodes, in one drawn task, as one long episode."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs, seeding

from seqrl.envs.base import require_at_least
from seqrl.envs.trials import EPISODE_START
from seqrl.errors import UserError
from seqrl.trajectory import ACTION_MASK

DrawTask = Callable[[gym.Env, np.random.Generator], dict[str, Any] | gym.Env | None]
"""Draws a trial's task: changes the environment, or returns options for its resets, or another environment."""


class Trials(gym.Wrapper, RecordConstructorArgs):
    """`num_episodes` inner episodes of `env` in one task, drawn anew for each trial, are one episode.

    `draw_task(env, np_random)` is called when a trial begins, and draws from `np_random` alone. It makes the task in
    whichever of three ways suits the environment:

    - it *sets attributes* of `env.unwrapped`, such as masses or lengths, and returns None. It must set what it sets in
      every trial, and to values of its own: what the trial before left is still there;
    - it returns a dict of *options*, which every reset of the trial is given: `env.reset(options=...)`;
    - it returns *another environment* with the same spaces, made with the task's arguments or one of several that are
      kept: the trial is played in it. It remains `draw_task`'s to close, if it needs closing.

    Without `draw_task`, a task is a *seed*: every inner episode is reset with the same one, so that what the
    environment draws when it is reset, such as a maze's walls and the start, stays for the trial, and with it all later
    draws.

    In half of these trials both actions of CartPole push the wrong way, which is to be found out:

    >>> def backwards(env, np_random):
    ...     env.unwrapped.force_mag = np_random.choice([-10.0, 10.0])
    >>> trials = Trials(gym.make("CartPole-v1"), num_episodes=5, draw_task=backwards)

    With an id, every command, `make` and `gym.make_vec` know it (`seqrl train ppo --env my_module:Backwards-v0`):

    >>> gym.register("Backwards-v0", lambda: Trials(gym.make("CartPole-v1"), 5, backwards))

    Observation: {"observation": `env`'s own, "episode_start": Discrete(2)}; an action mask in a Dict observation moves
    up beside the two. The step that ends an inner episode, by either flag, already shows the first observation (and the
    info) of the next, with `episode_start` 1, so no row is without a decision. Rewards are `env`'s. End: `terminated`
    with the last inner episode's end, whose final observation is shown. An inner episode that does not end by itself
    needs a time limit inside: `gym.make(..., max_episode_steps=...)`.

    `reset(seed=...)` fixes all trials that follow, and the draws of `env` too; `options` join those of the task.

    Raises: UserError for an `env` that is not a single environment, num_episodes below 1, a `draw_task` that returns
    anything else or an environment with other spaces, and for a step before the reset or after the trial's end.
    Source: Duan et al. 2016 (RL², arXiv 1611.02779), section 2.2.
    """

    def __init__(self, env: gym.Env, num_episodes: int, draw_task: DrawTask | None = None) -> None:
        if not isinstance(env, gym.Env):
            raise UserError(
                f"Trials of {type(env).__name__}: give a single gymnasium.Env, and put trials into a vector"
            )
        require_at_least(1, num_episodes=num_episodes)
        if draw_task is not None and not callable(draw_task):
            raise UserError(f"draw_task={draw_task!r}: give a function of (env, np_random)")
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, num_episodes=num_episodes, draw_task=draw_task)
        gym.Wrapper.__init__(self, env)
        self.num_episodes = num_episodes
        parts: dict[str, spaces.Space] = {"observation": env.observation_space, EPISODE_START: spaces.Discrete(2)}
        self._has_mask = False
        if isinstance(env.observation_space, spaces.Dict) and ACTION_MASK in env.observation_space.spaces:
            self._has_mask = True
            own = dict(env.observation_space.items())
            parts |= {ACTION_MASK: own.pop(ACTION_MASK), "observation": spaces.Dict(own)}
        self.observation_space = spaces.Dict(parts)
        self._draw_task = draw_task
        self._random: np.random.Generator | None = None
        self._seed = 0
        self._options: dict[str, Any] | None = None
        self._episode = num_episodes  # of the trial; all of them are over before the first reset

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin a trial. With `seed`, the draws start anew from it; without, they go on."""
        if seed is not None or self._random is None:
            self._random, _ = seeding.np_random(seed)
        self._options = options
        if self._draw_task is not None:
            self._enter(self._draw_task(self.env, self._random))
        self._seed = int(self._random.integers(2**31))
        self._episode = 0
        observation, info = self.env.reset(seed=self._seed, options=self._options)
        return self._observation(observation, start=True), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """As `gymnasium.Env.step`; `truncated` is always False."""
        if self._episode >= self.num_episodes:
            raise UserError("step() before the first trial or after a trial's end: call reset() first")
        observation, reward, terminated, truncated, info = self.env.step(action)
        ended = bool(terminated or truncated)
        self._episode += ended
        over = self._episode >= self.num_episodes
        again = ended and not over
        if again:
            seed = self._seed if self._draw_task is None else None
            observation, info = self.env.reset(seed=seed, options=self._options)
        return self._observation(observation, start=again), reward, over, False, info

    def _enter(self, task: dict[str, Any] | gym.Env | None) -> None:
        if isinstance(task, gym.Env):
            for name in ("observation_space", "action_space"):
                new, old = getattr(task, name), getattr(self.env, name)
                if new != old:
                    raise UserError(f"draw_task returned an environment with {name} {new}: it must be {old}, as before")
            self.env = task
        elif isinstance(task, dict):
            self._options = (self._options or {}) | task
        elif task is not None:
            raise UserError(
                f"draw_task returned {type(task).__name__}: return options (a dict), an environment or None"
            )

    def _observation(self, observation: Any, start: bool) -> dict[str, Any]:
        result = {"observation": observation, EPISODE_START: np.int64(start)}
        if self._has_mask:
            own = dict(observation)
            result |= {ACTION_MASK: own.pop(ACTION_MASK), "observation": own}
        return result
