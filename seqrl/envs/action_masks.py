"""Action masks that environments give, in `info["action_mask"]` or by a method, in any form that fits the action space.

As agents read it, a mask has an entry for each value of each choice, in the order of the space: n for Discrete(n),
Σ n_i for MultiDiscrete, 2 for each bit of MultiBinary, and for mixed spaces those of their leaves side by side.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor

from seqrl.actions import choices, parts
from seqrl.errors import UserError, nearest
from seqrl.trajectory import ACTION_MASK

METHOD = "action_masks"
"""What sb3-contrib asks an environment, or a wrapper of it, for."""


class MaskOfMethod(gym.Wrapper):
    """Puts what the method `action_masks()` allows into `info`, where the environment has not put a mask itself."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, self._told(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        *row, info = self.env.step(action)
        return *row, self._told(info)

    def _told(self, info: dict[str, Any]) -> dict[str, Any]:
        return {ACTION_MASK: self.env.get_wrapper_attr(METHOD)()} | info


class InfoMask:
    """Reads the masks of an action space, or of a part of it; `where` is what its messages begin with.

    A mask is flat, as agents read it, or has a mask for each entry of a MultiDiscrete or MultiBinary space; of a Dict
    space it may be a dict of its children's masks by their keys, of a Tuple space a tuple of them. What has none there,
    or None, is free. Its methods raise UserError for a mask of another shape, or with other numbers than 0 and 1.
    """

    def __init__(self, space: Space, where: str) -> None:
        self.space, self.where = space, where
        self.sizes = list(choices(space).values())
        children: Any = ()
        if isinstance(space, spaces.Dict):
            children = space.spaces.items()
        elif isinstance(space, spaces.Tuple):
            children = enumerate(space.spaces)
        self.children = {key: InfoMask(child, f"{where}[{key!r}]") for key, child in children}

    def of_infos(self, infos: dict[str, Any], key: str, num_envs: int) -> np.ndarray:
        """What `infos[key]` of a vector environment allows, bool [B, n]; everything in rows without a mask."""
        masks: Any = infos.get(key)
        allowed = np.ones((num_envs, sum(self.sizes)), dtype=bool)
        # Gymnasium marks under `_key` which rows have given `key`; the others hold zeros there.
        given = np.flatnonzero(infos.get(f"_{key}", np.full(num_envs, masks is not None))).tolist()
        if isinstance(self.space, spaces.Dict) and isinstance(masks, dict):
            self._check_keys([one for one in masks if str(one)[:1] != "_" or str(one)[1:] not in masks])
            return np.concatenate([child.of_infos(masks, one, num_envs) for one, child in self.children.items()], 1)
        if isinstance(masks, np.ndarray) and masks.shape == allowed.shape:
            allowed[given] = self._bits(masks[given])
            return allowed
        for row in given:
            allowed[row] = self.of(masks if isinstance(masks, dict) else masks[row])
        return allowed

    def of(self, mask: Any) -> np.ndarray:
        """What one environment's own mask allows, bool [n]."""
        if mask is None:
            return np.ones(sum(self.sizes), dtype=bool)
        if isinstance(self.space, spaces.Dict) and isinstance(mask, dict):
            self._check_keys(mask)
            return np.concatenate([child.of(mask.get(key)) for key, child in self.children.items()])
        shape = _shape(mask)
        if shape == (sum(self.sizes),):
            return self._bits(np.asarray(mask))
        if isinstance(self.space, spaces.Tuple) and isinstance(mask, tuple | list) and len(mask) == len(self.children):
            return np.concatenate([child.of(part) for child, part in zip(self.children.values(), mask, strict=True)])
        if shape != () and [_shape(part) for part in mask] == [(size,) for size in self.sizes]:
            return self._bits(np.concatenate(mask))
        kind = "several shapes" if shape is None else f"shape {shape}" if shape else f"type {type(mask).__name__}"
        found = f"{self.where} of {kind} for {self.space}"
        if not self.sizes:
            raise UserError(f"{found}, which has no choices: leave it out")
        tree = ", or a dict of masks" if isinstance(self.space, spaces.Dict) else ""
        raise UserError(f"{found}: give {sum(self.sizes)} entries, one for each choice{tree}")

    def _check_keys(self, keys: Any) -> None:
        for key in keys:
            if key not in self.children:
                way_out = nearest(str(key), self.children)
                raise UserError(f"{self.where} with the key '{key}', which {self.space} has not: {way_out}")

    def _bits(self, mask: np.ndarray) -> np.ndarray:
        allowed = mask == 1
        if not (allowed | (mask == 0)).all():
            wrong = mask[~(allowed | (mask == 0))].flat[0]
            raise UserError(f"{self.where} with {wrong!s} in it: give 1 for what is allowed, and 0 for what is not")
        return allowed


def must_allow(space: Space) -> bool:
    """Whether a mask of this action space must allow something: no number is chosen besides its choices."""
    return len(choices(space)) == sum(part.size for part in parts(space))


def nothing_allowed(row: int, when: str) -> UserError:
    """For an environment whose mask is False for every choice where one is to be made."""
    return UserError(
        f"environment {row} allows no action at step {when}, though the episode goes on: allow one in its action_mask, "
        "such as one that does nothing, or end the episode"
    )


def with_something_allowed(mask: Tensor, sizes: Sequence[int]) -> Tensor:
    """`mask` [..., n] of choices of these `sizes`; one that it allows nothing of, as some environments do after the
    end, is free: there is no distribution over nothing."""
    masks = mask.split(list(sizes), -1) if sizes else [mask]
    return torch.cat([part | ~part.any(-1, keepdim=True) for part in masks], -1)


def _shape(mask: Any) -> tuple[int, ...] | None:
    """The shape of an array, a list or a tuple; None where its parts differ in shape, () for a dict."""
    try:
        return np.shape(mask)
    except ValueError:
        return None
