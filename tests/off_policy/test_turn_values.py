"""Which turns changed the value: by hand, and what adds up to the return."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console

from seqrl.cli.shipping import turns_table
from seqrl.data.dialogues import Dialogue, Turn
from seqrl.errors import UserError
from seqrl.off_policy.turn_values import TurnValue, extremes, turn_values
from seqrl.text import Tokenizer

TOKENIZER = Tokenizer(["a", "b", "h"])
NUM_TOKENS = len(TOKENIZER)


class Counting:
    """Values by place alone: in row t (from 0) V = 10 + t, and Q of token k is 100 t + k."""

    def model(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.arange(len(tokens), dtype=torch.float32)[:, None, None].expand(*tokens.shape, 1)

    def value(self, y: torch.Tensor) -> torch.Tensor:
        return 10 + y[..., 0]

    def least(self, y: torch.Tensor) -> torch.Tensor:
        return 100 * y + torch.arange(NUM_TOKENS)


VALUES: Any = Counting()
LOG = [
    Dialogue(
        id="one",
        agent="bot",
        turns=(
            Turn(speaker="bot", text="ab", reward=1.0),
            Turn(speaker="man", text="h"),
            Turn(speaker="bot", text="b", reward=5.0),
        ),
    ),
    Dialogue(id="two", agent="bot", turns=(Turn(speaker="man", text="hh"), Turn(speaker="bot", text="a"))),
]


def test_values_by_hand():
    """Rows: <begin> <agent> a b <end> | h <end of reply> <agent> b <end>. The first turn is decided in rows 1 to 3, the
    second in 7 and 8; Q of <end of utterance> (token 3) in row 3 is 303, in row 8 803. With γ = ½ and three tokens:

    choice = ¼ · 303 − 11 = 64.75;   reply = ¼ (1 + ½ · 17 − 303) = −73.375
    choice = ½ · 803 − 17 = 384.5;   reply = ½ (5 − 803) = −399

    Breaks if the power is one more, `after` is not discounted, Q is the first token's, or the last turn bootstraps.
    """
    first, second, third = turn_values(LOG, TOKENIZER, VALUES, 0.5)
    assert (first.before, first.expected, first.after) == (11, 303, 17)
    assert (first.choice, first.reply, first.change) == (64.75, -73.375, -8.625)
    assert (second.before, second.expected, second.after) == (17, 803, 0)
    assert (second.choice, second.reply) == (384.5, -399)
    assert (first.dialogue, first.turn, first.heard, first.said, first.answer) == ("one", 0, "", "ab", "h")
    assert (second.turn, second.heard, second.said, second.answer) == (2, "h", "b", "")
    assert (third.dialogue, third.turn, third.heard, third.reward, third.before) == ("two", 1, "hh", 0.0, 14)


def test_changes_add_up_to_the_return():
    """Undiscounted, a dialogue's changes are its return less the value at its beginning."""
    one = list(turn_values(LOG[:1], TOKENIZER, VALUES, 1.0))
    assert sum(turn.change for turn in one) == pytest.approx(6.0 - one[0].before)


def test_batches_have_no_say():
    assert list(turn_values(LOG, TOKENIZER, VALUES, 0.9, 1)) == list(turn_values(LOG, TOKENIZER, VALUES, 0.9))


# Broken by dialogues that are not left out where the agent is silent: beside others, and alone.
def test_dialogues_without_the_agent_have_no_turns():
    silent = Dialogue(id="no", agent="bot", turns=(Turn(speaker="man", text="h"),))
    assert list(turn_values([LOG[0], silent, LOG[1]], TOKENIZER, VALUES, 0.9)) == list(
        turn_values(LOG, TOKENIZER, VALUES, 0.9)
    )
    assert list(turn_values([silent], TOKENIZER, VALUES, 0.9)) == []


# Broken by the neighbouring turns alone, which may be the agent's own.
def test_what_was_heard_is_all_that_others_said():
    said = [
        ("man", "a"),
        ("boy", "b"),
        ("bot", "h"),
        ("bot", "hh"),
        ("man", "ab"),
        ("man", ""),
        ("bot", "a"),
        ("man", "h"),
    ]
    log = Dialogue(id="d", agent="bot", turns=tuple(Turn(speaker=who, text=text) for who, text in said))
    found = [(each.heard, each.said, each.answer) for each in turn_values([log], TOKENIZER, VALUES, 1.0)]
    assert found == [("a\nb", "h", ""), ("", "hh", "ab\n"), ("ab\n", "a", "h")]


def test_texts_that_cannot_be_read_are_refused():
    bad = Dialogue(id="x", agent="bot", turns=(Turn(speaker="bot", text="zz"),))
    with pytest.raises(UserError, match="no token fits"):
        list(turn_values([bad], TOKENIZER, VALUES, 1.0))


def turn(choice: float, reply: float = 0.0, said: str = "") -> TurnValue:
    return TurnValue(
        dialogue="d", turn=0, heard="", said=said, answer="", reward=0.0, before=0.0, expected=0.0, after=0.0,
        choice=choice, reply=reply,
    )  # fmt: skip


def test_extremes():
    """Breaks if rises are among the falls, or equal ones change their order."""
    found = [turn(1.0), turn(-2.0, 5.0), turn(-3.0, 1.0), turn(0.0), turn(-2.0, -1.0), turn(4.0)]
    worst, best = extremes(found, 2)
    assert worst == [found[2], found[1]]
    assert best == [found[5], found[0]]
    assert extremes(found, 9) == ([found[2], found[1], found[4]], [found[5], found[0]])
    assert extremes(found, 1, "reply") == ([found[4]], [found[1]])
    assert extremes(found, 0) == ([], [])


def test_texts_are_escaped_on_the_terminal():
    """Breaks without `shown`, or without `escape`, which would take words for markup."""
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(turns_table([turn(-1.0, said="\x1b[2J[red]gone[/red]‮")], "t[bold]"))
    text = console.export_text()
    assert "\\x1b[2J[red]gone[/red]\\u202e" in text
    assert "t[bold]" in text
    assert "\x1b" not in text


def test_turns_can_be_read_in_a_narrow_terminal():
    """Breaks if: three columns of words are kept, whatever the width: each is seven letters wide."""
    words = "That does not add up, there are three of each"
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(turns_table([replace(turn(-1.0, said=words), heard="[b]Hello")], "t", console.width))
    text = console.export_text()
    assert f"said: {words[:30]}" in text
    assert "heard: [b]Hello" in text
    assert max(map(len, text.splitlines())) <= 80
