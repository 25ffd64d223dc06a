"""What attention memories share: a cache of keys and values that slides, and which of its keys a row sees."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MIN_BLOCK = 64
"""Short windows share blocks of this many rows: smaller ones would only add calls."""


class SlidingCache(NamedTuple):
    """The state of an attention memory: in each layer, the keys and values of the last window − 1 rows, oldest first.

    `keys` and `values` are tuples over layers of [B, num_heads, window − 1, head_size]. `num_steps` [B], int64, counts
    the rows since the episode began: a cached key older than that is not there, or belongs to another episode.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    num_steps: Tensor


def positions(is_first: Bool[Tensor, "B T"], num_steps: Int[Tensor, "B"]) -> Int[Tensor, "B T"]:
    """Each row's number of steps since `is_first`, counted on from `num_steps` until the first reset."""
    time = torch.arange(is_first.shape[1], device=is_first.device)
    reset = torch.where(is_first, time, -1).cummax(1).values
    return torch.where(reset >= 0, time - reset, num_steps[:, None] + time)


def visible_keys(position: Int[Tensor, "B T"], window: int) -> Bool[Tensor, "B T S"]:
    """Which of the S = window − 1 + T keys, the cached ones and then the rows' own, each of the T rows sees.

    A key of age k (0 is the row itself) is seen where 0 ≤ k < window, and k ≤ position: no older than the episode.
    """
    num_rows = position.shape[1]
    key_time = torch.arange(1 - window, num_rows, device=position.device)
    age = key_time[window - 1 :, None] - key_time
    return (age >= 0) & (age < window) & (age <= position[:, :, None])


def unroll_in_blocks(
    unroll_block: Callable[[Tensor, SlidingCache, Tensor], tuple[Tensor, SlidingCache]],
    x: Float[Tensor, "T B D"],
    cache: SlidingCache,
    is_first: Bool[Tensor, "T B"],
    window: int,
) -> tuple[Float[Tensor, "T B H"], SlidingCache]:
    """Unroll T rows block by block, the cache handed on.

    A block sees itself and the window − 1 rows before it, so that time and memory grow as T · window and not as T².
    """
    size = max(window, MIN_BLOCK)
    outputs = []
    for block, block_is_first in zip(x.split(size), is_first.split(size), strict=True):
        y, cache = unroll_block(block, cache, block_is_first)
        outputs.append(y)
    return torch.cat(outputs), cache
