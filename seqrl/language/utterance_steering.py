"""Steering by whole utterances: a frozen policy proposes some, and values of language models choose among them."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqrl.language.agent import LanguageAgent
from seqrl.language.generation import DRAWN, Plain, Sampling, Utterances, Voice, generate_several
from seqrl.language.model import LanguageModel
from seqrl.language.rows import decisions
from seqrl.language.steering import TokenValues
from seqrl.text import Tokenizer


class UtteranceRows(NamedTuple):
    """The agent's turns in rows [T, B]: where each begins and ends, [K, B], its number of tokens, which are real."""

    first: Any
    last: Any
    length: Tensor
    valid: Tensor


def utterance_rows(mask: Bool[Tensor, "T B"]) -> UtteranceRows:
    """A turn is a run of rows whose actions are the agent's: between two of its own <agent> is shown."""
    first = decisions(mask & ~torch.cat([torch.zeros_like(mask[:1]), mask[:-1]]))
    last = decisions(last_of_turns(mask))
    return UtteranceRows(first, last, last.row - first.row + 1, first.valid)


def last_of_turns(mask: Bool[Tensor, "T B"]) -> Bool[Tensor, "T B"]:
    """Which rows' actions are the last of one of the agent's turns."""
    return mask & ~torch.cat([mask[1:], torch.zeros_like(mask[:1])])


class UtteranceAgent(LanguageAgent):
    """A frozen policy that proposes, and values of whole utterances by which one of its proposals is said."""

    def __init__(
        self, tokenizer: Tokenizer, policy: LanguageModel, values: TokenValues, beta: float, num_proposals: int
    ) -> None:
        super().__init__(tokenizer, policy.requires_grad_(False))
        self.values, self.beta, self.num_proposals = values, beta, num_proposals

    def voice(self, beta: float | None = None) -> Voice:
        """Speaks steered by `beta`; 0 for the policy alone, bit for bit."""
        beta = self.beta if beta is None else beta
        if beta == 0 or self.num_proposals == 1:
            return Plain(self.policy)
        return Chosen(self.policy, self.values, beta, self.num_proposals)

    @torch.no_grad()
    def appraise(
        self, tokens: Int[Tensor, "T B"], before: Int[Tensor, "B"], last: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        """`seqrl.language.candidates.Critic`: min Q once each utterance was read, and V before it."""
        y = self.values.model(tokens)
        column = torch.arange(tokens.shape[1], device=tokens.device)
        return self.values.least(y[last, column])[..., 0], self.values.value(y[before, column])


class Chosen:
    """A voice that draws P utterances from π_b and says one of them, u with probability ∝ exp(β min_i Q_i(s, u)).

    That is a draw from π_b(u | s) exp(β Q(s, u)), up to constants, as P grows; where tokens are not drawn (temperature
    0), the utterance with the largest Q is said, and proposals are still drawn. `play` asks it by `speak`.
    """

    def __init__(self, policy: LanguageModel, values: TokenValues, beta: float, num_proposals: int) -> None:
        self.policy, self.values, self.beta, self.num_proposals = policy, values, beta, num_proposals

    def start(self, batch_size: int) -> Any:
        return self.policy.start(batch_size), self.values.model.start(batch_size)

    @torch.no_grad()
    def read(self, tokens: Tensor, count: Tensor, context: Any) -> tuple[Tensor, Any]:
        """The policy's logits, by which proposals are drawn."""
        y, policy_context = self.policy.read(tokens, count, context[0])
        _, value_context = self.values.model.read(tokens, count, context[1])
        return self.policy.logits(y), (policy_context, value_context)

    @torch.no_grad()
    def speak(
        self,
        logits: Float[Tensor, "B V"],
        context: Any,
        *,
        stop_id: int,
        max_tokens: int,
        speaks: Bool[Tensor, "B"],
        allowed: Bool[Tensor, "V"] | None = None,
        sampling: Sampling = DRAWN,
        generator: torch.Generator | None = None,
    ) -> tuple[Utterances, Any]:
        """As `generate`, of which this takes the place."""
        batch_size, times = len(speaks), self.num_proposals
        drawn, policy_context = generate_several(
            Plain(self.policy), logits, context[0], times, stop_id=stop_id, max_tokens=max_tokens, speaks=speaks,
            allowed=allowed, generator=generator,
        )  # fmt: skip
        index = torch.arange(batch_size, device=logits.device).repeat_interleave(times)
        z, value_context = self.values.model.read(drawn.ids, drawn.length, self.values.model.take(context[1], index))
        q = self.values.least(z)[..., 0].view(batch_size, times)
        if sampling.temperature == 0:
            chosen = q.argmax(-1)
        else:
            chosen = torch.multinomial((self.beta * q / sampling.temperature).softmax(-1), 1, generator=generator)[:, 0]
        place = chosen + torch.arange(0, len(index), times, device=index.device)
        contexts = self.policy.take(policy_context, place), self.values.model.take(value_context, place)
        return drawn.take(place), contexts
