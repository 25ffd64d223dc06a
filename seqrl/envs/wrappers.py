"""Wrappers that turn a fully observed environment into one that needs memory.

They act on the tensors of an `Environment`, so they serve batched torch environments and Gymnasium's alike. An action
mask is left as it is: it says what may be done, not what is seen.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor

from seqrl.envs.adapters import Environment
from seqrl.envs.trials import EPISODE_START, OPTIMAL_ACTION, REGRET
from seqrl.errors import UserError, nearest
from seqrl.seeds import derived_seed
from seqrl.trajectory import TimeStep, Tree, tree_map, where_rows

_ACTION_MASK = "action_mask"
_STAYS = {
    _ACTION_MASK: "says what may be done, and is not seen: without it actions would be taken that are not allowed",
    EPISODE_START: "says where an inner episode begins, which `seqrl adapt`, references and logs of trials rest on",
    OPTIMAL_ACTION: "is shown to the learner alone: no agent sees it",
    REGRET: "is shown to the learner alone: no agent sees it",
}
"""Keys of a Dict observation that have a meaning of their own, the last three in trials: why they are not hidden."""


class ObservationWrapper(Environment):
    """Shows the agent `observe(observation)` in place of each observation of `env`, the final ones included.

    Random draws come from `self.generator`, which `reset(seed)` seeds anew (from `seed` and the wrapper's own seed, so
    that two wrappers do not draw the same numbers) and which `state_dict` holds. To vary, write `observe`.
    """

    def __init__(self, env: Environment, observation_space: Space, seed: int = 0) -> None:
        self.env = env
        self.num_envs = env.num_envs
        self.single_observation_space = observation_space
        self.single_action_space = env.single_action_space
        self.device = env.device
        self.generator = torch.Generator(device=env.device).manual_seed(seed)
        self._seed = seed

    @abstractmethod
    def observe(self, observation: Tree) -> Tree:
        """What the agent sees of `observation`, leaves [B, ...]. Must not write into it."""

    @final
    def reset(self, seed: int | None = None) -> TimeStep:
        if seed is not None:
            self.generator.manual_seed(derived_seed(self._seed, seed))
        return self._seen(self.env.reset(seed))

    @final
    def step(self, action: Tensor) -> TimeStep:
        return self._seen(self.env.step(action))

    @final
    def render(self) -> np.ndarray | None:
        return self.env.render()

    @final
    def close(self) -> None:
        self.env.close()

    @final
    def state_dict(self) -> dict[str, Tensor] | None:
        inner = self.env.state_dict()
        if inner is None:
            return None
        return {f"env.{name}": value for name, value in inner.items()} | {"generator": self.generator.get_state()}

    @final
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.env.load_state_dict(
            {name.removeprefix("env."): value for name, value in state.items() if name.startswith("env.")}
        )
        self.generator.set_state(state["generator"].cpu())

    def _seen(self, step: TimeStep) -> TimeStep:
        observation = self.observe(step.observation)
        if step.final_observation is None:
            return step._replace(observation=observation)
        # Rows that go on show one observation, not two draws of it.
        final_observation = where_rows(
            step.terminated | step.truncated, self.observe(step.final_observation), observation
        )
        return step._replace(observation=observation, final_observation=final_observation)


@final
class Hide(ObservationWrapper):
    """Removes what is named in `hidden`: entries of a vector observation by number, such as a pole's velocities; of a
    Dict observation keys, such as "velocity", and entries of the vectors under them, such as "state.3".

    Keys of a Dict in a Dict are joined by dots too, "robot.arm" and "robot.arm.2"; a key that has a dot itself goes
    before. What nothing is left of goes as a whole. What the policy or the learner cannot do without stays: an action
    mask, and what a trial says besides the task's own observation (see `seqrl.envs.trials`).

    Raises:
        UserError: for what is not there, or has to stay, for entries of what is no vector, and if nothing would be
            left to see.
    """

    def __init__(self, env: Environment, hidden: Sequence[int | str]) -> None:
        space = env.single_observation_space
        if isinstance(hidden, int | str):
            raise UserError(f"hide={hidden!r}: give a tuple of what to hide, such as ({hidden!r},)")
        kept = _kept(space, {_place_of(name, space, tuple(hidden)) for name in hidden})
        if kept is None or (isinstance(kept, dict) and kept.keys() <= {_ACTION_MASK}):
            what = f"all {space.shape[0]} entries" if isinstance(space, spaces.Box) else "all"
            raise UserError(f"hide={tuple(hidden)} hides {what} of the observation: leave at least one")
        super().__init__(env, _kept_space(kept, space))
        self._kept = tree_map(lambda part: part if part is True else torch.tensor(part, device=env.device), kept)

    def observe(self, observation: Tree) -> Tree:
        return _kept_part(self._kept, observation)


@final
class Flicker(ObservationWrapper):
    """Shows zeros in place of the whole observation with `probability`, drawn for each row and step on its own.

    In a discrete observation, zero is its first value. Source: Hausknecht and Stone, 2015 (arXiv 1507.06527), section
    4.1, where the probability is 0.5.

    Raises:
        UserError: if `probability` is not in [0, 1].
    """

    def __init__(self, env: Environment, probability: float, seed: int = 0) -> None:
        if not 0 <= probability <= 1:
            raise UserError(f"flicker={probability} is not a probability: give a number from 0 to 1")
        super().__init__(env, _map_boxes(_with_zero, env.single_observation_space), seed)
        self._probability = probability

    def observe(self, observation: Tree) -> Tree:
        shown = torch.rand(self.num_envs, generator=self.generator, device=self.device) >= self._probability
        return _map_seen(lambda leaf: _show(shown, leaf), observation)


@final
class Noise(ObservationWrapper):
    """Adds Gaussian noise of standard deviation `scale`, in the observation's units, to every float observation.

    Raises:
        UserError: if `scale` is negative, or if no part of the observation is a Box of floats.
    """

    def __init__(self, env: Environment, scale: float, seed: int = 0) -> None:
        if not 0 <= scale < float("inf"):
            raise UserError(f"noise={scale} is not a standard deviation: give a number from 0")
        space = _map_boxes(_unbounded, env.single_observation_space)
        if scale and not _has_floats(space):
            raise UserError(f"noise needs a Box of floats, but the environment gives {space}")
        super().__init__(env, space, seed)
        self._scale = scale

    def observe(self, observation: Tree) -> Tree:
        return _map_seen(self._add_noise, observation)

    def _add_noise(self, leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            return leaf
        noise = torch.randn(leaf.shape, generator=self.generator, device=self.device, dtype=leaf.dtype)
        return leaf + self._scale * noise


def _place_of(name: int | str, space: Space, hidden: tuple[int | str, ...]) -> tuple[str | int, ...]:
    """The keys down to what `name` names, and the entry if it names one. Raises UserError if it cannot be hidden."""
    if _is_vector(space):
        size = space.shape[0]  # type: ignore[index]
        if isinstance(name, str) or not 0 <= name < size:
            raise UserError(f"hide={hidden}: {name!r} is not an entry of the observation, use 0 to {size - 1} (--hide)")
        return (int(name),)
    if not isinstance(space, spaces.Dict):
        raise UserError(f"hide needs a one-dimensional Box or a Dict to observe, but the environment gives {space}")
    first = str(name).partition(".")[0]
    if first in space.spaces and first in _STAYS and (first == _ACTION_MASK or EPISODE_START in space.spaces):
        raise UserError(f"hide={hidden}: '{first}' {_STAYS[first]}; leave it out of --hide")
    place = _find(str(name), space)
    if place is None:
        raise UserError(f"hide={hidden}: the observation has no '{name}' (--hide): {_what_there_is(str(name), space)}")
    return place


def _find(name: str, space: Space) -> tuple[str | int, ...] | None:
    if isinstance(space, spaces.Dict):
        if name in space.spaces:
            return (name,)
        for key, child in space.items():
            place = _find(name.removeprefix(f"{key}."), child) if name.startswith(f"{key}.") else None
            if place is not None:
                return (key, *place)
    elif _is_vector(space) and name.isdecimal() and int(name) < space.shape[0]:  # type: ignore[index]
        return (int(name),)
    return None


def _what_there_is(name: str, space: spaces.Dict) -> str:
    """The way out for who named what is not there."""
    known = _keys(space)
    key, _, entry = name.rpartition(".")
    if key in known and entry.isdecimal():
        vector = known[key]
        return f"its entries are 0 to {vector.shape[0] - 1}" if _is_vector(vector) else f"'{key}' is no vector"  # type: ignore[index]
    listed = f"known: {', '.join(sorted(known))}"
    suggestion = nearest(name, known)
    return listed if suggestion == listed else f"{suggestion} ({listed})"


def _keys(space: spaces.Dict) -> dict[str, Space]:
    """What may be hidden as a whole, by its name: keys, and those of Dicts below joined to them by dots."""
    known: dict[str, Space] = {}
    for key, child in space.items():
        below = _keys(child) if isinstance(child, spaces.Dict) else {}
        known |= {key: child} | {f"{key}.{name}": grandchild for name, grandchild in below.items()}
    return {key: child for key, child in known.items() if key not in _STAYS}


def _is_vector(space: Space) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 1


def _kept(space: Space, gone: set[tuple[str | int, ...]], place: tuple[str | int, ...] = ()) -> Any:
    """What stays of `space` at `place`: the numbers of a vector's entries, a dict of parts, True for all, None."""
    if place in gone:
        return None
    if isinstance(space, spaces.Dict):
        parts = {key: _kept(child, gone, (*place, key)) for key, child in space.items()}
        return {key: part for key, part in parts.items() if part is not None} or None
    if _is_vector(space):
        size = space.shape[0]  # type: ignore[index]
        entries = [entry for entry in range(size) if (*place, entry) not in gone]
        return True if len(entries) == size else entries or None
    return True


def _kept_space(kept: Any, space: Any) -> Space:
    if isinstance(kept, dict):
        return spaces.Dict({key: _kept_space(part, space[key]) for key, part in kept.items()})
    return space if kept is True else spaces.Box(space.low[kept], space.high[kept], dtype=space.dtype.type)


def _kept_part(kept: Tree, observation: Tree) -> Tree:
    if isinstance(kept, dict):
        return {key: _kept_part(part, observation[key]) for key, part in kept.items()}
    return observation if kept is True else observation[:, kept]


def _show(shown: Tensor, leaf: Tensor) -> Tensor:
    """`leaf` [B, ...] where `shown` [B], else zeros."""
    shown = shown.view(-1, *[1] * (leaf.ndim - 1))
    if leaf.is_floating_point():
        return torch.where(shown, leaf, 0.0)
    return leaf * shown  # of bytes, 30 times faster than torch.where: images on a CPU


def _map_seen(function: Callable[[Tensor], Tensor], observation: Tree) -> Tree:
    """`function` of each leaf of `observation`, its action mask apart."""
    if isinstance(observation, dict) and _ACTION_MASK in observation:
        seen = {key: value for key, value in observation.items() if key != _ACTION_MASK}
        return tree_map(function, seen) | {_ACTION_MASK: observation[_ACTION_MASK]}
    return tree_map(function, observation)


def _map_boxes(function: Callable[[spaces.Box], spaces.Box], space: Space) -> Space:
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _map_boxes(function, child) for key, child in space.items()})
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([_map_boxes(function, child) for child in space])
    return function(space) if isinstance(space, spaces.Box) else space


def _has_floats(space: Space) -> bool:
    if isinstance(space, spaces.Dict):
        return any(_has_floats(child) for key, child in space.items() if key != _ACTION_MASK)
    if isinstance(space, spaces.Tuple):
        return any(map(_has_floats, space))
    return isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)


def _with_zero(space: spaces.Box) -> spaces.Box:
    return spaces.Box(np.minimum(space.low, 0), np.maximum(space.high, 0), dtype=space.dtype.type)


def _unbounded(space: spaces.Box) -> spaces.Box:
    if not np.issubdtype(space.dtype, np.floating):
        return space
    return spaces.Box(-np.inf, np.inf, space.shape, space.dtype.type)
