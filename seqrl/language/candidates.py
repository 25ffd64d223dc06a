"""Several utterances that might be said next, with what each is likely and worth: to choose from, or to look at."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqrl.language.generation import DRAWN, Sampling, Voice, generate, sayable
from seqrl.language.rows import TokenTurn, rows_of
from seqrl.language.steering import TokenValues
from seqrl.text import Tokenizer


class Critic(Protocol):
    """Says what whole utterances are worth."""

    def appraise(
        self, tokens: Int[Tensor, "T B"], before: Int[Tensor, "B"], last: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        """Q of the utterance that each conversation ends with, and V of the state in which it was begun.

        The utterance of column b follows row `before[b]`, which shows <agent>, and its last token is in row `last[b]`;
        what stands behind that row is padding.
        """


class TokenCritic:
    """Values of tokens, as of whole utterances: Q = min_i Q_i(s_last, a_last) and V = V(s_before).

    a_last is the token that ends the utterance and earns its reward, s_last all that was said until then, s_before the
    state in which the agent begins. So Q is what the conversation is worth once this has been said, its reward
    included. It is discounted from the utterance's end and V from its beginning, at most its length in tokens before.
    """

    def __init__(self, values: TokenValues) -> None:
        self.values = values

    @torch.no_grad()
    def appraise(self, tokens: Tensor, before: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        y = self.values.model(tokens)
        column = torch.arange(tokens.shape[1], device=tokens.device)
        q = self.values.least(y[last - 1, column])  # row t's action is token t + 1
        return q.gather(-1, tokens[last, column][:, None])[:, 0], self.values.value(y[before, column])


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One utterance that might be said. Its ids are those that were drawn: never encode its text again."""

    ids: tuple[int, ...]
    """Without the <end of utterance>."""
    ended: bool
    """Whether it ended itself; else it was cut."""
    text: str
    log_prob: float
    """Natural logarithm of the probability that the voice says just these tokens, at temperature 1."""
    q: float | None = None
    """What the conversation is worth once this was said; None without a critic."""
    v: float | None = None
    """What it was worth before, the same for all candidates."""

    def turn(self, reward: float = 0.0) -> TokenTurn:
        """What is said if this is chosen."""
        return TokenTurn(agent=True, ids=self.ids, reward=reward, ended=self.ended)


class Proposals(NamedTuple):
    """K candidates for each of B conversations: ids [N, B, K], of which the first `length` count, their
    <end of utterance> included where `ended`. `q` and `v` are None without a critic; `v` is the same for all K."""

    ids: Int[Tensor, "N B K"]
    length: Int[Tensor, "B K"]
    ended: Bool[Tensor, "B K"]
    log_prob: Float[Tensor, "B K"]
    q: Float[Tensor, "B K"] | None = None
    v: Float[Tensor, "B"] | None = None

    def candidates(self, tokenizer: Tokenizer) -> list[list[Candidate]]:
        """The same as values, a list for each conversation, in the order of drawing."""
        ids, length, ended, log_prob = self.ids.permute(1, 2, 0).tolist(), *(each.tolist() for each in self[1:4])
        q = self.q.tolist() if self.q is not None else None
        v = self.v.tolist() if self.v is not None else None

        def candidate(b: int, k: int) -> Candidate:
            said = ids[b][k][: length[b][k] - ended[b][k]]
            return Candidate(
                ids=tuple(said), ended=ended[b][k], text=tokenizer.decode(said), log_prob=log_prob[b][k],
                q=q[b][k] if q else None, v=v[b] if v else None,
            )  # fmt: skip

        return [[candidate(b, k) for k in range(self.ids.shape[2])] for b in range(self.ids.shape[1])]


def conversation_ids(turns: Sequence[TokenTurn], tokenizer: Tokenizer) -> list[int]:
    """The tokens of a conversation up to where the agent speaks next: what `propose` takes."""
    return [*rows_of(turns, tokenizer).tokens[:-1].tolist(), tokenizer.agent_id]


@torch.no_grad()
def propose(
    voice: Voice,
    conversations: Sequence[Sequence[int]],
    num_candidates: int,
    *,
    tokenizer: Tokenizer,
    critic: Critic | None = None,
    max_tokens: int = 64,
    sampling: Sampling = DRAWN,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> Proposals:
    """Draw `num_candidates` utterances for each of `conversations`, independently: one may come more than once.

    A conversation is its tokens, the last of them <agent> (`conversation_ids`). Utterances end with <end of utterance>
    or are cut after `max_tokens`; no other special token is drawn. `batch_size` utterances are drawn side by side. A
    voice that has `take(context, index)`, a copy of a context's columns, reads each conversation once; any other reads
    it for every candidate.
    """
    assert min(num_candidates, max_tokens, len(conversations)) >= 1, "nothing to propose"
    at_once = max(1, batch_size // num_candidates)
    parts = []
    for first in range(0, len(conversations), at_once):
        tokens, count = _side_by_side(conversations[first : first + at_once], device)
        parts.append(_propose(voice, tokens, count, num_candidates, tokenizer, max_tokens, sampling, generator))
        if critic is not None:
            parts[-1] = _appraised(parts[-1], critic, tokens, count)
    most = max(len(part.ids) for part in parts)
    ids = [torch.nn.functional.pad(part.ids, (0, 0, 0, 0, 0, most - len(part.ids))) for part in parts]
    length = torch.cat([part.length for part in parts])
    ended, log_prob = torch.cat([part.ended for part in parts]), torch.cat([part.log_prob for part in parts])
    q, v = [part.q for part in parts if part.q is not None], [part.v for part in parts if part.v is not None]
    return Proposals(
        torch.cat(ids, 1), length, ended, log_prob, torch.cat(q) if q else None, torch.cat(v) if v else None
    )


def _side_by_side(conversations: Sequence[Sequence[int]], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Tokens [T, B] and how many of each column count."""
    columns = [torch.tensor(ids, dtype=torch.int64) for ids in conversations]
    count = torch.tensor([len(ids) for ids in columns], device=device)
    return torch.nn.utils.rnn.pad_sequence(columns, padding_value=Tokenizer.pad_id).to(device), count


def _propose(
    voice: Voice, tokens: Tensor, count: Tensor, K: int, tokenizer: Tokenizer, max_tokens: int,
    sampling: Sampling, generator: torch.Generator | None,
) -> Proposals:  # fmt: skip
    B = tokens.shape[1]
    take: Callable | None = getattr(voice, "take", None)
    if take is None:  # contexts are opaque: without its help they cannot be copied
        tokens, count = tokens.repeat_interleave(K, 1), count.repeat_interleave(K)
    logits, context = voice.read(tokens, count, voice.start(len(count)))
    if take is not None:
        index = torch.arange(B, device=tokens.device).repeat_interleave(K)
        logits, context = logits[index], take(context, index)
    said, _ = generate(
        voice, logits, context, stop_id=tokenizer.end_of_utterance_id, max_tokens=max_tokens,
        speaks=torch.ones(B * K, dtype=torch.bool, device=tokens.device), allowed=sayable(tokenizer).to(tokens.device),
        sampling=sampling, generator=generator,
    )  # fmt: skip
    ids, leaves = said.ids.where(said.counts, tokenizer.pad_id), (said.length, said.ended, said.whole_log_prob())
    return Proposals(ids.unflatten(1, (B, K)), *(leaf.unflatten(0, (B, K)) for leaf in leaves))


def _appraised(proposals: Proposals, critic: Critic, tokens: Tensor, count: Tensor) -> Proposals:
    """With what the critic says of each."""
    N, B, K = proposals.ids.shape
    length = proposals.length.flatten()
    whole = torch.nn.functional.pad(tokens, (0, 0, 0, N), value=Tokenizer.pad_id).repeat_interleave(K, 1)
    begin = count.repeat_interleave(K)
    place = begin + torch.arange(N, device=tokens.device)[:, None]  # [N, B K]; behind an utterance's end is <pad>
    whole = whole.scatter(0, place, proposals.ids.flatten(1))
    q, v = critic.appraise(whole, begin - 1, begin + length - 1)
    return proposals._replace(q=q.unflatten(0, (B, K)), v=v.unflatten(0, (B, K))[:, 0])
