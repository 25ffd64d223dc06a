"""The contract of language models: they read tokens, a row each, and say how likely each next token is."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from seqrl.errors import UserError
from seqrl.language.key_value_cache import KeyValueCache, room_for
from seqrl.language.rows import Decisions
from seqrl.memory.base import Memory
from seqrl.memory.kernels.native_episodes import Episodes
from seqrl.memory.transformer import Transformer
from seqrl.trajectory import tree_map, where_rows

Context = Any
"""What a model has read so far: opaque to all but the model. Inference state, never part of a checkpoint."""


class Said(NamedTuple):
    """Tokens [N, B], of which column b's first `length[b]` were said, and the logarithms of their probabilities."""

    ids: Int[Tensor, "N B"]
    length: Int[Tensor, "B"]
    log_prob: Float[Tensor, "N B"]


class LanguageModel(nn.Module, ABC):
    """Reads conversations from their beginning, a column each.

    `forward` reads whole ones (training), `read` goes on from a context (speaking); the two cannot drift apart, since
    `seqrl.testing.check_language_model` proves for any model:

    1. *Chunking*: reading in pieces, of lengths that differ by column, equals reading the whole.
    2. *Independence*: a column equals that column alone, whatever stands beside it or behind its end.
    3. *Causality*: y_t does not depend on tokens after t, in values and in gradients.
    """

    vocabulary_size: int
    output_size: int
    context_length: int | None = None
    """The most tokens that a conversation may have; None for no limit."""

    @abstractmethod
    def forward(self, tokens: Int[Tensor, "T B"]) -> Float[Tensor, "T B H"]:
        """Features after each token, from a fresh start."""

    def forward_at(self, tokens: Int[Tensor, "T B"], chosen: Decisions) -> Float[Tensor, "D B H"]:
        """`forward` at the rows that are `chosen`; where none is, anything finite.

        Nothing else is asked for, so a model need not read what stands behind a column's last chosen row, such as
        padding.
        """
        return chosen.of(self(tokens))

    def blocks(self) -> list[nn.Module]:
        """What the model is a stack of, each of which is called as a module by `forward`; empty where it is none."""
        return []

    def forward_alike(self, tokens: Int[Tensor, "T B"], group_size: int) -> Float[Tensor, "T B H"]:
        """`forward` of conversations of which `group_size` in a row may begin alike: what they share need be read once
        only, where a model can."""
        return self(tokens)

    def enable_gradient_checkpointing(self) -> None:
        """From now on, let each layer's inner results be computed again for the gradient, in place of being kept.

        Values and gradients stay as they are. Raises UserError for a model without layers to do so.
        """
        raise UserError(
            f"--gradient-checkpointing with {type(self).__name__}: only transformers have blocks to compute again: "
            "leave it out"
        )

    @abstractmethod
    def logits(self, y: Float[Tensor, "*shape H"]) -> Float[Tensor, "*shape V"]:
        """Of each next token, unnormalised logarithms."""

    @abstractmethod
    def start(self, batch_size: int) -> Context:
        """A context in which nothing has been read."""

    @abstractmethod
    def read(
        self, tokens: Int[Tensor, "T B"], count: Int[Tensor, "B"], context: Context
    ) -> tuple[Float[Tensor, "B H"], Context]:
        """Go on by the first `count[b]` tokens of each column (0 … T); what stands behind them is not read.

        Returns the features after each column's last token, where `count` is 0 anything, and the new context. The
        old one must not be used again. A model may give no gradient.
        """

    def say(
        self,
        logits: Float[Tensor, "B V"],
        context: Context,
        uniform: Float[Tensor, "N B"],
        speaks: Bool[Tensor, "B"],
        allowed: Bool[Tensor, "V"],
        stop_id: int,
        temperature: float,
    ) -> tuple[Said, Context] | None:
        """Draw and read up to N tokens in one go, as `generate` would one by one; None where a model cannot.

        `uniform`, from 0 to below 1, decide what is drawn: token t of column b is the first whose probability, summed
        with those of all before it, exceeds uniform[t, b]. At temperature 0 it is the likeliest.
        """
        return None

    def take(self, context: Context, index: Int[Tensor, "N"]) -> Context:
        """A copy of the columns `index` of a context, in that order; one may come more than once."""
        return tree_map(lambda leaf: leaf.index_select(0, index), context)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


class MemoryModel(LanguageModel):
    """A language model of any memory: embedded tokens are its rows.

    y_t = memory(e_{token_0}, …, e_{token_t}),   logits_t = W y_t + b

    A context is the memory's state, but for a transformer's: that is a cache of all that was read, written in place.
    """

    def __init__(self, vocabulary_size: int, memory: Memory) -> None:
        super().__init__()
        self.vocabulary_size, self.output_size, self.memory = vocabulary_size, memory.output_size, memory
        self.embedding = nn.Embedding(vocabulary_size, memory.input_size)
        self.head = nn.Linear(memory.output_size, vocabulary_size)

    def forward(self, tokens: Tensor) -> Tensor:
        is_first = torch.zeros_like(tokens, dtype=torch.bool)
        is_first[0] = True
        y, _ = self.memory.unroll(self.embedding(tokens), self.memory.initial_state(tokens.shape[1]), is_first)
        return y

    def blocks(self) -> list[nn.Module]:
        return list(self.memory.layers) if isinstance(self.memory, Transformer) else []

    def enable_gradient_checkpointing(self) -> None:
        memory = self.memory
        if not isinstance(memory, Transformer):
            raise UserError(
                f"--gradient-checkpointing with a {type(memory).__name__}: only transformers have blocks to compute "
                "again: leave it out"
            )
        memory.gradient_checkpointing = True

    def forward_at(self, tokens: Tensor, chosen: Decisions) -> Tensor:
        """Conversations stand end to end where the memory can read them so: padding costs nothing."""
        length = chosen.row.masked_fill(~chosen.valid, -1).amax(0) + 1
        longest, memory = int(length.max()), self.memory
        if not isinstance(memory, Transformer) or longest == 0 or not memory.reads_episodes(longest):
            return chosen.of(self(tokens))
        read = torch.arange(len(tokens)) < length[:, None]  # [B, T], whose order the rows keep
        starts = F.pad(length.cumsum(0), (1, 0))
        asking = (starts[:-1] + chosen.row).T[chosen.valid.T]
        episodes = Episodes(starts, asking, F.pad(chosen.valid.sum(0).cumsum(0), (1, 0)), longest)
        y = memory.read_episodes(self.embedding(tokens.T[read]), episodes)
        columns = y.new_zeros(*chosen.row.T.shape, self.output_size)
        return columns.masked_scatter(chosen.valid.T[..., None], y).transpose(0, 1)

    def logits(self, y: Tensor) -> Tensor:
        return self.head(y)

    def start(self, batch_size: int) -> Context:
        memory = self.memory
        if not isinstance(memory, Transformer) or memory.tokens_per_row > 1:
            return memory.initial_state(batch_size)
        sizes = len(memory.layers), batch_size, memory.num_heads, self.output_size // memory.num_heads
        return KeyValueCache.empty(self.embedding.weight, *sizes)

    def take(self, context: Context, index: Tensor) -> Context:
        return context.take(index) if isinstance(context, KeyValueCache) else super().take(context, index)

    def read(self, tokens: Tensor, count: Tensor, context: Context) -> tuple[Tensor, Context]:
        if isinstance(context, KeyValueCache):
            return self._append(tokens, count, context)
        going_on = torch.zeros_like(tokens, dtype=torch.bool)
        x = self.embedding(tokens)
        if bool((count == len(tokens)).all()):
            y, context = self.memory.unroll(x, context, going_on)
            return y[-1], context
        last = x.new_zeros(tokens.shape[1], self.output_size)
        for t in range(len(tokens)):  # a memory has no rows that it skips, so columns that are through keep their state
            y, state = self.memory.unroll(x[t : t + 1], context, going_on[t : t + 1])
            reads = t < count
            last = torch.where(reads[:, None], y[0], last)
            context = where_rows(reads, state, context)
        return last, context

    @torch.no_grad()
    def _append(self, tokens: Tensor, count: Tensor, cache: KeyValueCache) -> tuple[Tensor, KeyValueCache]:
        memory, stop = self.memory, cache.most + len(tokens)
        assert isinstance(memory, Transformer), "only a transformer's context is such a cache"
        if stop > cache.capacity:
            cache.grow(room_for(stop))
        place = cache.length[:, None] + torch.arange(len(tokens), device=tokens.device)
        y = memory.append(self.embedding(tokens.T), [layer[:, :, :, :stop] for layer in cache.layers], place)
        last = y[torch.arange(len(y), device=y.device), (count - 1).clamp(min=0)]
        length = cache.length + count
        return last, KeyValueCache(cache.layers, length, int(length.max()))
