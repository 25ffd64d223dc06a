"""Conversations of a speaker to be looked at, token by token: how likely each was, what it was worth, what it rests on.

`seqrl.pages.dialogues` makes a page of them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqrl.errors import UserError
from seqrl.inspection.attribution import encoded, log_odds, occlusion
from seqrl.inspection.episodes import Recall
from seqrl.language.agent import LanguageAgent
from seqrl.language.generation import Sampling, Voice, sayable
from seqrl.language.likelihood import Decided, decided, log_probs
from seqrl.language.model import LanguageModel, MemoryModel
from seqrl.language.play import Played, play
from seqrl.language.reranking import RerankingAgent
from seqrl.language.rows import TokenRows, rows_of
from seqrl.language.scoring import Scorer, by_task, with_scores
from seqrl.language.steering import SteeredAgent, TokenValues
from seqrl.language.utterance_steering import UtteranceAgent
from seqrl.text import TextTask, Tokenizer
from seqrl.text.tokenizer import SPECIALS

MOST_OPTIONS = 6
"""Likeliest tokens that are shown beside each that was said."""
LONGEST = 600
"""Tokens beyond which it is not asked what a conversation's words rest on: that grows with the square."""

ABOUT = "how far the log-odds of the token said would move, had that earlier token been an average one."


@dataclass(frozen=True, kw_only=True)
class Option:
    """A token that might have been said."""

    text: str
    prob: float
    q: float | None


@dataclass(frozen=True, kw_only=True)
class SaidToken:
    """One of the agent's own tokens: its choice, `mask` True."""

    place: int
    """Among the conversation's tokens."""
    prob: float
    """By which it was drawn; of one who chooses among whole utterances, by the policy that proposes them."""
    cloned_prob: float | None
    """By the cloned policy, where something steers it."""
    q: float | None
    """Of this token; of whole utterances at their last one."""
    v: float | None
    """Before it; of whole utterances at their first one."""
    options: list[Option]
    """The likeliest, the one that was said always among them."""
    reward: float


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """All tokens of a conversation in order, those of the agent's own choice with figures."""

    tokens: list[str]
    speakers: list[str]
    """Of each token: agent, other, or "" for the specials between turns."""
    said: list[SaidToken]
    total: float
    outcome: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    recall: Recall | None = None
    """Of each of `said`, how far its log-odds would move had an earlier token been an average one."""


def inspect_dialogues(
    agent: LanguageAgent,
    task: TextTask[Any],
    num_dialogues: int = 3,
    seed: int = 0,
    *,
    sample: bool = False,
    max_tokens: int = 64,
    scorer: Scorer = by_task,
) -> list[Conversation]:
    """Have conversations and gather what is to be shown of them. `scorer` rewards them.

    Raises UserError for fewer than one.
    """
    if num_dialogues < 1:
        raise UserError(f"--num-episodes is {num_dialogues}: it must be at least 1")
    voice = agent.voice()
    whole = hasattr(voice, "speak")  # of utterances that are all the likeliest none can be chosen
    sampling = Sampling(temperature=1.0 if sample or whole else 0.0)
    played = play(
        task, voice, num_dialogues, tokenizer=agent.tokenizer, seed=seed, sampling=sampling, max_tokens=max_tokens
    )
    played = [with_scores(each, scores) for each, scores in zip(played, scorer(played), strict=True)]
    rows = [rows_of(each.turns, agent.tokenizer) for each in played]
    average = _average(agent.policy, rows)
    return [_conversation(agent, voice, one, row, average) for one, row in zip(played, rows, strict=True)]


@torch.no_grad()
def _conversation(
    agent: LanguageAgent, voice: Voice, played: Played, rows: TokenRows, average: Tensor | None
) -> Conversation:
    tokenizer, said, cloned = agent.tokenizer, decided([rows]), agent.cloned().voice()
    allowed = sayable(tokenizer)
    spoken = log_probs(cloned if hasattr(voice, "speak") else voice, [rows], allowed)[:, 0]
    plain = log_probs(cloned, [rows], allowed)[:, 0] if isinstance(agent, SteeredAgent) else None
    q, v, q_of_options = _values(agent, rows, said)
    places = (said.row[:, 0][said.valid[:, 0]] + 1).tolist()
    tokens = []
    for d, place in enumerate(places):
        token = int(said.token[d, 0])
        tokens.append(
            SaidToken(
                place=place,
                prob=math.exp(spoken[d, token]),
                cloned_prob=None if plain is None else math.exp(plain[d, token]),
                q=q[d],
                v=v[d],
                options=_options(tokenizer, spoken[d], token, None if q_of_options is None else q_of_options[d]),
                reward=float(said.reward[d, 0]),
            )
        )
    names = [tokenizer.decode([token]) for token in rows.tokens.tolist()]
    speakers = [""] + [
        "agent" if mine else "other" if turn >= 0 and token >= len(SPECIALS) else ""
        for mine, turn, token in zip(rows.mask.tolist(), rows.turn.tolist(), rows.tokens[1:].tolist(), strict=True)
    ]
    return Conversation(
        tokens=names,
        speakers=speakers,
        said=tokens,
        total=played.total,
        outcome=played.dialogue.outcome,
        facts=played.dialogue.facts,
        recall=None if average is None else _recall(agent.policy, rows, places, average),
    )


def _options(tokenizer: Tokenizer, log_prob: Tensor, token: int, q: Tensor | None) -> list[Option]:
    """The likeliest tokens; what was said stands last where it is none of them."""
    likeliest = [index for index in log_prob.topk(min(MOST_OPTIONS, len(log_prob))).indices.tolist()
                 if log_prob[index] > -torch.inf]  # fmt: skip
    shown = likeliest if token in likeliest else [*likeliest[: MOST_OPTIONS - 1], token]
    return [
        Option(
            text=tokenizer.decode([index]),
            prob=math.exp(log_prob[index]),
            q=None if q is None or len(q) == 1 else float(q[index]),
        )
        for index in shown
    ]


Figures = list[float | None]


def _values(agent: LanguageAgent, rows: TokenRows, said: Decided) -> tuple[Figures, Figures, Tensor | None]:
    """Q and V of each of the agent's tokens, and Q of all tokens in its place [D, V]: what the agent has of them."""
    row, count = said.row[:, 0], int(said.valid.sum())
    nothing: Figures = [None] * count
    if isinstance(agent, SteeredAgent):
        y = agent.values.model(rows.tokens[:-1, None])[row, 0]
        q = agent.values.least(y)
        return q.gather(-1, said.token)[:count, 0].tolist(), agent.values.value(y)[:count].tolist(), q
    if isinstance(agent, UtteranceAgent):
        return *_at_turns(said, partial(_of_utterances, agent.values, rows)), None
    if isinstance(agent, RerankingAgent):
        return *_at_turns(said, partial(_of_critic, agent, rows)), None
    return nothing, nothing, None


def _at_turns(said: Decided, of_turn: Any) -> tuple[Figures, Figures]:
    """Figures of whole turns: Q at each turn's last token, V at its first. `of_turn` takes the rows of both."""
    valid = said.valid[:, 0]
    row, turn = said.row[:, 0][valid].tolist(), said.turn[:, 0][valid].tolist()
    q: Figures = [None] * len(row)
    v: Figures = [None] * len(row)
    for number in range(max(turn, default=-1) + 1):
        first, last = turn.index(number), len(turn) - 1 - turn[::-1].index(number)
        q[last], v[first] = of_turn(row[first], row[last])
    return q, v


def _of_utterances(values: TokenValues, rows: TokenRows, first: int, last: int) -> tuple[float, float]:
    """Q once the turn's last token was read, V in the state before its first."""
    y = values.model(rows.tokens[:-1, None])[:, 0]
    return float(values.least(y[last + 1])[0]), float(values.value(y[first]))


def _of_critic(agent: RerankingAgent, rows: TokenRows, first: int, last: int) -> tuple[float, float]:
    """The same of a critic of whole utterances; it reads those that ended themselves, as all that were proposed."""
    ids = rows.tokens.tolist()
    features = agent.policy(rows.tokens[:-1, None])[last + 1, 0]
    size = agent.critic.network.feature_size
    q, v = agent.critic.appraise([ids[: first + 1]], [[ids[first + 1 : last + 2]]], features[None, None, :size])
    return float(q[0, 0]), float(v[0])


def _average(model: LanguageModel, rows: list[TokenRows]) -> Tensor | None:
    """What a token looks like on average to a model that is made of a memory; None for others, and for long ones."""
    if not isinstance(model, MemoryModel) or max(len(each.mask) for each in rows) > LONGEST:
        return None
    parts = [encoded(model.memory, partial(_odds, model, each), len(each.mask)) for each in rows]
    return torch.cat(parts).mean(0)


def _odds(model: MemoryModel, rows: TokenRows, stop: int) -> Tensor:
    """The log-odds of each next token, [stop, B]."""
    y = model(rows.tokens[:stop, None])
    return log_odds(model.logits(y).log_softmax(-1), rows.tokens[1:, None])


def _recall(model: LanguageModel, rows: TokenRows, places: list[int], average: Tensor) -> Recall:
    assert isinstance(model, MemoryModel), "the only one that is asked"
    weights = occlusion(model.memory, partial(_odds, model, rows), len(rows.mask), average)
    chosen: list[np.ndarray] = [weights[place - 1] for place in places]
    return Recall(name="effect on the token said", about=ABOUT, weights=chosen)
