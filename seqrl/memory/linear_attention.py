"""Linear attention: a memory that writes each row under a key, and reads what was written under keys like its own."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqrl.memory.base import Memory, State
from seqrl.memory.sizes import check_sizes

CHUNK = 32
"""Rows that attend to each other as matrices; what lies before them is read from the table. Decays within a chunk stay
above e^−CHUNK, so that their inverses are finite in float32."""
SHARPNESS = 8.0
"""Scale of the keys' logits. At 1 all keys start alike, and what is written under one is drowned by all the others."""


class HeadTables(NamedTuple):
    """What a layer remembers: by head, the query of the last row [B, num_heads, key_size], and the table with its
    counts, [B, num_heads, key_size, value_size + 1]."""

    query: Tensor
    table: Tensor


class LinearAttention(Memory):
    """A table that is written under keys and read by queries: it binds what it asked to what came of it.

    With u⁰ = W x, each layer computes, for each head (its own W and b) and with n_t = norm(u_t),

        q_t = softmax(8 W_q n_t),   k_t = q_{t−1},   v_t = (W_v n_t + b_v) ⊙ silu(W_g n_t + b_g)
        w_t = σ(W_w n_t + b_w),     f_t = exp(−σ(W_f n_t + b_f))                    what is written, what is kept
        S_t = f_t S_{t−1} + w_t k_t [v_t, 1]ᵀ,   (s, z) = q_tᵀ S_t                  the table, the sum and count read
        u_t ← u_t + W_o [s / (1 + z), 1 / (1 + z)] + b_o,                           over all heads side by side
        u_t ← u_t + MLP(norm(u_t)),                                                 y_t = norm(u_t) of the last layer

    A row holds o_t and the a_{t−1} and r_{t−1} that led there, so what belongs together stands in two rows: **a row is
    written under the query of the row before.** An agent that comes back to a state finds there what its actions
    brought, from the first update on, where a recurrent network must first learn to tell states apart. At `is_first`
    the key is 1 / key_size: such a row is found by every query.

    s / (1 + z) is the posterior mean of the values under a prior of one observation of 0, and 1 / (1 + z) says how
    little is known, which is what exploration needs. Gates start at w ≈ 0.88 and at time constants −1 / log f spread
    evenly in logarithm from 10 to 10,000 steps over the heads, so that one head forgets within an episode.

    Training takes chunks of 32 rows, in which scores are a matrix, and carries S between them; acting takes the
    recurrence. Resets cut by masks: neither value nor gradient crosses them.

    Shapes: x [T, B, input_size] -> y [T, B, hidden_size]. State: `HeadTables` for each layer.
    Raises UserError where a size is below 1.

    Sources: linear attention (Katharopoulos et al. 2020, arXiv 2006.16236) is a table of fast weights (Schlag et al.
    2021, arXiv 2102.11174); the chunks are those of RetNet (Sun et al. 2023, arXiv 2307.08621) and GLA (Yang et al.
    2023, arXiv 2312.06635), a scalar gate for each head that of Mamba-2 (Dao & Gu 2024, arXiv 2405.21060). Unlike
    them, keys are the queries of the row before, the read is divided by one plus the count, the gate cannot forget more
    than e-fold in a step, and the count itself is read. Their output gate, which starts near zero, kept it from
    learning (docs/log.md).
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, num_layers: int = 1, num_heads: int = 4, key_size: int = 16
    ) -> None:
        super().__init__()
        check_sizes(
            "LinearAttention",
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_heads=num_heads,
            key_size=key_size,
        )
        self.input_size, self.output_size = input_size, hidden_size
        self.num_heads, self.key_size, self.value_size = num_heads, key_size, -(-hidden_size // num_heads)
        self.input = nn.Linear(input_size, hidden_size)
        self.layers = nn.ModuleList(_Layer(hidden_size, num_heads, key_size) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size)

    def initial_state(self, batch_size: int) -> tuple[HeadTables, ...]:
        """Empty tables, and the even query under which the first row is written."""
        shape = (batch_size, self.num_heads, self.key_size)
        new = self.input.weight.new_full
        return tuple(
            HeadTables(new(shape, 1 / self.key_size), new((*shape, self.value_size + 1), 0.0)) for _ in self.layers
        )

    def unroll(
        self, x: Float[Tensor, "T B D"], state: State, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], tuple[HeadTables, ...]]:
        """Read T rows; see `Memory.unroll`."""
        u = self.input(x.transpose(0, 1).contiguous())  # batch first: a head's rows lie together
        first = is_first.T
        after = []
        for layer, (query, table) in zip(self.layers, state, strict=True):
            u, last = layer(u, query, table, first)
            after.append(last)
        return self.norm(u).transpose(0, 1), tuple(after)


class _Layer(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int, key_size: int) -> None:
        super().__init__()
        self.num_heads, self.key_size, self.value_size = num_heads, key_size, -(-hidden_size // num_heads)
        self.norm = nn.LayerNorm(hidden_size)
        self.query = nn.Linear(hidden_size, num_heads * key_size, bias=False)
        self.value = nn.Linear(hidden_size, 2 * num_heads * self.value_size)
        self.gates = nn.Linear(hidden_size, 2 * num_heads)
        self.output = nn.Linear(num_heads * (self.value_size + 1), hidden_size)
        self.mlp = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.Linear(hidden_size, 2 * hidden_size),
            nn.GELU(),
            nn.Linear(2 * hidden_size, hidden_size),
        )
        forget, write = self.gates.bias.data.chunk(2)
        forget.copy_(torch.logspace(-1, -4, num_heads).logit())
        write.fill_(2.0)

    def forward(self, u: Tensor, query: Tensor, table: Tensor, first: Tensor) -> tuple[Tensor, HeadTables]:
        """u [B, T, D] after the layer, and what it remembers then."""
        n, dtype = self.norm(u), table.dtype  # under autocast, what is summed and exponentiated stays in float32
        q = self._heads(self.query(n).to(dtype) * SHARPNESS).softmax(-1)
        k = torch.cat([query[:, :, None], q[:, :, :-1]], 2).masked_fill(first[:, None, :, None], 1 / self.key_size)
        value, gate = self.value(n).to(dtype).chunk(2, -1)
        v = F.pad(self._heads(value * F.silu(gate)), (0, 1), value=1.0)
        forget, write = self.gates(n).to(dtype).sigmoid().transpose(1, 2).chunk(2, 1)
        read, table = linear_attention(q, k * write[..., None], v, -forget, first, table)
        total, count = read.split([self.value_size, 1], -1)
        share = 1 / (1 + count)
        u = u + self.output(torch.cat([total * share, share], -1).transpose(1, 2).flatten(2))
        return u + self.mlp(u), HeadTables(q[:, :, -1], table)

    def _heads(self, flat: Tensor) -> Tensor:
        return flat.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def linear_attention(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H T K"],
    v: Float[Tensor, "B H T V"],
    log_forget: Float[Tensor, "B H T"],
    is_first: Bool[Tensor, "B T"],
    table: Float[Tensor, "B H K V"],
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H K V"]]:
    """y_t = q_tᵀ S_t for S_t = exp(log_forget_t) S_{t−1} + k_t v_tᵀ, S = 0 before each `is_first`; and the last S.

    `log_forget` lies in [−1, 0]. With c_t its sum over the rows of the chunk up to t, row t reads row s ≤ t by
    e^{c_t} q_t · e^{−c_s} k_s: products, and no matrix of decays.
    """
    table = table.masked_fill(is_first[:, 0, None, None, None], 0)
    if q.shape[2] == 1:  # acting: products of single rows are a tenth as quick as matrices
        table = torch.addcmul(log_forget.exp()[..., None] * table, k.transpose(-1, -2), v)
        return (q.transpose(-1, -2) * table).sum(-2, keepdim=True), table
    resets = bool(is_first[:, 1:].any())  # seldom, and then two masks more
    outputs = []
    # Split, not sliced: the gradient of a slice is written into zeros as large as the whole, once for each chunk.
    parts = zip(*(whole.split(CHUNK, 2) for whole in (q, k, v, log_forget)), is_first.split(CHUNK, 1), strict=True)
    for q_rows, k_rows, values, log_rows, first in parts:
        kept = log_rows.cumsum(-1)[..., None]
        queries, keys = q_rows * kept.exp(), k_rows * (-kept).exp()
        scores = (queries @ keys.transpose(-1, -2)).tril()
        if resets:
            episode = first.cumsum(-1)[:, None]  # [B, 1, rows], of this chunk
            scores = scores.masked_fill(episode[..., None] != episode[..., None, :], 0)
            queries = queries.masked_fill(episode[..., None] > 0, 0)
            keys = keys.masked_fill((episode != episode[..., -1:])[..., None], 0)
            before = table.masked_fill(episode[..., -1:, None] > 0, 0)
        else:
            before = table
        outputs.append(scores @ values + queries @ table)
        table = kept[:, :, -1:].exp() * (before + keys.transpose(-1, -2) @ values)
    return torch.cat(outputs, 2), table
