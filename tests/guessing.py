"""A conversation so small that what a policy brings in it is known, and voices that differ."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from seqrl.language.generation import Plain
from seqrl.language.model import MemoryModel
from seqrl.memory.make import make_memory
from seqrl.text import Tokenizer
from seqrl.text.task import TaskState, TextTask, Turn


@dataclass(frozen=True, kw_only=True)
class Coin(TaskState):
    heads: bool


class Guess(TextTask[Coin]):
    """A hidden coin; what is said first shows it with the chance 0.8. Three utterances: each brings 1 for more "a" than
    "b" if heads and the reverse if tails, else 0, and is answered "h" or "t" as at first. Said rightly twice, it ends.
    """

    max_turns = 3

    def __init__(self) -> None:
        self.tokenizer = Tokenizer(["a", "b", "h", "t"])

    def start(self, generator: torch.Generator) -> tuple[Coin, str]:
        heads = bool(torch.rand((), generator=generator) < 0.6)
        return Coin(heads=heads), self._hint(heads, generator)

    def _hint(self, heads: bool, generator: torch.Generator) -> str:
        return "h" if heads == bool(torch.rand((), generator=generator) < 0.8) else "t"

    def _reply(self, state: Coin, utterance: str, generator: torch.Generator) -> Turn[Coin]:
        more = utterance.count("a") - utterance.count("b")
        right = more > 0 if state.heads else more < 0
        ended = state.turns + 1 == self.max_turns or utterance in ("aa", "bb")
        state = replace(state, turns=state.turns + 1, ended=ended)
        return Turn(state=state, text="" if ended else self._hint(state.heads, generator), reward=float(right))


class Sharper:
    """Another voice's logits times `factor`, and `liking` more for one token."""

    def __init__(self, voice: Plain, factor: float = 1.0, liking: float = 0.0, token: int = 6) -> None:
        self.voice, self.factor, self.liking, self.token = voice, factor, liking, token

    def start(self, batch_size: int) -> Any:
        return self.voice.start(batch_size)

    def read(self, tokens: Tensor, count: Tensor, context: Any) -> tuple[Tensor, Any]:
        logits, context = self.voice.read(tokens, count, context)
        logits = self.factor * logits
        logits[:, self.token] += self.liking
        return logits, context


def random_voice(tokenizer: Tokenizer, seed: int = 0, unlikely: str = "ht") -> Plain:
    """An untrained model that seldom says `unlikely`."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = MemoryModel(len(tokenizer), make_memory("gru", 8, 8))
        model.head.weight.mul_(3.0)
        model.head.bias[tokenizer.encode(unlikely)] = -6.0
    return Plain(model.eval())
