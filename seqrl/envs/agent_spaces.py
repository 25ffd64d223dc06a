"""The spaces that an agent has, from those of an environment."""

from collections import OrderedDict
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from seqrl.actions import is_mixed, parts
from seqrl.errors import UserError


def agent_space(space: Any, path: str) -> Space:
    """What the agent sees or does of an environment's `space`; `path` is "observation" or "action", for messages.

    Raises UserError for a space that is not supported.
    """
    is_action = path.startswith("action")
    if path == "action" and is_mixed(space):
        parts(space)  # refuses what nothing can choose
    if isinstance(space, spaces.Dict):
        for key in space.spaces:
            if not isinstance(key, str):  # the folder of a run, JSON, would give it back as text
                raise UserError(
                    f"the {path} space has the key {key!r}: use text for the keys of a Dict, such as '{key}'"
                )
        children = ((key, agent_space(child, f"{path}.{key}")) for key, child in space.spaces.items())
        # An action's parts stand, and are masked, in the order of its space, which Gymnasium keeps of this dict alone.
        return spaces.Dict(OrderedDict(children) if is_action else dict(children))
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([agent_space(child, f"{path}.{index}") for index, child in enumerate(space)])
    is_mask = path == "observation.action_mask"
    of_bits = isinstance(space, spaces.MultiDiscrete) and (space.nvec == 2).all()
    if isinstance(space, spaces.MultiBinary) or (is_mask and (of_bits or isinstance(space, spaces.Box))):
        return spaces.MultiBinary(space.shape[0] if len(space.shape) == 1 else space.shape)
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n), start=int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec.astype(np.int64), start=space.start.astype(np.int64))
    if isinstance(space, spaces.Box):
        return _agent_box(space, inwards=is_action)
    raise UserError(
        f"the {path} space {type(space).__name__} is not supported: "
        "wrap the environment so that it gives Box, Discrete, MultiDiscrete or MultiBinary, alone or in Dict and Tuple"
    )


def _agent_box(space: spaces.Box, inwards: bool) -> spaces.Box:
    """`space` in the types that agents compute in; with `inwards` no bound is rounded to one outside the space."""
    if space.dtype in (np.dtype(np.uint8), np.dtype(bool)):
        return space
    dtype: Any = np.float32 if np.issubdtype(space.dtype, np.floating) else np.int64
    with np.errstate(over="ignore"):  # the largest float64 becomes infinity, which means the same
        low: Any = space.low.astype(dtype)
        high: Any = space.high.astype(dtype)
    if inwards:
        low = np.where(np.isfinite(low) & (low < space.low), np.nextafter(low, high), low)
        high = np.where(np.isfinite(high) & (high > space.high), np.nextafter(high, low), high)
    return spaces.Box(low, high, dtype=dtype)
