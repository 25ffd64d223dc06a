"""What an audit keeps of logged dialogues: a few numbers of each, from one pass over the file."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from seqrl.data.dialogues import Dialogue, Turn, Value, numbered_dialogues, shown
from seqrl.tables import plain_table

REWARD_IN_TEXT = re.compile(r"\b(?:reward|return|score|points?)\s*[:=]\s*[-+]?\d", re.IGNORECASE)
"""Such as `reward: 1` or `score=0.5`: a log's own bookkeeping, not what people say."""


@dataclass(slots=True)
class Facts:
    """What is kept of one dialogue. "Mine" are the agent's turns, the others' are "theirs"."""

    line: int
    id: str
    agent: str
    words: bytes
    """A hash of agent, speakers and texts."""
    speakers: frozenset[str]
    outcome: Mapping[str, Value]
    meta: Mapping[str, Value]
    rewards: list[float]
    """Of my turns, those that were logged."""
    mine: int
    rewarded_theirs: int
    feedback: int
    """Turns with thumbs or clicks, mine or behind one of mine, which is credited with them (`seqrl reward`)."""
    early_feedback: int
    """Such turns before my first: nothing of mine can be credited."""
    mine_is_last: bool
    repeated: int
    """Turns that say what the same speaker said just before."""
    in_a_row: int
    empty_mine: int
    empty_theirs: int
    cut_mine: int
    propensities: int
    bad_propensities: list[float]
    back_in_time: int
    reward_in_text: int

    @property
    def total(self) -> float:
        return sum(self.rewards)

    @property
    def points(self) -> float | None:
        value = self.outcome.get("points")
        return None if isinstance(value, bool | str) else value

    @property
    def failed(self) -> bool:
        return self.outcome.get("agreement") in (False, 0)


@dataclass
class Speaker:
    """One row of the table by speaker. Tokens are words between spaces; `learnt` ones are those of the agent."""

    dialogues: int = 0
    turns: int = 0
    tokens: int = 0
    learnt_turns: int = 0
    learnt_tokens: int = 0
    rewards: int = 0
    reward_sum: float = 0.0


@dataclass
class Log:
    """A file of dialogues, looked through once."""

    dialogues: list[Facts] = field(default_factory=list)
    speakers: dict[str, Speaker] = field(default_factory=dict)

    @property
    def agents(self) -> set[str]:
        return {facts.agent for facts in self.dialogues}


def read_log(path: str | Path) -> Log:
    """One pass. Raises what `read_dialogues` raises."""
    log = Log()
    for line, dialogue in numbered_dialogues(path):
        log.dialogues.append(_facts(line, dialogue))
        for name in log.dialogues[-1].speakers:
            log.speakers.setdefault(name, Speaker()).dialogues += 1
        for turn in dialogue.turns:
            _count(log.speakers[turn.speaker], turn, turn.speaker == dialogue.agent)
    return log


def _facts(line: int, dialogue: Dialogue) -> Facts:
    turns, agent = dialogue.turns, dialogue.agent
    mine = [turn for turn in turns if turn.speaker == agent]
    theirs = [turn for turn in turns if turn.speaker != agent]
    rated = [turn.thumbs is not None or turn.clicks is not None for turn in turns]
    first = next((k for k, turn in enumerate(turns) if turn.speaker == agent), len(turns))
    pairs = list(pairwise(turns))
    given = [turn.propensity for turn in mine if turn.propensity is not None]
    times = [turn.at for turn in turns if turn.at is not None]
    content = repr((agent, [(turn.speaker, turn.text) for turn in turns]))
    return Facts(
        line=line,
        id=dialogue.id,
        agent=agent,
        words=hashlib.blake2b(content.encode(), digest_size=16).digest(),
        speakers=frozenset(turn.speaker for turn in turns),
        outcome=dialogue.outcome,
        meta=dialogue.meta,
        rewards=[turn.reward for turn in mine if turn.reward is not None],
        mine=len(mine),
        rewarded_theirs=sum(turn.reward is not None for turn in theirs),
        feedback=sum(rated[first:]),
        early_feedback=sum(rated[:first]),
        mine_is_last=turns[-1].speaker == agent,
        repeated=sum(a.speaker == b.speaker and a.text == b.text for a, b in pairs),
        in_a_row=sum(a.speaker == b.speaker for a, b in pairs),
        empty_mine=sum(not turn.text.strip() for turn in mine),
        empty_theirs=sum(not turn.text.strip() for turn in theirs),
        cut_mine=sum(bool(turn.cut) for turn in mine),
        propensities=len(given),
        bad_propensities=[value for value in given if not 0 < value <= 1],
        back_in_time=sum(b < a for a, b in pairwise(times)),
        reward_in_text=sum(bool(REWARD_IN_TEXT.search(turn.text)) for turn in turns),
    )


def _count(speaker: Speaker, turn: Turn, learnt: bool) -> None:
    tokens = len(turn.text.split())
    speaker.turns += 1
    speaker.tokens += tokens
    speaker.learnt_turns += learnt
    speaker.learnt_tokens += tokens * learnt
    speaker.rewards += turn.reward is not None
    speaker.reward_sum += turn.reward or 0.0


def speaker_rows(log: Log) -> list[dict[str, Any]]:
    """The table by speaker, who says most first."""
    order = sorted(log.speakers, key=lambda name: (-log.speakers[name].turns, name))
    return [{"speaker": name} | vars(log.speakers[name]) for name in order]


def speaker_table(rows: Iterable[Mapping[str, Any]], most: int = 12) -> Table:
    """Who says how much, how much of it is learnt from (the loss mask), and what it earned."""
    rows = list(rows)
    rest = len(rows) - most
    caption = "tokens: words between spaces; learnt: of turns whose speaker is the dialogue's agent, mask 1"
    table = plain_table(caption=caption + (f"; {rest:,} more speakers are not shown" if rest > 0 else ""))
    table.add_column("speaker", overflow="fold")
    for name in ("dialogues", "turns", "learnt", "tokens", "learnt", "rewards", "sum"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[:most]:
        counts = ("dialogues", "turns", "learnt_turns", "tokens", "learnt_tokens", "rewards")
        table.add_row(Text(shown(row["speaker"])), *(f"{row[name]:,}" for name in counts), f"{row['reward_sum']:,.6g}")
    return table
