"""Speaking: tokens are drawn one after the other, for many conversations at once."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqrl.errors import UserError
from seqrl.language.model import LanguageModel
from seqrl.text import Tokenizer


class Voice(Protocol):
    """What speaks: it reads tokens and gives the logits of the next. A language model alone, or one that is steered."""

    def start(self, batch_size: int) -> Any:
        """A context in which nothing has been read."""

    def read(
        self, tokens: Int[Tensor, "T B"], count: Int[Tensor, "B"], context: Any
    ) -> tuple[Float[Tensor, "B V"], Any]:
        """Go on by the first `count[b]` tokens of each column, and give the logits of what comes next."""


class Plain:
    """A language model as it is."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    def start(self, batch_size: int) -> Any:
        return self.model.start(batch_size)

    def read(self, tokens: Tensor, count: Tensor, context: Any) -> tuple[Tensor, Any]:
        y, context = self.model.read(tokens, count, context)
        return self.model.logits(y), context

    def take(self, context: Any, index: Int[Tensor, "N"]) -> Any:
        """A copy of the columns `index` of a context."""
        return self.model.take(context, index)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is drawn from logits: softmax(logits / temperature), of the `top_k` likeliest (0 for all).

    A temperature of 0 takes the likeliest. Raises UserError for one that is not 0 and not from 1e-30 to 1e30: beyond,
    logits divided by it are no numbers, and tokens that must not be said would be.
    """

    temperature: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        for name in ("temperature", "top_k"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} is {getattr(self, name)} in Sampling: it must be 0 or more")
        if self.temperature and not 1e-30 <= self.temperature <= 1e30:
            raise UserError(f"temperature is {self.temperature} in Sampling: it must be 0, or from 1e-30 to 1e30")


DRAWN = Sampling()
"""Draws from the model's own probabilities."""


class Utterances(NamedTuple):
    """What was said: ids [N, B], of which column b's first `length[b]` count, their stop token included where `ended`;
    and the logarithm of each token's probability by the logits it was drawn from, at temperature 1, [N, B]."""

    ids: Int[Tensor, "N B"]
    length: Int[Tensor, "B"]
    ended: Bool[Tensor, "B"]
    log_prob: Float[Tensor, "N B"]

    @property
    def counts(self) -> Bool[Tensor, "N B"]:
        """Which tokens were said, and do not stand behind an utterance's end."""
        return torch.arange(len(self.ids), device=self.ids.device)[:, None] < self.length

    def whole_log_prob(self) -> Float[Tensor, "B"]:
        """Of each utterance, all of its tokens together."""
        return self.log_prob.where(self.counts, 0.0).sum(0)

    def take(self, index: Int[Tensor, "M"]) -> "Utterances":
        """Those of the columns `index`."""
        return Utterances(self.ids[:, index], self.length[index], self.ended[index], self.log_prob[:, index])


def sayable(tokenizer: Tokenizer) -> Bool[Tensor, "V"]:
    """The tokens that an agent may draw in a conversation: no specials but <end of utterance>."""
    allowed = torch.ones(len(tokenizer), dtype=torch.bool)
    allowed[: tokenizer.end_of_dialogue_id + 1] = False
    allowed[tokenizer.end_of_utterance_id] = True
    return allowed


@torch.no_grad()
def generate(
    voice: Voice,
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
    """Draw up to `max_tokens` tokens in each column that `speaks`, each until it says `stop_id`.

    `logits` and `context` are what `voice.read` gave last. The context that is returned has read all that was said.
    """
    if type(voice) is Plain and (
        at_once := _say_at_once(voice.model, logits, context, stop_id, max_tokens, speaks, allowed, sampling, generator)
    ):
        return at_once
    batch_size = len(speaks)
    going = speaks.clone()
    length = torch.zeros(batch_size, dtype=torch.int64, device=logits.device)
    ended = torch.zeros_like(going)
    ids, log_probs = [], []
    for _ in range(max_tokens):
        if not going.any():
            break
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -torch.inf)
        log_prob = logits.log_softmax(-1)
        token = _draw(log_prob, sampling, generator)
        ids.append(token)
        log_probs.append(log_prob.gather(-1, token[:, None])[:, 0])
        length += going
        logits, context = voice.read(token[None], going.long(), context)
        ended |= going & (token == stop_id)
        going = going & (token != stop_id)
    empty = torch.zeros(0, batch_size, device=logits.device)
    return (
        Utterances(torch.stack(ids) if ids else empty.long(), length, ended, torch.stack(log_probs) if ids else empty),
        context,
    )


def _say_at_once(
    model: LanguageModel,
    logits: Tensor,
    context: Any,
    stop_id: int,
    max_tokens: int,
    speaks: Tensor,
    allowed: Tensor | None,
    sampling: Sampling,
    generator: torch.Generator | None,
) -> tuple[Utterances, Any] | None:
    """`generate` by the model's own `say`, where it has one that serves; the generator ends up in the same state."""
    if logits.device.type != "cpu" or sampling.top_k or not speaks.any():
        return None
    generator = generator or torch.default_generator
    state = generator.get_state()
    uniform = torch.empty(max_tokens, len(speaks), dtype=torch.float64).uniform_(generator=generator)
    allowed = torch.ones(logits.shape[-1], dtype=torch.bool) if allowed is None else allowed
    found = model.say(logits, context, uniform, speaks, allowed, stop_id, float(sampling.temperature))
    generator.set_state(state)
    if found is None:
        return None
    (ids, length, log_prob), context = found
    steps = int(length.max())
    if sampling.temperature > 0:
        uniform[:steps].uniform_(generator=generator)  # as many numbers as have been used
    ended = speaks & (ids.gather(0, (length - 1).clamp(min=0)[None])[0] == stop_id)
    return Utterances(ids[:steps], length, ended, log_prob[:steps]), context


def generate_several(
    voice: Plain,
    logits: Float[Tensor, "B V"],
    context: Any,
    times: int,
    *,
    speaks: Bool[Tensor, "B"],
    **options: Any,
) -> tuple[Utterances, Any]:
    """`generate`, `times` utterances for each column, independently: column b's are b · times … b · times + times − 1.

    `context` has been read once and stays as it is.
    """
    index = torch.arange(len(speaks), device=logits.device).repeat_interleave(times)
    return generate(voice, logits[index], voice.take(context, index), speaks=speaks[index], **options)


def _draw(log_prob: Tensor, sampling: Sampling, generator: torch.Generator | None) -> Tensor:
    if sampling.temperature == 0:
        return log_prob.argmax(-1)
    if sampling.top_k:
        most, token = log_prob.topk(min(sampling.top_k, log_prob.shape[-1]))
        log_prob = torch.full_like(log_prob, -torch.inf).scatter(-1, token, most)
    plain = sampling.temperature == 1 and not sampling.top_k
    probability = log_prob.exp() if plain else (log_prob / sampling.temperature).softmax(-1)
    # The first place where the sum of probabilities exceeds a uniform number of its total: one number a column. In
    # float64, where u < 1 makes u · total < total, so that a token of probability 0 is never drawn.
    total = probability.cumsum(-1, dtype=torch.float64)
    uniform = torch.empty_like(total[:, :1]).uniform_(generator=generator)
    token = torch.searchsorted(total, uniform * total[:, -1:], right=True)[:, 0]
    return token.clamp(max=log_prob.shape[-1] - 1)  # columns that do not speak may have NaN
