"""Steering while decoding: a frozen policy's logits, moved by what tokens are worth."""

import copy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqrl.language.agent import LanguageAgent
from seqrl.language.generation import Voice
from seqrl.language.model import LanguageModel
from seqrl.text import Tokenizer


class TokenValues(nn.Module):
    """What a state of a dialogue, and each next token in it, is worth: V and two Q, on a language model of their own.

        V(s) = μ + σ v(y),   Q_i(s, ·) = μ + σ q_i(y)

    where y are the model's features after all tokens of s, v and q_i networks with one hidden layer of twice their
    width, and μ, σ what the log's returns are centred and scaled by (`describe`): rewards of any size are learnt alike.
    The target networks are copies of q_i, which follow by Polyak averaging (`follow`). They read the same features.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, model: LanguageModel, num_actions: int | None = None) -> None:
        """With `num_actions` 1 Q are of what was said last, not of each next token."""
        super().__init__()
        self.model = model
        self.v = _head(model.output_size, 1)
        self.q = nn.ModuleList(_head(model.output_size, num_actions or model.vocabulary_size) for _ in range(2))
        self.target_q = copy.deepcopy(self.q).requires_grad_(False)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def describe(self, returns: Float[Tensor, "N"]) -> None:
        """Centre and scale by the log's returns-to-go."""
        self.mean.copy_(returns.mean())
        self.scale.copy_(returns.std(correction=0).clamp(min=1e-3))

    def value(self, y: Float[Tensor, "*shape H"]) -> Float[Tensor, "*shape"]:
        """V."""
        return self.mean + self.scale * self.v(y)[..., 0]

    def action_values(self, y: Float[Tensor, "*shape H"]) -> tuple[Tensor, ...]:
        """Both Q of every token, each [..., V]."""
        return tuple(self.mean + self.scale * q(y) for q in self.q)

    @torch.no_grad()
    def least(self, y: Float[Tensor, "*shape H"]) -> Float[Tensor, "*shape V"]:
        """The smaller of the two target Q of every token."""
        first, second = (q(y) for q in self.target_q)
        return self.mean + self.scale * torch.minimum(first, second)

    @torch.no_grad()
    def follow(self, rate: float) -> None:
        """The targets' weights move by `rate` of the way to those that learn."""
        for target, q in zip(self.target_q.parameters(), self.q.parameters(), strict=True):
            target.lerp_(q, rate)


class Steered:
    """A voice whose logits are log π_b(· | s) + β min_i Q_i(s, ·), up to constants.

    ILQL's log π_b + β (Q − V) gives the same probabilities, as V(s) is the same for every token. With β = 0 it is the
    policy, bit for bit. Source: Snell et al. 2022, arXiv 2206.11871, section 4.3.
    """

    def __init__(self, policy: LanguageModel, values: TokenValues, beta: float) -> None:
        self.policy, self.values, self.beta = policy, values, beta

    def start(self, batch_size: int) -> Any:
        return self.policy.start(batch_size), self.values.model.start(batch_size)

    @torch.no_grad()
    def read(self, tokens: Tensor, count: Tensor, context: Any) -> tuple[Tensor, Any]:
        y, policy_context = self.policy.read(tokens, count, context[0])
        z, value_context = self.values.model.read(tokens, count, context[1])
        return self.policy.logits(y) + self.beta * self.values.least(z), (policy_context, value_context)

    def take(self, context: Any, index: Int[Tensor, "N"]) -> Any:
        """A copy of the columns `index` of a context."""
        return self.policy.take(context[0], index), self.values.model.take(context[1], index)


class SteeredAgent(LanguageAgent):
    """A frozen policy, and values that steer it while it speaks, by `beta` if nothing else is said."""

    def __init__(self, tokenizer: Tokenizer, policy: LanguageModel, values: TokenValues, beta: float) -> None:
        super().__init__(tokenizer, policy.requires_grad_(False))
        self.values, self.beta = values, beta

    def voice(self, beta: float | None = None) -> Voice:
        """Speaks steered by `beta`; 0 for the policy alone."""
        return Steered(self.policy, self.values, self.beta if beta is None else beta)


def _head(input_size: int, output_size: int) -> nn.Sequential:
    last = nn.Linear(2 * input_size, output_size)
    nn.init.orthogonal_(last.weight, 0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(input_size, 2 * input_size), nn.ReLU(), last)
