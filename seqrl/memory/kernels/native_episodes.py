"""Attention of whole episodes that stand end to end, without padding, by the C++ kernels."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqrl.memory.kernels.native_library import call, num_threads


class Episodes(NamedTuple):
    """S whole episodes, N rows end to end, and which M of these rows something is asked of."""

    starts: Int[Tensor, "S1"]
    """The first row of each episode, and N."""
    asking: Int[Tensor, "M"]
    """The rows that ask, in order."""
    asking_starts: Int[Tensor, "S1"]
    """Where each episode's begin among those, and M."""
    longest: int
    """Rows of the longest episode."""

    def all_asking(self) -> "Episodes":
        """The same episodes, something asked of every row."""
        rows = torch.arange(int(self.starts[-1]))
        return Episodes(self.starts, rows, self.starts, self.longest)


def attend_episodes(
    query: Float[Tensor, "M H"],
    key_value: Float[Tensor, "N two_H"],
    episodes: Episodes,
    rotation: Float[Tensor, "2 longest half_head"] | None,
    num_heads: int,
) -> Float[Tensor, "M H"]:
    """What each query finds in its own row and in those before it in its episode.

    With `rotation`, cosines and sines of each place's angles, queries and keys are turned by their place in the
    episode. Equal to `scaled_dot_product_attention` of each episode alone; where `native_attends` says so.
    """
    return _Attend.apply(query.contiguous(), key_value.contiguous(), episodes, rotation, num_heads)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key_value: Tensor, episodes: Episodes, rotation: Tensor | None, num_heads: int
    ) -> Tensor:
        S, (M, H) = len(episodes.starts) - 1, query.shape
        sizes = (len(key_value), M, S, num_heads, H // num_heads, episodes.longest, num_threads(S * num_heads))
        read = (*episodes[:3], *((None, None) if rotation is None else rotation), query, key_value)
        out, lse = torch.empty_like(query), query.new_empty(num_heads, M)
        call("attend_episodes", sizes, *read, out, lse)
        ctx.sizes, ctx.read = sizes, read[:-2]
        ctx.save_for_backward(query, key_value, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        query, key_value, out, lse = ctx.saved_tensors
        dquery, dkey_value = torch.empty_like(query), torch.empty_like(key_value)
        read = (*ctx.read, query, key_value, out, lse, dout.contiguous())
        call("attend_episodes_backward", ctx.sizes, *read, dquery, dkey_value)
        return dquery, dkey_value, None, None, None
