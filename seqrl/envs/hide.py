"""What is hidden from an agent, by number and by name."""

from collections.abc import Sequence
from typing import Any, final

import torch
from gymnasium import Space, spaces

from seqrl.envs.adapters import Environment
from seqrl.envs.trials import EPISODE_START, OPTIMAL_ACTION, REGRET
from seqrl.envs.wrappers import ObservationWrapper
from seqrl.errors import UserError, nearest
from seqrl.trajectory import ACTION_MASK, Tree, tree_map

_STAYS = {
    ACTION_MASK: "says what may be done, and is not seen: without it actions would be taken that are not allowed",
    EPISODE_START: "says where an inner episode begins, which `seqrl adapt`, references and logs of trials rest on",
    OPTIMAL_ACTION: "is shown to the learner alone: no agent sees it",
    REGRET: "is shown to the learner alone: no agent sees it",
}
"""Keys of a Dict observation that have a meaning of their own, the last three in trials: why they are not hidden."""


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
        if kept is None or (isinstance(kept, dict) and kept.keys() <= {ACTION_MASK}):
            what = f"all {space.shape[0]} entries" if isinstance(space, spaces.Box) else "all"
            raise UserError(f"hide={tuple(hidden)} hides {what} of the observation: leave at least one")
        super().__init__(env, _kept_space(kept, space))
        self._kept = tree_map(lambda part: part if part is True else torch.tensor(part, device=env.device), kept)

    def observe(self, observation: Tree) -> Tree:
        return _kept_part(self._kept, observation)


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
    if first in space.spaces and first in _STAYS and (first == ACTION_MASK or EPISODE_START in space.spaces):
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
