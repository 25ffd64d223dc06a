"""Gymnasium spaces as JSON, so that an agent can be rebuilt without its environment."""

import math
from collections import OrderedDict
from typing import Any

import gymnasium as gym
import numpy as np

from seqrl.errors import UserError


def space_to_json(space: gym.Space) -> dict[str, Any]:
    """A description that JSON can hold; infinite bounds are the strings "inf" and "-inf", since JSON has no infinity.

    Raises UserError for spaces seqrl has no encoder or head for.
    """
    match space:
        case gym.spaces.Box():
            bounds = {"low": _bound(space.low), "high": _bound(space.high)}
            return {"type": "Box", "shape": list(space.shape), "dtype": np.dtype(space.dtype).name, **bounds}
        case gym.spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
        case gym.spaces.MultiDiscrete():
            return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
        case gym.spaces.MultiBinary():
            return {"type": "MultiBinary", "shape": list(space.shape)}
        case gym.spaces.Dict():
            return {"type": "Dict", "spaces": {key: space_to_json(child) for key, child in space.spaces.items()}}
        case gym.spaces.Tuple():
            return {"type": "Tuple", "spaces": [space_to_json(child) for child in space.spaces]}
    raise UserError(f"the space {space} is not supported: use Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple")


def space_from_json(data: dict[str, Any]) -> gym.Space:
    """The space that `space_to_json` described."""
    match data["type"]:
        case "Box":
            shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
            low, high = (np.broadcast_to(np.asarray(data[k], dtype=dtype), shape) for k in ("low", "high"))
            return gym.spaces.Box(low, high, shape, dtype.type)
        case "Discrete":
            return gym.spaces.Discrete(data["n"], start=data["start"])
        case "MultiDiscrete":
            return gym.spaces.MultiDiscrete(data["nvec"], start=data["start"])
        case "MultiBinary":
            shape = tuple(data["shape"])
            return gym.spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
        case "Dict":
            # Gymnasium sorts the keys of other dicts; encoders are numbered in the order of the space.
            return gym.spaces.Dict(OrderedDict((key, space_from_json(child)) for key, child in data["spaces"].items()))
        case "Tuple":
            return gym.spaces.Tuple([space_from_json(child) for child in data["spaces"]])
    raise UserError(
        f"unknown space type {data['type']!r} in the run folder: it was written by another version of seqrl"
    )


def difference(space: gym.Space, other: gym.Space, path: str, *, ordered: bool = False) -> str:
    """What `space`, called `path`, has otherwise than `other`: "action.grip is Discrete(2), not Discrete(3)", say.

    Empty if nothing. Children of Dict spaces are matched by their keys; if it is `ordered`, as the parts of an action
    are (`seqrl.actions`), the order of the keys counts too.
    """
    if isinstance(space, gym.spaces.Dict) and isinstance(other, gym.spaces.Dict):
        keys, other_keys = list(space.spaces), list(other.spaces)
        if set(keys) != set(other_keys):
            return f"{path} has the keys {keys}, not {other_keys}"
        if ordered and keys != other_keys:
            return f"{path} has its keys in the order {keys}, not {other_keys}"
        children = [(space[key], other[key], f"{path}.{key}") for key in keys]
    elif isinstance(space, gym.spaces.Tuple) and isinstance(other, gym.spaces.Tuple) and len(space) == len(other):
        children = [(space[k], other[k], f"{path}.{k}") for k in range(len(space))]
    else:  # by JSON, since bounds that are close, and other types, are equal by ==
        same = space_to_json(space) == space_to_json(other)
        return "" if same else " ".join(f"{path} is {space}, not {other}".split())  # long bounds are printed in lines
    return next(filter(None, (difference(*child, ordered=ordered) for child in children)), "")


def _bound(bound: np.ndarray) -> Any:
    """One number where all are equal (an image's bounds need no list of pixels), else a nested list."""
    uniform = bound.size and (bound == bound.flat[0]).all()
    return _finite(bound.flat[0].item() if uniform else bound.tolist())


def _finite(bound: Any) -> Any:
    if isinstance(bound, list):
        return [_finite(entry) for entry in bound]
    return bound if math.isfinite(bound) else str(bound)
