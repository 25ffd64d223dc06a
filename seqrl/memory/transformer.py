"""A transformer whose context is a window that slides along the episode."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqrl.errors import UserError
from seqrl.memory.base import Memory, State
from seqrl.memory.checkpointing import checkpointed
from seqrl.memory.kernels.native_attention import native_attends
from seqrl.memory.kernels.native_episodes import Episodes, attend_episodes
from seqrl.memory.sizes import check_sizes
from seqrl.memory.sliding_window import SlidingCache, positions, unroll_in_blocks, visible_keys


class Transformer(Memory):
    """A causal transformer: in each layer, a row attends to itself and to the window − 1 rows before it in its episode.

    With u⁰ = W x, layer l = 1 … num_layers computes

        v_t  = u_t^{l−1} + Attention(norm(u_t^{l−1}); keys and values of norm(u_s^{l−1}), s ∈ visible(t))
        u_t^l = v_t + MLP(norm(v_t)),        y_t = norm(u_t^{num_layers})
        visible(t) = {s : 0 ≤ t − s < window, and no `is_first` in (s, t]}

    Norms come first, the MLP is GELU (or ReLU) and four times as wide. Positions are rotary, so relative. There is no
    dropout: acting and training compute the same function.

    *The context is a sliding cache.* A cached key of a deep layer was computed from rows that have since left the
    window, and the whole unroll uses the same key: y_t depends on the last num_layers · (window − 1) + 1 rows of the
    episode. It is not the transformer re-run on the last `window` rows, which would forget more.

    The state holds window − 1 keys and values per layer. Keys are cached before rotation and rotated by their place in
    the block when used, so that angles stay below 2 · max(window, 64) however long the episode lasts.
    Time and memory of an unroll grow linearly with T, and those of a step with the window.

    *Several tokens a row.* With `tokens_per_row` n > 1, x_t holds n tokens side by side, each input_size / n wide. They
    stand one after the other in the sequence, window and state count rows as before, and y_t is read at the row's last
    token: in the last layer no other asks for anything, and none but it is computed further. This is how a Decision
    Transformer reads (action, return, observation). With `rotary` False nothing tells positions apart: for inputs that
    say themselves where they stand.

    Shapes: x [T, B, input_size] -> y [T, B, hidden_size]. State: `SlidingCache`.
    Raises UserError where a size is below 1, or where hidden_size / num_heads is not an even whole number.

    Sources: Vaswani et al. 2017 (arXiv 1706.03762); norms first, Xiong et al. 2020 (arXiv 2002.04745); rotary
    positions, Su et al. 2021 (arXiv 2104.09864); a window in every layer, Beltagy et al. 2020 (arXiv 2004.05150).
    Unlike in Transformer-XL (Dai et al. 2019, arXiv 1901.02860), gradients flow through the cache until the caller
    detaches it.
    """

    stores_state = False
    gradient_checkpointing = False
    """Whether a layer's inner results are computed again for the gradient, in place of being kept."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 2,
        num_heads: int = 4,
        window: int = 64,
        tokens_per_row: int = 1,
        rotary: bool = True,
        activation: Literal["gelu", "relu"] = "gelu",
    ) -> None:
        super().__init__()
        check_sizes(
            "Transformer",
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_heads=num_heads,
            window=window,
            tokens_per_row=tokens_per_row,
        )
        if hidden_size % (2 * num_heads):
            raise UserError(
                f"hidden_size {hidden_size} does not split into {num_heads} heads of an even size in Transformer: "
                f"give a multiple of {2 * num_heads}, such as {-(-hidden_size // (2 * num_heads)) * 2 * num_heads}"
            )
        if input_size % tokens_per_row:
            raise UserError(
                f"input_size {input_size} does not split into {tokens_per_row} tokens in Transformer: give a multiple"
            )
        self.input_size = input_size
        self.output_size = hidden_size
        self.num_heads = num_heads
        self.window = window
        self.tokens_per_row = tokens_per_row
        self.rotary = rotary
        self.input = nn.Linear(input_size // tokens_per_row, hidden_size)
        self.layers = nn.ModuleList(_Layer(hidden_size, num_heads, activation) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size)

    def initial_state(self, batch_size: int) -> SlidingCache:
        """An empty cache: zeros, of which `num_steps` = 0 hides every key."""
        head_size = self.output_size // self.num_heads
        num_tokens = (self.window - 1) * self.tokens_per_row
        weight = self.input.weight
        empty = tuple(weight.new_zeros(batch_size, self.num_heads, num_tokens, head_size) for _ in self.layers)
        return SlidingCache(empty, empty, torch.zeros(batch_size, dtype=torch.int64, device=weight.device))

    def unroll(
        self, x: Float[Tensor, "T B D"], state: State, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], SlidingCache]:
        """Read T rows; see `Memory.unroll`."""
        return unroll_in_blocks(self._unroll_block, x, state, is_first, self.window)

    def reads_episodes(self, longest: int) -> bool:
        """Whether `read_episodes` can read episodes of up to so many rows."""
        weight = self.input.weight
        fits = self.tokens_per_row == 1 and longest <= self.window
        return fits and native_attends(weight, self.output_size // self.num_heads)

    def read_episodes(self, x: Float[Tensor, "N D"], episodes: Episodes) -> Float[Tensor, "M H"]:
        """What `unroll` gives of whole episodes, each from a fresh start, at the rows that ask.

        The N rows stand end to end, so that nothing is computed of padding; in the last layer, nothing but keys and
        values of rows that do not ask. It keeps no state, and works where `reads_episodes` says so.
        """
        u, everywhere = self.input(x), episodes.all_asking()
        rotation = _rotation(episodes.longest, self.output_size // self.num_heads, x) if self.rotary else None
        layers: list[Any] = list(self.layers)
        for layer in layers:
            these = episodes if layer is layers[-1] else everywhere
            u = checkpointed(layer.read_episodes, self.gradient_checkpointing, u, these, rotation)
        return self.norm(u)

    def append(
        self, x: Float[Tensor, "B T D"], kept: Sequence[Float[Tensor, "2 B num_heads S head_size"]], place: Tensor
    ) -> Float[Tensor, "B T H"]:
        """Rows at `place` [B, T] of episodes whose earlier rows are `kept`: what `unroll` gives, which keeps a window.

        A layer keeps keys, turned by their place, and values; those of these rows are added in place. So nothing is
        copied, and nothing turned twice. What stands behind a row is not seen, but must be numbers. No gradient flows
        through what is kept.
        """
        age = place[..., None] - torch.arange(kept[0].shape[3], device=x.device)  # [B, T, S]
        visible = ((age >= 0) & (age < self.window))[:, None]
        rotation = None
        if self.rotary:
            rotation = _rotation(kept[0].shape[3], self.output_size // self.num_heads, x)[:, place][:, :, None]
        u = self.input(x)
        layers: list[Any] = list(self.layers)
        for layer, past in zip(layers, kept, strict=True):
            u = layer.append(u, past, place, visible, rotation)
        return self.norm(u)

    def _unroll_block(self, x: Tensor, cache: SlidingCache, is_first: Tensor) -> tuple[Tensor, SlidingCache]:
        T, n = len(x), self.tokens_per_row
        u = self.input(x.transpose(0, 1).reshape(x.shape[1], T * n, -1))  # [B, tokens, hidden_size]
        position = positions(is_first.T, cache.num_steps)
        # Logged episodes and dialogues begin afresh, and nothing resets inside: the cache then holds nothing to see.
        # What is exported must be one graph for every input, so it always looks.
        fresh = (
            not torch.compiler.is_compiling()
            and self.window >= T
            and bool((position == torch.arange(T, device=x.device)).all())
        )
        visible = None if fresh else _visible_tokens(visible_keys(position, self.window), n)
        num_keys = T * n if fresh else cache.keys[0].shape[2] + T * n
        rotation = _rotation(num_keys, self.output_size // self.num_heads, x) if self.rotary else None
        keys, values = [], []
        for layer, *past in zip(self.layers, cache.keys, cache.values, strict=True):
            every = n if layer is self.layers[-1] else 1
            inputs = u, None if fresh else past, visible, rotation, every
            u, layer_keys, layer_values = checkpointed(layer, self.gradient_checkpointing, *inputs)
            keys.append(self._cached(past[0], layer_keys))
            values.append(self._cached(past[1], layer_values))
        return self.norm(u).transpose(0, 1), SlidingCache(tuple(keys), tuple(values), position[:, -1] + 1)

    def _cached(self, past: Tensor, heads: Tensor) -> Tensor:
        """The window's last rows of `heads`, which begin with `past` or, where nothing past is seen, do not."""
        size = past.shape[2]
        if heads.shape[2] >= size:
            return heads[:, :, heads.shape[2] - size :]
        return torch.cat([past[:, :, heads.shape[2] :], heads], 2)


def _visible_tokens(visible: Tensor, num_tokens: int) -> Tensor:
    """From which rows see which, [B, T, S], which tokens do, [B, 1, T · n, S · n]: of its own row's, those before it.

    The second axis is the heads'.
    """
    visible = visible.repeat_interleave(num_tokens, -1).repeat_interleave(num_tokens, -2)
    if num_tokens > 1:
        visible = visible.tril(visible.shape[-1] - visible.shape[-2])
    return visible[:, None]


class _Layer(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int, activation: str) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.attention_output = nn.Linear(hidden_size, hidden_size)
        self.mlp_norm = nn.LayerNorm(hidden_size)
        middle = nn.GELU() if activation == "gelu" else nn.ReLU()
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size), middle, nn.Linear(4 * hidden_size, hidden_size)
        )

    def forward(
        self, u: Tensor, past: Sequence[Tensor] | None, visible: Tensor | None, rotation: Tensor | None, every: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`every` n-th token of u [B, tokens, H] goes on, and all keys and values, `past` and own, are returned.

        Where nothing is past, `visible` is None: each token sees itself and those before it.
        """
        queries, keys, values = self._heads(self.attention_norm(u), every)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        rotated = keys
        if rotation is not None:
            queries = _rotate(queries, rotation[:, -u.shape[1] :][:, every - 1 :: every])
            rotated = _rotate(keys, rotation)
        if visible is not None:
            visible = visible[:, :, every - 1 :: every]
        elif every > 1:
            ones = torch.ones(u.shape[1], u.shape[1], dtype=torch.bool, device=u.device)
            visible = ones.tril()[every - 1 :: every]
        attended = F.scaled_dot_product_attention(
            queries, rotated, values, attn_mask=visible, is_causal=visible is None
        )
        u = u[:, every - 1 :: every] + self.attention_output(attended.transpose(1, 2).flatten(2))
        return u + self.mlp(self.mlp_norm(u)), keys, values

    def append(self, u: Tensor, past: Tensor, place: Tensor, visible: Tensor, rotation: Tensor | None) -> Tensor:
        """Rows u [B, T, H]; their keys and values go to `past` [2, B, num_heads, S, head_size]."""
        query, key, value = self._heads(self.attention_norm(u), 1)
        if rotation is not None:
            query, key = _rotate(query, rotation), _rotate(key, rotation)
        column = torch.arange(len(u), device=u.device)[:, None]
        # Indices on either side of a slice put [B, T] first.
        past[:, column, :, place] = torch.stack([key, value]).permute(1, 3, 0, 2, 4).to(past.dtype)
        keys, values = past.to(query.dtype)
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=visible)
        u = u + self.attention_output(attended.transpose(1, 2).flatten(2))
        return u + self.mlp(self.mlp_norm(u))

    def read_episodes(self, u: Tensor, episodes: Episodes, rotation: Tensor | None) -> Tensor:
        """The rows that ask of u [N, H] go on."""
        layer, size, normed = self.query_key_value, u.shape[-1], self.attention_norm(u)
        asking = normed
        if len(episodes.asking) < len(u):
            u, asking = u[episodes.asking], normed[episodes.asking]
        query = F.linear(asking, layer.weight[:size], layer.bias[:size])
        key_value = F.linear(normed, layer.weight[size:], layer.bias[size:])
        u = u + self.attention_output(attend_episodes(query, key_value, episodes, rotation, self.num_heads))
        return u + self.mlp(self.mlp_norm(u))

    def _heads(self, normed: Tensor, every: int) -> Iterator[Tensor]:
        """Queries of `every` n-th token, keys and values of all: each [B, num_heads, tokens, head_size]."""
        layer, size = self.query_key_value, normed.shape[-1]
        if every == 1:
            parts = layer(normed).chunk(3, -1)
        else:
            queries = F.linear(normed[:, every - 1 :: every], layer.weight[:size], layer.bias[:size])
            parts = (queries, *F.linear(normed, layer.weight[size:], layer.bias[size:]).chunk(2, -1))
        return (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)


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
