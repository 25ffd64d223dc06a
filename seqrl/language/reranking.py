"""Of several utterances that a language model proposes the best is said: what speaks, and what proposes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqrl.language.agent import LanguageAgent
from seqrl.language.critic import UtteranceCritic
from seqrl.language.discriminator import Discriminator
from seqrl.language.generation import DRAWN, Plain, Sampling, Utterances, Voice, generate_several, sayable
from seqrl.language.model import LanguageModel
from seqrl.language.rows import TokenRows
from seqrl.language.utterances import Drawn, turns_of
from seqrl.text import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Choosing:
    """How one of several proposals is chosen.

        score = min Q̄ + log_prob_weight · log π_b + confidence_weight · log c

    π_b is the language model, c the discriminator's confidence. Proposals with c below `gate` are out, unless all are:
    then the one with the highest c is said. Of the rest the one with the highest score is said, or with a `temperature`
    above 0 one drawn by softmax(score / temperature).
    """

    num_proposals: int = 5
    temperature: float = 0.0
    log_prob_weight: float = 0.0
    confidence_weight: float = 0.0
    gate: float = 0.0


class Judged(NamedTuple):
    """What is thought of P proposals in each of B conversations, and which one is said."""

    q: Float[Tensor, "B P"]
    confidence: Float[Tensor, "B P"] | None
    score: Float[Tensor, "B P"]
    """−∞ where the gate keeps it out."""
    chosen: Int[Tensor, "B"]


class Heard(NamedTuple):
    """What a `Reranked` voice has read: the language model's context, and the tokens of each column."""

    context: Any
    tokens: tuple[tuple[int, ...], ...]


class Recording(Plain):
    """A language model as it is, which keeps the features after what each column read last."""

    features: Tensor | None = None

    def read(self, tokens: Tensor, count: Tensor, context: Any) -> tuple[Tensor, Any]:
        y, context = self.model.read(tokens, count, context)
        self.features = y if self.features is None else torch.where((count > 0)[:, None], y, self.features)
        return self.model.logits(y), context


class RerankingAgent(LanguageAgent):
    """A frozen language model that proposes, a critic, and perhaps a discriminator, by which one is chosen."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        policy: LanguageModel,
        critic: UtteranceCritic,
        choosing: Choosing,
        discriminator: Discriminator | None = None,
    ) -> None:
        super().__init__(tokenizer, policy.requires_grad_(False))
        self.critic, self.choosing, self.discriminator = critic, choosing, discriminator

    def voice(self, **changes: Any) -> Voice:
        """Speaks by the best of its proposals; with `num_proposals` 1 it is the language model, bit for bit.

        `changes` replace settings of `choosing`.
        """
        choosing = replace(self.choosing, **changes)
        return Plain(self.policy) if choosing.num_proposals == 1 else Reranked(self, choosing)

    @torch.no_grad()
    def judge(
        self,
        conversations: Sequence[Sequence[int]],
        said: Sequence[Sequence[Sequence[int]]],
        log_prob: Float[Tensor, "B P"],
        features: Float[Tensor, "B P F"],
        choosing: Choosing | None = None,
        generator: torch.Generator | None = None,
    ) -> Judged:
        """What is thought of proposals `said`, each with its <end of utterance>, and which is said."""
        choosing = choosing or self.choosing
        size = self.critic.network.feature_size
        q, _ = self.critic.appraise(conversations, said, features[..., :size])
        score, confidence = self.scores(q, log_prob, said, choosing)
        if choosing.temperature > 0:
            p = (score / choosing.temperature).softmax(-1)
            chosen = torch.multinomial(p, 1, generator=generator)[:, 0]
        else:
            chosen = score.argmax(-1)
        return Judged(q, confidence, score, chosen)

    @torch.no_grad()
    def scores(
        self,
        q: Float[Tensor, "B P"],
        log_prob: Float[Tensor, "B P"],
        said: Sequence[Sequence[Sequence[int]]],
        choosing: Choosing,
    ) -> tuple[Float[Tensor, "B P"], Float[Tensor, "B P"] | None]:
        """What proposals are chosen by, −∞ for those that the gate keeps out; and c, if there is a discriminator."""
        score = q + choosing.log_prob_weight * log_prob
        if self.discriminator is None:
            return score, None
        confidence = self.discriminator.confidence([ids for each in said for ids in each]).view_as(q)
        score = score + choosing.confidence_weight * confidence.clamp(min=1e-6).log()
        least = confidence.amax(-1, keepdim=True).clamp(max=choosing.gate)
        return score.masked_fill(confidence < least, -torch.inf), confidence

    @torch.no_grad()
    def appraise(
        self, tokens: Int[Tensor, "T B"], before: Int[Tensor, "B"], last: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        """`seqrl.language.candidates.Critic`: Q and V of one utterance in each of B conversations."""
        columns = tokens.T.tolist()
        begin, end = (before + 1).tolist(), (last + 1).tolist()
        conversations = [ids[:n] for ids, n in zip(columns, begin, strict=True)]
        said = [[ids[n:m]] for ids, n, m in zip(columns, begin, end, strict=True)]
        size = self.critic.network.feature_size
        features = tokens.new_zeros(tokens.shape[1], 1, 0, dtype=torch.float32)
        if size:
            features = self.policy(tokens)[last, torch.arange(len(last), device=last.device)][:, None]
        q, v = self.critic.appraise(conversations, said, features)
        return q[:, 0], v


class Reranked:
    """A voice that draws several utterances and says one of them. `play` asks it for whole utterances (`speak`)."""

    def __init__(self, agent: RerankingAgent, choosing: Choosing) -> None:
        self.agent, self.choosing = agent, choosing
        self.judged: Judged | None = None
        """What it thought of its last proposals."""

    def start(self, batch_size: int) -> Heard:
        return Heard(self.agent.policy.start(batch_size), ((),) * batch_size)

    @torch.no_grad()
    def read(self, tokens: Tensor, count: Tensor, context: Heard) -> tuple[Tensor, Heard]:
        """The language model's logits, by which the proposals are drawn: not those of what is said in the end."""
        y, policy_context = self.agent.policy.read(tokens, count, context.context)
        columns = zip(context.tokens, tokens.T.tolist(), count.tolist(), strict=True)
        return self.agent.policy.logits(y), Heard(policy_context, tuple((*old, *new[:n]) for old, new, n in columns))

    @torch.no_grad()
    def speak(
        self,
        logits: Float[Tensor, "B V"],
        context: Heard,
        *,
        stop_id: int,
        max_tokens: int,
        speaks: Bool[Tensor, "B"],
        allowed: Bool[Tensor, "V"] | None = None,
        sampling: Sampling = DRAWN,
        generator: torch.Generator | None = None,
    ) -> tuple[Utterances, Heard]:
        """As `generate`, of which this takes the place."""
        policy, times = self.agent.policy, self.choosing.num_proposals
        who = speaks.nonzero()[:, 0]
        voice = Recording(policy)
        drawn, after = generate_several(
            voice, logits, context.context, times, stop_id=stop_id, max_tokens=max_tokens, speaks=speaks,
            allowed=allowed, sampling=sampling, generator=generator,
        )  # fmt: skip
        assert voice.features is not None, "nobody speaks"
        said = _columns(drawn, times)
        log_prob = drawn.whole_log_prob().view(-1, times)
        columns = who.tolist()
        self.judged = self.agent.judge(
            [context.tokens[b] for b in columns], [said[b] for b in columns], log_prob[who],
            voice.features.view(len(speaks), times, -1)[who], self.choosing, generator,
        )  # fmt: skip
        chosen = torch.zeros_like(speaks, dtype=torch.int64)
        chosen[who] = self.judged.chosen
        place = chosen + times * torch.arange(len(speaks), device=speaks.device)
        tokens = list(context.tokens)
        for b, k in zip(columns, chosen[who].tolist(), strict=True):
            tokens[b] = (*tokens[b], *said[b][k])
        return drawn.take(place), Heard(policy.take(after, place), tuple(tokens))


def _columns(drawn: Utterances, times: int) -> list[list[tuple[int, ...]]]:
    """What was said, `times` for each conversation."""
    flat = [tuple(ids[:n]) for ids, n in zip(drawn.ids.T.tolist(), drawn.length.tolist(), strict=True)]
    return [flat[first : first + times] for first in range(0, len(flat), times)]


@torch.no_grad()
def draw_proposals(
    policy: LanguageModel,
    rows: Sequence[TokenRows],
    num_proposals: int,
    *,
    tokenizer: Tokenizer,
    max_tokens: int,
    generator: torch.Generator,
    sampling: Sampling = DRAWN,
    features: bool = True,
    batch_size: int = 32,
    on_progress: Any = None,
) -> Drawn:
    """What `policy` proposes at every turn of the agent in logged dialogues, drawn as when it speaks.

    `batch_size` dialogues are read side by side, each once. `on_progress` is told how many dialogues are through.
    """
    allowed = sayable(tokenizer).to(policy.device)
    parts: list[Drawn] = []
    for first in range(0, len(rows), batch_size):
        parts += _draw(
            policy, rows[first : first + batch_size], num_proposals, allowed, tokenizer, max_tokens, generator, sampling
        )
        if on_progress is not None:
            on_progress(min(first + batch_size, len(rows)))
    size = max(part.said.shape[-1] for part in parts)
    said = [torch.nn.functional.pad(part.said, (0, size - part.said.shape[-1])) for part in parts]
    known = torch.cat([part.features for part in parts])
    return Drawn(
        torch.cat(said), torch.cat([part.length for part in parts]), torch.cat([part.log_prob for part in parts]),
        known if features else known[..., :0],
    )  # fmt: skip


def _draw(
    policy: LanguageModel, rows: Sequence[TokenRows], P: int, allowed: Tensor, tokenizer: Tokenizer, max_tokens: int,
    generator: torch.Generator, sampling: Sampling,
) -> list[Drawn]:  # fmt: skip
    """One `Drawn` for each dialogue."""
    turns = [[exchange for exchange, _ in turns_of(each)] for each in rows]
    B, device = len(rows), policy.device
    voice, context = Recording(policy), policy.start(B)
    found: list[list[Drawn]] = [[] for _ in rows]

    def hear(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Any]:
        columns = [torch.tensor(ids, dtype=torch.int64) for ids in texts]
        count = torch.tensor([len(ids) for ids in columns], device=device)
        return voice.read(torch.nn.utils.rnn.pad_sequence(columns).to(device), count, context)

    for k in range(max(map(len, turns))):
        speaks = torch.tensor([k < len(each) for each in turns], device=device)
        logits, context = hear([each[k].heard if k < len(each) else () for each in turns])
        proposing = Recording(policy)
        drawn, _ = generate_several(
            proposing, logits, context, P, stop_id=tokenizer.end_of_utterance_id, max_tokens=max_tokens, speaks=speaks,
            allowed=allowed, sampling=sampling, generator=generator,
        )  # fmt: skip
        _, context = hear([each[k].said if k < len(each) else () for each in turns])
        assert proposing.features is not None
        assert voice.features is not None
        said = drawn.ids.where(drawn.counts, tokenizer.pad_id).T.view(B, P, -1)
        features = torch.cat([voice.features[:, None], proposing.features.view(B, P, -1)], 1)
        leaves = (said, drawn.length.view(B, P), drawn.whole_log_prob().view(B, P), features)
        for b in range(B):
            if k < len(turns[b]):
                found[b].append(Drawn(*(leaf[b : b + 1].cpu() for leaf in leaves)))
    size = max(each.said.shape[-1] for column in found for each in column)
    padded = [
        [each._replace(said=torch.nn.functional.pad(each.said, (0, size - each.said.shape[-1]))) for each in column]
        for column in found
    ]
    return [Drawn(*(torch.cat(leaves) for leaves in zip(*column, strict=True))) for column in padded]
