"""What a critic may see while an agent trains: all that wrappers keep from the actor."""

from collections.abc import Callable
from typing import TypeGuard, final

import numpy as np
from gymnasium import Space, spaces
from torch import Tensor

from seqrl.envs.adapters import Environment
from seqrl.trajectory import TimeStep

SEEN, PRIVILEGED = "seen", "privileged"
"""The keys of such an observation: what the actor sees, and all there is."""


def is_privileged(space: Space) -> TypeGuard[spaces.Dict]:
    """Whether observations of `space` show both."""
    return isinstance(space, spaces.Dict) and space.spaces.keys() == {SEEN, PRIVILEGED}


def split_space(space: Space) -> tuple[Space, Space]:
    """What the actor sees of such a space, and what the critic does; any other is both."""
    return (space.spaces[SEEN], space.spaces[PRIVILEGED]) if is_privileged(space) else (space, space)


class _Around(Environment):
    """Stands round `env`, which it draws, saves and closes."""

    def __init__(self, env: Environment) -> None:
        self.env = env
        self.num_envs, self.device = env.num_envs, env.device
        self.single_observation_space = env.single_observation_space
        self.single_action_space = env.single_action_space

    def render(self) -> np.ndarray | None:
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def state_dict(self) -> dict[str, Tensor] | None:
        return self.env.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.env.load_state_dict(state)


class _Whole(_Around):
    """The environment below all wrappers, which keeps its last step as it was."""

    last: TimeStep

    def reset(self, seed: int | None = None) -> TimeStep:
        self.last = self.env.reset(seed)
        return self.last

    def step(self, action: Tensor) -> TimeStep:
        self.last = self.env.step(action)
        return self.last


@final
class Privileged(_Around):
    """Shows {"seen": what is left of an observation by the wrappers that `wrap` puts round `env`, "privileged": all of
    it}. Episodes and draws are those of `wrap(env)` alone, and so is what it saves."""

    def __init__(self, env: Environment, wrap: Callable[[Environment], Environment]) -> None:
        self._whole = _Whole(env)
        super().__init__(wrap(self._whole))
        seen = self.single_observation_space
        self.single_observation_space = spaces.Dict({SEEN: seen, PRIVILEGED: env.single_observation_space})

    def reset(self, seed: int | None = None) -> TimeStep:
        return self._told(self.env.reset(seed))

    def step(self, action: Tensor) -> TimeStep:
        return self._told(self.env.step(action))

    def _told(self, seen: TimeStep) -> TimeStep:
        whole = self._whole.last
        final_observation = None
        if seen.final_observation is not None:
            final_observation = {SEEN: seen.final_observation, PRIVILEGED: whole.final_observation}
        return seen._replace(
            observation={SEEN: seen.observation, PRIVILEGED: whole.observation}, final_observation=final_observation
        )
