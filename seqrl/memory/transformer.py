"""A transformer whose context is a window that slides along the episode."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqrl.errors import UserError
from seqrl.memory.base import Memory, State
from seqrl.memory.sizes import check_sizes
from seqrl.memory.sliding_window import SlidingCache, positions, unroll_in_blocks, visible_keys


class Transformer(Memory):
    """A causal transformer: in each layer, a row attends to itself and to the window − 1 rows before it in its episode.

    With u⁰ = W x, layer l = 1 … num_layers computes

        v_t  = u_t^{l−1} + Attention(norm(u_t^{l−1}); keys and values of norm(u_s^{l−1}), s ∈ visible(t))
        u_t^l = v_t + MLP(norm(v_t)),        y_t = norm(u_t^{num_layers})
        visible(t) = {s : 0 ≤ t − s < window, and no `is_first` in (s, t]}

    Norms come first, the MLP is GELU and four times as wide. Positions are rotary, hence relative. There is no dropout:
    acting and training compute the same function.

    *The context is a sliding cache.* A cached key of a deep layer was computed from rows that have since left the
    window, and the whole unroll uses the same key: y_t depends on the last num_layers · (window − 1) + 1 rows of the
    episode. It is not the transformer re-run on the last `window` rows, which would forget more.

    The state holds window − 1 keys and values per layer. Keys are cached before rotation and rotated by their place in
    the block when used, so that angles stay below 2 · max(window, 64) however long the episode lasts.
    Time and memory of an unroll grow linearly with T, and those of a step with the window.

    Shapes: x [T, B, input_size] -> y [T, B, hidden_size]. State: `SlidingCache`.
    Raises UserError where a size is below 1, or where hidden_size / num_heads is not an even whole number.

    Sources: Vaswani et al. 2017 (arXiv 1706.03762); norms first, Xiong et al. 2020 (arXiv 2002.04745); rotary
    positions, Su et al. 2021 (arXiv 2104.09864); a window in every layer, Beltagy et al. 2020 (arXiv 2004.05150).
    Unlike in Transformer-XL (Dai et al. 2019, arXiv 1901.02860), gradients flow through the cache until the caller
    detaches it.
    """

    stores_state = False

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 2, num_heads: int = 4, window: int = 64
    ) -> None:
        super().__init__()
        check_sizes(
            "Transformer",
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_heads=num_heads,
            window=window,
        )
        if hidden_size % (2 * num_heads):
            raise UserError(
                f"hidden_size {hidden_size} does not split into {num_heads} heads of an even size in Transformer: "
                f"give a multiple of {2 * num_heads}, such as {-(-hidden_size // (2 * num_heads)) * 2 * num_heads}"
            )
        self.input_size = input_size
        self.output_size = hidden_size
        self.num_heads = num_heads
        self.window = window
        self.input = nn.Linear(input_size, hidden_size)
        self.layers = nn.ModuleList(_Layer(hidden_size, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size)

    def initial_state(self, batch_size: int) -> SlidingCache:
        """An empty cache: zeros, of which `num_steps` = 0 hides every key."""
        head_size = self.output_size // self.num_heads
        weight = self.input.weight
        empty = tuple(weight.new_zeros(batch_size, self.num_heads, self.window - 1, head_size) for _ in self.layers)
        return SlidingCache(empty, empty, torch.zeros(batch_size, dtype=torch.int64, device=weight.device))

    def unroll(
        self, x: Float[Tensor, "T B D"], state: State, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], SlidingCache]:
        """Read T rows; see `Memory.unroll`."""
        return unroll_in_blocks(self._unroll_block, x, state, is_first, self.window)

    def _unroll_block(self, x: Tensor, cache: SlidingCache, is_first: Tensor) -> tuple[Tensor, SlidingCache]:
        position = positions(is_first.T, cache.num_steps)
        visible = visible_keys(position, self.window)[:, None]  # the same for all heads
        rotation = _rotation(visible.shape[-1], self.output_size // self.num_heads, x)
        u = self.input(x)
        keys, values = [], []
        for layer, layer_keys, layer_values in zip(self.layers, cache.keys, cache.values, strict=True):
            u, layer_keys, layer_values = layer(u, layer_keys, layer_values, visible, rotation)
            keys.append(layer_keys)
            values.append(layer_values)
        return self.norm(u), SlidingCache(tuple(keys), tuple(values), position[:, -1] + 1)


class _Layer(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.attention_output = nn.Linear(hidden_size, hidden_size)
        self.mlp_norm = nn.LayerNorm(hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size), nn.GELU(), nn.Linear(4 * hidden_size, hidden_size)
        )

    def forward(
        self, u: Tensor, past_keys: Tensor, past_values: Tensor, visible: Tensor, rotation: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        T = u.shape[0]
        heads = self.query_key_value(self.attention_norm(u)).unflatten(-1, (3, self.num_heads, -1))
        queries, keys, values = heads.permute(2, 1, 3, 0, 4)  # each [B, num_heads, T, head_size]
        keys = torch.cat([past_keys, keys], dim=2)
        values = torch.cat([past_values, values], dim=2)
        attended = F.scaled_dot_product_attention(
            _rotate(queries, rotation[:, -T:]), _rotate(keys, rotation), values, attn_mask=visible
        )
        u = u + self.attention_output(attended.permute(2, 0, 1, 3).flatten(2))
        # T rows came, so T leave: what is left are the last window - 1.
        return u + self.mlp(self.mlp_norm(u)), keys[:, :, T:], values[:, :, T:]


def _rotation(num_positions: int, head_size: int, like: Tensor) -> Tensor:
    """Cosines and sines [2, num_positions, head_size / 2] of the angles position · 10000^(−2i / head_size)."""
    frequency = 10_000 ** -torch.arange(0, 1, 2 / head_size, dtype=torch.float64)
    # In float64 and on the CPU, since not every device has it: in float32, large angles would lose their last digits.
    angle = torch.arange(num_positions, dtype=torch.float64)[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()]).to(like)


def _rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """Turn each pair (i, i + head_size / 2) of `heads` [..., position, head_size] by its position's angle."""
    cos, sin = rotation
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
