"""One copy of a batched environment as a plain `gymnasium.Env`: what `gym.make` returns for seqrl's ids."""

from typing import Any

import gymnasium
import numpy as np
import torch

from seqrl.actions import is_mixed
from seqrl.envs.base import TorchVectorEnv
from seqrl.errors import UserError
from seqrl.trajectory import Tree, tree_map


class SingleEnv(gymnasium.Env):
    """A batch of one of `env_class`, with NumPy arrays in and out and no autoreset.

    It sets no time limit of its own, as Gymnasium's environments do not: `gym.make` wraps it in `TimeLimit`. `kwargs`
    go to `env_class`. Raises UserError for a step after the episode's end.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, env_class: type[TorchVectorEnv], **kwargs: Any) -> None:
        self.batch = env_class(**{"num_envs": 1, "max_episode_steps": None} | kwargs)
        self.observation_space = self.batch.single_observation_space
        self.action_space = self.batch.single_action_space
        self._ended = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tree, dict[str, Any]]:
        """As `gymnasium.Env.reset`. With `seed`, the draws start anew from it."""
        super().reset(seed=seed)
        observation, info = self.batch.reset(seed=seed, options=options)
        self._ended = False
        return self._to_numpy(observation), info

    def step(self, action: Any) -> tuple[Tree, float, bool, bool, dict[str, Any]]:
        """As `gymnasium.Env.step`."""
        if self._ended:
            raise UserError("step() after the episode's end: call reset() first")

        def row(leaf: Any) -> torch.Tensor:
            return torch.as_tensor(np.asarray(leaf)[None])

        batched = tree_map(row, action) if is_mixed(self.action_space) else row(action)
        observation, reward, terminated, truncated, info = self.batch.step(batched)
        self._ended = bool(terminated | truncated)
        return self._to_numpy(observation), float(reward), bool(terminated), bool(truncated), info

    def _to_numpy(self, observation: Tree) -> Tree:
        # [()] turns the array of a discrete observation, which has no axes, into a NumPy scalar.
        return tree_map(lambda leaf: leaf[0].cpu().numpy()[()], observation)
