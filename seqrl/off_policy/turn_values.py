"""In which turns the value rose or fell: what the agent's choice of words did, and what the other's reply."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from seqrl.data.dialogues import Dialogue
from seqrl.language.likelihood import decided
from seqrl.language.rows import batch_of, rows_of, token_turns
from seqrl.language.steering import TokenValues
from seqrl.text import Tokenizer


@dataclass(frozen=True, kw_only=True)
class TurnValue:
    """One of the agent's turns in a log. Values are those of the run: what is expected from there on, as it steers.

    With n tokens in the turn, of which each but the last discounts once:

        choice = γ^{n−1} Q(s_n, a_n) − V(s_1)          by the words, before anything is said back
        reply  = γ^{n−1} (r + γ V(s') − Q(s_n, a_n))   by the reward and the reply: better or worse than was expected
        change = choice + reply

    s_1 is where the turn begins, a_n its last token, s' where the agent speaks next; behind the last turn V is 0.
    """

    dialogue: str
    """Its id."""
    turn: int
    """Its index among all turns of the dialogue."""
    heard: str
    """What others said since the agent's turn before, one turn a line; empty if nothing was."""
    said: str
    answer: str
    """What they said until the agent's next turn; empty if nothing was."""
    reward: float
    before: float
    """V(s_1)."""
    expected: float
    """Q(s_n, a_n)."""
    after: float
    """V(s')."""
    choice: float
    reply: float

    @property
    def change(self) -> float:
        return self.choice + self.reply

    def as_dict(self) -> dict[str, Any]:
        """For a line of JSON."""
        return {**vars(self), "change": self.change}


@torch.no_grad()
def turn_values(
    dialogues: Sequence[Dialogue], tokenizer: Tokenizer, values: TokenValues, gamma: float, batch_size: int = 128
) -> Iterator[TurnValue]:
    """All of the agent's turns, in the order of the log. Raises UserError for texts that the tokenizer cannot read."""
    dialogues = [each for each in dialogues if any(turn.speaker == each.agent for turn in each.turns)]
    for first in range(0, len(dialogues), batch_size):
        part = dialogues[first : first + batch_size]
        rows = [rows_of(token_turns(dialogue, tokenizer), tokenizer) for dialogue in part]
        said = decided(rows)
        y = values.model(batch_of(rows).tokens[:-1])
        y = y.gather(0, said.row[..., None].expand(*said.row.shape, y.shape[-1]))
        v = values.value(y)
        q = values.least(y).gather(-1, said.token[..., None])[..., 0]
        for b, dialogue in enumerate(part):
            yield from _of_dialogue(dialogue, said.turn[:, b].tolist(), v[:, b].tolist(), q[:, b].tolist(), gamma)


def _of_dialogue(
    dialogue: Dialogue, turn: list[int], v: list[float], q: list[float], gamma: float
) -> Iterator[TurnValue]:
    mine = [k for k, each in enumerate(dialogue.turns) if each.speaker == dialogue.agent]
    begins = [turn.index(number) for number in range(len(mine))]
    ends = [begin - 1 for begin in begins[1:]] + [sum(number >= 0 for number in turn) - 1]
    texts = [each.text for each in dialogue.turns]
    between = ["\n".join(texts[k + 1 : following]) for k, following in pairwise([-1, *mine, len(texts)])]
    for number, (k, begin, end) in enumerate(zip(mine, begins, ends, strict=True)):
        after = v[begins[number + 1]] if number + 1 < len(mine) else 0.0
        reward, power = dialogue.turns[k].reward or 0.0, gamma ** (end - begin)
        yield TurnValue(
            dialogue=dialogue.id,
            turn=k,
            heard=between[number],
            said=texts[k],
            answer=between[number + 1],
            reward=reward,
            before=v[begin],
            expected=q[end],
            after=after,
            choice=power * q[end] - v[begin],
            reply=power * (reward + gamma * after - q[end]),
        )


def extremes(found: Sequence[TurnValue], number: int, by: str = "choice") -> tuple[list[TurnValue], list[TurnValue]]:
    """The `number` turns with the least `by` (choice, reply or change), the worst first, and those with the greatest,
    the best first; of equal ones, the first in the log. Without rises among the worst, or falls among the best."""
    rising = sorted(found, key=lambda turn: getattr(turn, by))
    falling = sorted(found, key=lambda turn: -getattr(turn, by))
    worst = [turn for turn in rising[:number] if getattr(turn, by) < 0]
    return worst, [turn for turn in falling[:number] if getattr(turn, by) > 0]
