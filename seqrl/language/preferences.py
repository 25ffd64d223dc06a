"""Judged answers as tokens: pairs of which one was preferred, and single ones with thumbs up or down."""

from collections.abc import Hashable, Iterable, Sequence, Set
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqrl.data.dialogues import Dialogue, Turn
from seqrl.data.preferences import Preference, Thumb, cut_turns
from seqrl.errors import UserError
from seqrl.language.model import LanguageModel
from seqrl.language.rows import TokenBatch, TokenRows, batch_of, decisions, rows_of, token_turns
from seqrl.text import Tokenizer


class PreferencePairs(NamedTuple):
    """B pairs. `mask` of both batches is True on the agent's tokens behind the prompt alone: what was compared."""

    chosen: TokenBatch
    rejected: TokenBatch


class JudgedAnswers(NamedTuple):
    """B answers, each judged alone, and for each an answer to another prompt behind this one's."""

    answer: TokenBatch
    mismatched: TokenBatch
    desirable: Bool[Tensor, "B"]


class PreferenceDataset:
    """N pairs as rows of tokens; `of` makes one."""

    def __init__(self, chosen: Sequence[TokenRows], rejected: Sequence[TokenRows], names: Sequence[str] = ()) -> None:
        """`names` are the pairs' ids; several labellers' choices between the same answers share one."""
        assert len(chosen) == len(rejected)
        if not chosen:
            raise UserError("there are no preferences to learn from: give at least one")
        self.chosen, self.rejected = list(chosen), list(rejected)
        self.names = list(names) or [str(k) for k in range(len(chosen))]

    @classmethod
    def of(cls, preferences: Iterable[Preference], tokenizer: Tokenizer) -> "PreferenceDataset":
        """Preferences as `tokenizer` reads them. Raises UserError where it cannot."""
        preferences = list(preferences)
        chosen = [_rows(each, each.chosen, tokenizer, cut_turns(each, "cut_in_chosen")) for each in preferences]
        rejected = [_rows(each, each.rejected, tokenizer, cut_turns(each, "cut_in_rejected")) for each in preferences]
        return cls(chosen, rejected, [each.id for each in preferences])

    def __len__(self) -> int:
        return len(self.chosen)

    def subset(self, numbers: Sequence[int] | Int[Tensor, "M"]) -> "PreferenceDataset":
        """Those of these numbers, in this order."""
        parts = ([part[int(k)] for k in numbers] for part in (self.chosen, self.rejected, self.names))
        return PreferenceDataset(*parts)  # type: ignore[arg-type]

    def questions(self) -> list[Hashable]:
        """What pairs that say something of each other have in common (`_questions`)."""
        return _questions(self.chosen, self.names)

    def batch(self, numbers: Sequence[int] | Int[Tensor, "B"]) -> PreferencePairs:
        """As `pairs`."""
        return self.pairs(numbers)

    def pairs(self, numbers: Sequence[int] | Int[Tensor, "B"]) -> PreferencePairs:
        """The pairs of these numbers side by side."""
        return PreferencePairs(
            batch_of([self.chosen[int(k)] for k in numbers]), batch_of([self.rejected[int(k)] for k in numbers])
        )

    def windows(self, count: int, generator: torch.Generator) -> PreferencePairs:
        """`count` pairs drawn with replacement."""
        return self.pairs(torch.randint(len(self), (count,), generator=generator))


class ThumbDataset:
    """N judged answers as rows of tokens; `of` makes one.

    Each has a partner that never changes, the next in an order drawn once that answers another prompt: its answer
    behind this one's prompt is what says how far a policy has moved, whatever it is asked (KTO's point of reference).
    """

    def __init__(
        self,
        answer: Sequence[TokenRows],
        mismatched: Sequence[TokenRows],
        desirable: Sequence[bool],
        names: Sequence[str] = (),
        groups: Sequence[int | None] = (),
    ) -> None:
        """`names` are the thumbs' ids; several labellers' thumbs on the same answer share one. `groups` are those of
        the dialogues that they are from, None for those that are from none."""
        assert len(answer) == len(mismatched) == len(desirable)
        self.answer, self.mismatched, self.desirable = list(answer), list(mismatched), list(desirable)
        self.names = list(names) or [str(k) for k in range(len(answer))]
        self.groups = list(groups) or [None] * len(answer)

    @classmethod
    def of(cls, thumbs: Iterable[Thumb], tokenizer: Tokenizer) -> "ThumbDataset":
        """Thumbs as `tokenizer` reads them. Raises UserError where it cannot, or for fewer than two."""
        thumbs = list(thumbs)
        if len(thumbs) < 2:
            raise UserError(
                f"there are {len(thumbs)} thumbs: give at least two, to compare one's answer with another's"
            )
        cut = [cut_turns(each, "cut") for each in thumbs]
        answer = [_rows(each, each.completion, tokenizer, cut[k]) for k, each in enumerate(thumbs)]
        partner = _partners(thumbs)
        mismatched = [
            _rows(each, _as_said_to(each, thumbs[partner[k]]), tokenizer, cut[partner[k]])
            for k, each in enumerate(thumbs)
        ]
        labels, names, groups = zip(*((each.label, each.id, each.group) for each in thumbs), strict=True)
        return cls(answer, mismatched, labels, names, groups)

    def __len__(self) -> int:
        return len(self.answer)

    def subset(self, numbers: Sequence[int] | Int[Tensor, "M"]) -> "ThumbDataset":
        """Those of these numbers, in this order."""
        parts = (self.answer, self.mismatched, self.desirable, self.names, self.groups)
        return ThumbDataset(*([part[int(k)] for k in numbers] for part in parts))  # type: ignore[arg-type]

    def questions(self) -> list[Hashable]:
        """What answers that say something of each other have in common: as `_questions`, but of a dialogue in which
        several prompts were answered it is the dialogue, since an answer stands in the prompts behind it."""
        prompts = [_prompt_of(rows) for rows in self.answer]
        asked: dict[int, set[tuple[int, ...]]] = {}
        for group, prompt in zip(self.groups, prompts, strict=True):
            if group is not None:
                asked.setdefault(group, set()).add(prompt)
        names = [name if group is None else group for name, group in zip(self.names, self.groups, strict=True)]
        known = zip(self.groups, _questions(self.answer, names), strict=True)
        return [question if group is None or len(asked[group]) == 1 else group for group, question in known]

    def batch(self, numbers: Sequence[int] | Int[Tensor, "B"]) -> JudgedAnswers:
        """The answers of these numbers side by side."""
        return JudgedAnswers(
            batch_of([self.answer[int(k)] for k in numbers]),
            batch_of([self.mismatched[int(k)] for k in numbers]),
            torch.tensor([self.desirable[int(k)] for k in numbers]),
        )


def _as_said_to(thumb: Thumb, partner: Thumb) -> tuple[Turn, ...]:
    """The partner's answer behind another prompt. Its agent is called as there; who else is called so is not."""
    name = {partner.agent: thumb.agent, thumb.agent: partner.agent}
    return tuple(replace(turn, speaker=name.get(turn.speaker, turn.speaker)) for turn in partner.completion)


def _partners(thumbs: Sequence[Thumb]) -> dict[int, int]:
    """Whose answer stands behind each one's prompt. Where the next 16 answer the same prompt, it is the next one's."""
    order = torch.randperm(len(thumbs), generator=torch.Generator().manual_seed(0)).tolist()
    partner = {}
    for place, number in enumerate(order):
        following = [order[(place + step) % len(order)] for step in range(1, min(17, len(order)))]
        prompt = thumbs[number].prompt
        partner[number] = next((other for other in following if thumbs[other].prompt != prompt), following[0])
    return partner


def _rows(
    judged: Preference | Thumb, answer: tuple[Turn, ...], tokenizer: Tokenizer, cut: Set[int] = frozenset()
) -> TokenRows:
    """A conversation's rows, of which the answer's alone are the agent's to learn from. Where its turns of the numbers
    `cut` were cut off, their end was no choice of the agent's."""
    dialogue = Dialogue(id=judged.id, turns=judged.prompt + answer, agent=judged.agent)
    turns = token_turns(dialogue, tokenizer)
    own = [k for k, turn in enumerate(turns) if turn.agent and k >= len(judged.prompt)]
    for number, k in enumerate(own, 1):
        if number in cut and turns[k].ids:
            turns[k] = replace(turns[k], ended=False)
    rows = rows_of(turns, tokenizer)
    return rows._replace(mask=rows.mask & (rows.turn >= len(judged.prompt)))


def _questions(answers: Sequence[TokenRows], names: Sequence[Hashable]) -> list[Hashable]:
    """Of each entry its prompt, in tokens: which answer to it is better tells of the others. Where all have one prompt,
    its name."""
    prompts = [_prompt_of(rows) for rows in answers]
    return list(prompts if len(set(prompts)) > 1 else names)


def _prompt_of(rows: TokenRows) -> tuple[int, ...]:
    """What stands before an answer's first token."""
    return tuple(rows.tokens[: int(rows.mask.nonzero()[0]) + 1].tolist())


def answer_log_prob(
    model: LanguageModel, batch: TokenBatch, allowed: Bool[Tensor, "V"] | None = None
) -> Float[Tensor, "B"]:
    """log π(answer | what was said before), the sum over the tokens where `mask`: text and <end of utterance>.

    With `allowed`, π is that of a speaker that says no other tokens.
    """
    chosen = decisions(batch.mask)
    logits = model.logits(chosen.of(model(batch.tokens[:-1])))
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    log_prob = logits.log_softmax(-1).gather(-1, chosen.of(batch.tokens[1:])[..., None])[..., 0]
    return log_prob.masked_fill(~chosen.valid, 0.0).sum(0)
