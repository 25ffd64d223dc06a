"""GPT-2: a transformer with learned positions. `gpt2_folder` reads one that Hugging Face has saved."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from seqrl.errors import UserError
from seqrl.language.key_value_cache import KeyValueCache, room_for
from seqrl.language.model import LanguageModel, Said
from seqrl.memory.checkpointing import checkpointed
from seqrl.memory.kernels import native_gpt2
from seqrl.memory.kernels.native_attention import (
    attend_next,
    attend_whole,
    gelu,
    gelu_in_place,
    native_attends,
    native_attends_whole,
)

WORTH_SORTING = 4
"""Tokens of an utterance from which on it is said in one go."""

PARTS = {
    "attention_norm": "ln_1", "query_key_value": "attn.c_attn", "attention_out": "attn.c_proj",
    "inner_norm": "ln_2", "inner": "mlp.c_fc", "inner_out": "mlp.c_proj",
}  # fmt: skip
"""A layer's parts, and what Hugging Face calls them."""


@dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """The sizes of a GPT-2."""

    vocabulary_size: int
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    context_length: int = 512
    """The most tokens that a conversation may have."""
    epsilon: float = 1e-5
    """Of the norms."""

    def __post_init__(self) -> None:
        for name in ("vocabulary_size", "hidden_size", "num_layers", "num_heads", "context_length"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)} in GPT2Config: it must be at least 1")
        if self.hidden_size % self.num_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} does not split into {self.num_heads} heads in GPT2Config: "
                f"give a multiple of {self.num_heads}"
            )


class GPT2(LanguageModel):
    """A causal transformer with norms first, learned positions, and one table for what is read and what is said.

        u_t⁰ = e_{token_t} + p_t
        v_t  = u_t^{l−1} + Attention(norm(u_t^{l−1}); keys and values of norm(u_s^{l−1}), s ≤ t)
        u_t^l = v_t + W gelu(W' norm(v_t)),        y_t = norm(u_t^{num_layers}),      logits_t = e y_t

    GELU is its tanh form, the inner layer four times as wide. There is no dropout: speaking and training compute the
    same function. Weights begin normal, 0.02 wide, those that end in the residual sum by √(2 · num_layers) narrower.

    A context holds `KeyValueCache`, which is written in place.

    Shapes: tokens [T, B] -> y [T, B, hidden_size] -> logits [T, B, vocabulary_size].
    Raises UserError for a conversation that outgrows `context_length`.
    Source: Radford et al. 2019, "Language models are unsupervised multitask learners". Differs: no dropout.
    """

    gradient_checkpointing = False

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.vocabulary_size, self.output_size = config.vocabulary_size, config.hidden_size
        self.context_length: int = config.context_length
        self.embedding = nn.Embedding(config.vocabulary_size, config.hidden_size)
        self.position = nn.Embedding(config.context_length, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size, config.epsilon)
        self._head_size = config.hidden_size // config.num_heads
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                narrow = math.sqrt(2 * self.config.num_layers) if name.endswith("out.weight") else 1.0
                nn.init.normal_(parameter, std=0.02 / narrow)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Int[Tensor, "T B"]) -> Float[Tensor, "T B H"]:
        self._check_length(len(tokens))
        u = self.embedding(tokens.T) + self.position.weight[: len(tokens)]
        for layer in self.layers:
            u = checkpointed(layer, self.gradient_checkpointing, u)
        return self.norm(u).transpose(0, 1)

    def forward_alike(self, tokens: Int[Tensor, "T B"], group_size: int) -> Float[Tensor, "T B H"]:
        (T, B), G = tokens.shape, group_size
        if G == 1 or B % G:
            return self(tokens)
        groups = tokens.unflatten(1, (-1, G))
        alike = (groups == groups[:, :, :1]).flatten(1).all(1).long().cumprod(0)
        P = min(int(alike.sum()), T - 1)
        if P < 1:
            return self(tokens)
        self._check_length(T)
        shared = self.embedding(tokens[:P, ::G].T) + self.position.weight[:P]
        own = self.embedding(tokens[P:].T) + self.position.weight[P:T]
        u = torch.cat([shared.flatten(0, 1), own.flatten(0, 1)])
        visible = torch.ones(T - P, T, dtype=torch.bool, device=u.device).tril(P)
        layers: list[Any] = list(self.layers)
        for layer in layers:
            u = checkpointed(layer.forward_alike, self.gradient_checkpointing, u, (B // G, G, P), visible)
        u = self.norm(u)
        shared = u[: len(u) - B * (T - P)].view(B // G, P, -1).repeat_interleave(G, 0)
        return torch.cat([shared, u[len(u) - B * (T - P) :].view(B, T - P, -1)], 1).transpose(0, 1)

    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    def enable_gradient_checkpointing(self) -> None:
        self.gradient_checkpointing = True

    def logits(self, y: Float[Tensor, "*shape H"]) -> Float[Tensor, "*shape V"]:
        return F.linear(y, self.embedding.weight)

    def start(self, batch_size: int) -> KeyValueCache:
        sizes = len(self.layers), batch_size, self.config.num_heads, self._head_size
        return KeyValueCache.empty(self.embedding.weight, *sizes)

    @torch.no_grad()
    def read(
        self, tokens: Int[Tensor, "T B"], count: Int[Tensor, "B"], context: KeyValueCache
    ) -> tuple[Float[Tensor, "B H"], KeyValueCache]:
        T, cache = len(tokens), context
        length = cache.length + count
        # A single token a column, as in speaking, needs no exact number until the bound says that it might not fit.
        most = cache.most + 1 if T == 1 and cache.most < self.context_length else int(length.max())
        self._check_length(most)
        stop = cache.most + T  # columns that read less leave tokens behind their end, which need slots too
        if cache.most == 0 and T > 1 and native_attends_whole(self.embedding.weight, self._head_size):
            weights, epsilon = self._weights(), self.config.epsilon
            cache.renew(room_for(stop))
            y = native_gpt2.read_beginnings(weights, cache.layers, tokens, count, epsilon)
            return y, KeyValueCache(cache.layers, length, most)
        if stop > cache.capacity:
            cache.grow(room_for(stop))
        cache.settle()
        place = cache.length[:, None] + torch.arange(T, device=tokens.device)  # [B, T], of each token
        u = self.embedding(tokens.T) + self.position(place.clamp(max=self.context_length - 1))
        u = self._read_layers(u, cache, place, stop)
        last = u[:, 0] if T == 1 else u[torch.arange(len(u), device=u.device), (count - 1).clamp(min=0)]
        return self.norm(last), KeyValueCache(cache.layers, length, most)

    def _read_layers(self, u: Tensor, cache: KeyValueCache, place: Int[Tensor, "B T"], stop: int) -> Tensor:
        T = u.shape[1]
        layers: list[Any] = list(self.layers)
        if T == 1 and native_attends(u, self._head_size):
            u = u[:, 0]
            for layer, kept in zip(layers, cache.layers, strict=True):
                u = layer.next(u, kept, cache.length)
            return u[:, None]
        mask = None
        if cache.most:
            hidden = torch.arange(stop, device=u.device) > place[..., None]  # [B, T, stop]
            mask = torch.zeros(hidden.shape, dtype=u.dtype, device=u.device).masked_fill_(hidden, -torch.inf)
            mask = mask[:, None].expand(-1, self.config.num_heads, -1, -1).contiguous()
        for layer, kept in zip(layers, cache.layers, strict=True):
            u = layer(u, kept, place, mask)
        return u

    @torch.no_grad()
    def say(
        self,
        logits: Float[Tensor, "B V"],
        context: KeyValueCache,
        uniform: Float[Tensor, "N B"],
        speaks: Bool[Tensor, "B"],
        allowed: Bool[Tensor, "V"],
        stop_id: int,
        temperature: float,
    ) -> tuple[Said, KeyValueCache] | None:
        cache, N = context, len(uniform)
        longest = int(cache.length.masked_fill(~speaks, 0).max())
        # Who stops in time may have room yet: `read` sees to each token. To sort the weights takes as long as a step.
        if longest + N > self.context_length or N < WORTH_SORTING:
            return None
        if not native_attends(logits, self._head_size):
            return None
        cache.settle()
        ids, log_prob, spoken = native_gpt2.speak(
            self._weights(), cache.layers, cache.length, logits, uniform, speaks, allowed,
            stop_id=stop_id, temperature=temperature, epsilon=self.config.epsilon,
        )  # fmt: skip
        length = cache.length + spoken.said
        return Said(ids, spoken.said, log_prob), KeyValueCache(cache.layers, length, int(length.max()), spoken)

    def _weights(self) -> list[Tensor]:
        """All weights, in the order of the C++ kernels."""
        layers: list[Any] = list(self.layers)
        return [
            self.embedding.weight, self.position.weight, self.norm.weight, self.norm.bias, self.embedding.weight.T,
            *(getattr(getattr(layer, part), leaf) for layer in layers for part in PARTS for leaf in ("weight", "bias")),
        ]  # fmt: skip

    def take(self, context: KeyValueCache, index: Int[Tensor, "N"]) -> KeyValueCache:
        return context.take(index)

    def _check_length(self, length: int) -> None:
        if length > self.context_length:
            raise UserError(
                f"a conversation has {length} tokens, but this GPT-2 reads {self.context_length}: give it a longer "
                "context_length, or let utterances and conversations be shorter"
            )


class _Layer(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_heads
        self.attention_norm = nn.LayerNorm(size, config.epsilon)
        self.query_key_value = _Linear(size, 3 * size)
        self.attention_out = _Linear(size, size)
        self.inner_norm = nn.LayerNorm(size, config.epsilon)
        self.inner = _Linear(size, 4 * size)
        self.inner_out = _Linear(4 * size, size)

    def forward(
        self,
        u: Float[Tensor, "B T H"],
        kept: Float[Tensor, "2 B num_heads C head_size"] | None = None,
        place: Int[Tensor, "B T"] | None = None,
        mask: Float[Tensor, "B num_heads T S"] | None = None,
    ) -> Float[Tensor, "B T H"]:
        """Rows from a conversation's beginning; with `mask`, those at `place`, to whose scores of S slots it is added.

        Keys and values are written to `kept`, if given.
        """
        B, T, H = u.shape
        if mask is None and kept is None and native_attends_whole(u, H // self.num_heads):
            return self._whole(u.flatten(0, 1), (B, 1, 0, T)).view(B, T, H)
        parts = self.query_key_value(self.attention_norm(u))
        heads = parts.view(B, T, 3, self.num_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        if kept is not None and mask is not None:
            column = torch.arange(B, device=u.device)[:, None]
            kept[:, column, :, place] = heads[:, :, 1:]  # indices on either side of a slice put [B, T] first
            key, value = kept[:, :, :, : mask.shape[-1]]
        elif kept is not None:
            kept[:, :, :, :T] = heads[:, :, 1:].permute(2, 0, 3, 1, 4)
        if T == 1 and mask is not None:
            attended = _attend(query, key, value, mask)
        else:
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        return self._rest(u, attended.transpose(1, 2).reshape(B, T, H))

    def _rest(self, u: Tensor, attended: Tensor) -> Tensor:
        u = u + self.attention_out(attended)
        return u + self.inner_out(F.gelu(self.inner(self.inner_norm(u)), approximate="tanh"))

    def _whole(self, u: Float[Tensor, "N H"], sizes: tuple[int, int, int, int]) -> Float[Tensor, "N H"]:
        """Whole conversations, laid out as `attend_whole` says, by the C++ kernels: a bias is added where its sum is
        read or written next, and not by itself."""
        parts = self.attention_norm(u) @ self.query_key_value.weight
        attended = attend_whole(parts, self.query_key_value.bias, self.num_heads, sizes)
        u = (u + self.attention_out.bias).addmm_(attended, self.attention_out.weight)
        inner = gelu(self.inner_norm(u) @ self.inner.weight, self.inner.bias)
        return (u + self.inner_out.bias).addmm_(inner, self.inner_out.weight)

    def forward_alike(
        self, u: Float[Tensor, "N H"], sizes: tuple[int, int, int], visible: Bool[Tensor, "R S"]
    ) -> Float[Tensor, "N H"]:
        """Rows that the conversations of a group share, [num_groups, P], and behind them those that each has by itself,
        [num_groups · group_size, R], which also look at the shared ones. `sizes` are (num_groups, group_size, P)."""
        num_groups, G, P = sizes
        if native_attends_whole(u, u.shape[1] // self.num_heads):
            return self._whole(u, (num_groups, G, P, len(visible)))
        parts = self.query_key_value(self.attention_norm(u))
        shared_parts, own_parts = parts.split([num_groups * P, len(u) - num_groups * P])

        def heads(rows: Tensor, columns: int) -> Tensor:
            return rows.view(columns, -1, 3, self.num_heads, u.shape[1] // self.num_heads).permute(2, 0, 3, 1, 4)

        shared, own = heads(shared_parts, num_groups), heads(own_parts, num_groups * G)
        everybodys = shared[1:].unsqueeze(2).expand(-1, -1, G, -1, -1, -1)
        key, value = torch.cat([everybodys, own[1:].unflatten(1, (-1, G))], 4).flatten(1, 2)
        attended = (
            F.scaled_dot_product_attention(shared[0], shared[1], shared[2], is_causal=True),
            F.scaled_dot_product_attention(own[0], key, value, attn_mask=visible),
        )
        return self._rest(u, torch.cat([each.transpose(1, 2).reshape(-1, u.shape[1]) for each in attended]))

    def next(self, u: Float[Tensor, "B H"], kept: Tensor, place: Int[Tensor, "B"]) -> Float[Tensor, "B H"]:
        """A single row, by the C++ kernels. No gradient."""
        parts = self.query_key_value(self.attention_norm(u))
        u = u + self.attention_out(attend_next(parts, place, kept))
        return u + self.inner_out(gelu_in_place(self.inner(self.inner_norm(u))))


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention of a single row, which waits for keys and values alone: faster than the fused function on the CPU."""
    query, key, value, scores = (leaf.flatten(0, 1) for leaf in (query, key, value, mask))
    scores = torch.baddbmm(scores, query, key.mT, alpha=query.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(-1), value).view(*mask.shape[:3], -1)


class _Linear(nn.Module):
    """x W + b with W [in, out], as GPT-2's weights are stored: few rows are multiplied faster so."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(input_size, output_size))
        self.bias = nn.Parameter(torch.empty(output_size))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.flatten(0, -2), self.weight).unflatten(0, x.shape[:-1])
