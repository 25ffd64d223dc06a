"""An action is one tensor, whatever its space.

A *mixed* action, of a Dict or Tuple space nested at will, is the numbers of its leaves side by side, in the order of
the space: float32 [..., D], in which whole numbers are exact up to 2²⁴. Discrete leaves count from 0 here, as in all
tensors, and from their `start` in the environment; Box leaves are in the space's own units.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from seqrl.errors import UserError
from seqrl.trajectory import Tree, tree_leaves

MOST_CHOICES = 2**24
"""Beyond it float32 has no place for every whole number."""


class Part(NamedTuple):
    """A leaf of an action space: its name, such as `gripper.force` or `arms.0`, and how many numbers it has."""

    name: str
    space: gym.Space
    size: int


def is_mixed(space: gym.Space) -> bool:
    """Whether an action of `space` has parts: a Dict or a Tuple, even of a single leaf."""
    return isinstance(space, gym.spaces.Dict | gym.spaces.Tuple)


def parts(space: gym.Space) -> list[Part]:
    """The leaves of an action space in their order; of a space that is not mixed, itself, without a name.

    Raises UserError, naming the place, for a leaf of a mixed space that nothing can choose.
    """
    if not is_mixed(space):
        return [Part("", space, math.prod(space.shape or ()))]
    return list(_parts(space, ""))


def _parts(space: Any, name: str) -> Iterator[Part]:
    if is_mixed(space):
        children = space.spaces.items() if isinstance(space, gym.spaces.Dict) else enumerate(space.spaces)
        found = [part for key, child in children for part in _parts(child, f"{name}.{key}" if name else str(key))]
        if not found:
            raise UserError(f"the {_path(name)} space {space} has nothing to choose: leave it out")
        yield from found
        return
    is_box = isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating)
    choices = _sizes(space)
    if not is_box and not choices:
        raise UserError(
            f"the {_path(name)} space {space} is not supported: wrap the environment so that it takes Discrete, "
            "MultiDiscrete, MultiBinary or a floating-point Box there"
        )
    if max(choices, default=0) > MOST_CHOICES:
        raise UserError(f"the {_path(name)} space {space} has more than {MOST_CHOICES:,} values: give fewer")
    yield Part(name, space, math.prod(space.shape or ()))


def _path(name: str) -> str:
    return f"action.{name}" if name else "action"


def _sizes(space: Any) -> list[int]:
    """The number of values of each entry of a discrete space; none for other spaces."""
    if isinstance(space, gym.spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, gym.spaces.MultiDiscrete):
        return space.nvec.flatten().tolist()
    return [2] * math.prod(space.shape) if isinstance(space, gym.spaces.MultiBinary) else []


def choices(space: gym.Space) -> dict[int, int]:
    """The discrete choices of an action: from their place among its numbers, flattened, to how many values each has."""
    found: dict[int, int] = {}
    start = 0
    for part in parts(space):
        found |= {start + k: size for k, size in enumerate(_sizes(part.space))}
        start += part.size
    return found


def names(space: gym.Space) -> list[str]:
    """What the numbers of a mixed action are called: by their leaf, and by their place in it if it has several."""
    return [
        part.name + (f"[{','.join(map(str, index))}]" if part.size > 1 else "")
        for part in parts(space)
        for index in np.ndindex(*(part.space.shape or ()))
    ]


def tensor_space(space: gym.Space) -> gym.Space:
    """The space of an action as a tensor: of a mixed one the Box that it lies in, of others the space itself."""
    if not is_mixed(space):
        return space
    low, high = np.zeros((2, sum(part.size for part in parts(space))), np.float32)
    start = 0
    for part in parts(space):
        place = slice(start, start + part.size)
        if isinstance(part.space, gym.spaces.Box):
            with np.errstate(over="ignore"):  # the largest float64 becomes infinity, which means the same
                low[place], high[place] = part.space.low.flatten(), part.space.high.flatten()
        else:
            high[place] = np.array(_sizes(part.space)) - 1
        start += part.size
    return gym.spaces.Box(low, high)


def nothing_done(space: gym.Space, batch_size: int, device: torch.device | str = "cpu") -> Tensor:
    """Zeros in place of the actions before a first row: [B, *shape], float32 of mixed and Box spaces, else int64."""
    space = tensor_space(space)
    dtype = torch.float32 if isinstance(space, gym.spaces.Box) else torch.int64
    return torch.zeros(batch_size, *(space.shape or ()), dtype=dtype, device=device)


def split(action: Tensor, space: gym.Space) -> list[Tensor]:
    """A mixed action's leaves [..., *shape], int64 or float, in the order of `parts`."""
    found = []
    leaves = parts(space)
    for part, leaf in zip(leaves, action.split([part.size for part in leaves], -1), strict=True):
        leaf = leaf.reshape(*leaf.shape[:-1], *(part.space.shape or ()))
        found.append(leaf if isinstance(part.space, gym.spaces.Box) else leaf.long())
    return found


def unpack(action: Tensor, space: gym.Space) -> Tree:
    """A mixed action [..., D] as a tree of tensors like its space, leaves [..., *shape]; others stay as they are."""
    return _tree(space, iter(split(action, space))) if is_mixed(space) else action


def pack(tree: Tree, space: gym.Space) -> Tensor:
    """The inverse of `unpack`; leaves may be arrays, of any type."""
    if not is_mixed(space):
        return torch.as_tensor(tree)
    leaves = zip(parts(space), tree_leaves(_in_order(tree, space)), strict=True)
    return torch.cat([_flat(torch.as_tensor(leaf).float(), part.space) for part, leaf in leaves], -1)


def to_environment(action: np.ndarray, space: gym.Space) -> Any:
    """Actions [B, ...] as environments of `space` take them, batched: in its types and units, a tree if it is mixed."""
    if is_mixed(space):
        leaves = split(torch.from_numpy(action), space)
        units = [_in_own_units(leaf.numpy(), part.space) for leaf, part in zip(leaves, parts(space), strict=True)]
        return _tree(space, iter(units))
    return _in_own_units(action, space)


def _in_own_units(values: np.ndarray, space: Any) -> np.ndarray:
    values = values.astype(space.dtype).reshape(len(values), *(space.shape or ()))
    return values + space.start if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete) else values


def _tree(space: Any, leaves: Iterator[Any]) -> Tree:
    if isinstance(space, gym.spaces.Dict):
        return {key: _tree(child, leaves) for key, child in space.spaces.items()}
    return tuple(_tree(child, leaves) for child in space.spaces) if is_mixed(space) else next(leaves)


def _in_order(tree: Tree, space: Any) -> Tree:
    """`tree`, its dicts in the order of the space's."""
    if isinstance(space, gym.spaces.Dict):
        return {key: _in_order(tree[key], child) for key, child in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(_in_order(part, child) for part, child in zip(tree, space.spaces, strict=True))
    return tree


def _flat(leaf: Tensor, space: gym.Space) -> Tensor:
    lead = leaf.shape[: leaf.ndim - len(space.shape or ())]
    return leaf.reshape(*lead, math.prod(space.shape or ()))
