"""The laws of language models hold for ours, and `check_language_model` finds who breaks them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from seqrl.language.gpt2 import GPT2, GPT2Config
from seqrl.language.key_value_cache import KeyValueCache
from seqrl.language.model import LanguageModel, MemoryModel
from seqrl.language.rows import Decisions
from seqrl.memory import GRU, Transformer
from seqrl.testing import check_language_model

V = 9


def gpt2(context_length: int = 16) -> GPT2:
    """Weights are so large that attention is far from even, and a wrong key shows."""
    torch.manual_seed(0)
    config = GPT2Config(vocabulary_size=V, hidden_size=16, num_layers=2, num_heads=2, context_length=context_length)
    model = GPT2(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


# Must break, of a transformer's cache: `& (age < self.window)` left out; `_rotate(key, rotation)` replaced by key;
# `self.length[index]` in `take` replaced by `self.length[:1].expand(len(index))`.
@pytest.mark.parametrize(
    "build",
    [
        gpt2,
        lambda: MemoryModel(V, GRU(8, 12)),
        lambda: MemoryModel(V, Transformer(8, 16, num_layers=2, num_heads=2, window=20)),
        lambda: MemoryModel(V, Transformer(8, 16, num_layers=2, num_heads=2, window=4)),
    ],
)
def test_laws(build: Callable[[], LanguageModel]) -> None:
    check_language_model(build())


def test_laws_of_what_stands_end_to_end() -> None:
    model = MemoryModel(V, Transformer(16, 32, num_layers=2, num_heads=2, window=20))
    model.double = lambda: model  # the C++ kernels are of float32
    check_language_model(model)


def test_laws_of_a_gpt2_in_cpp() -> None:
    model = GPT2(GPT2Config(vocabulary_size=V, hidden_size=64, num_layers=2, num_heads=2, context_length=40))
    model.double = lambda: model  # the C++ kernels are of float32
    check_language_model(model)


# Broken by `F.pad(layer, (0, 0, more, 0))` where the cache grows.
def test_laws_where_the_cache_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqrl.language.key_value_cache.SMALLEST_CACHE", 2)
    check_language_model(gpt2())
    check_language_model(MemoryModel(V, Transformer(8, 16, num_layers=2, num_heads=2, window=4)))


# Broken by `place` without `clamp`: tokens that are not to be read lie behind the last position.
def test_laws_up_to_the_last_position() -> None:
    check_language_model(gpt2(context_length=7))


class Looks(GPT2):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) + super().forward(tokens).mean(0)


class Mixes(GPT2):
    def forward(self, tokens: Tensor) -> Tensor:
        y = super().forward(tokens)
        return y + y.mean(1, keepdim=True)


class ReadsBehind(GPT2):
    def read(self, tokens: Tensor, count: Tensor, context: Any) -> Any:
        return super().read(tokens, torch.full_like(count, len(tokens)), context)


class Forgets(GPT2):
    def read(self, tokens: Tensor, count: Tensor, context: Any) -> Any:
        y, context = super().read(tokens, count, context)
        return y, KeyValueCache(context.layers, context.length * (context.length != 5), context.most)


class Asks(GPT2):
    def forward_at(self, tokens: Tensor, chosen: Decisions) -> Tensor:
        return super().forward_at(tokens, chosen).flip(0)


class Takes(GPT2):
    def take(self, context: Any, index: Tensor) -> Any:
        return super().take(context, index.sort().values)


class Drops(GPT2):
    def forward(self, tokens: Tensor) -> Tensor:
        return torch.nn.functional.dropout(super().forward(tokens), 0.1)


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (Looks, "causality: y"),
        (Mixes, "independence: y"),
        (ReadsBehind, "chunking: y .* all at once"),
        (Forgets, "chunking: y .* one by one"),
        (Asks, "asking: y"),
        (Takes, "taking: y"),
        (Drops, "contract: y"),
    ],
)
def test_who_breaks_a_law_is_found(kind: type[GPT2], law: str) -> None:
    model = kind(gpt2().config)
    model.load_state_dict(gpt2().state_dict())
    with pytest.raises(AssertionError, match=law):
        check_language_model(model)
