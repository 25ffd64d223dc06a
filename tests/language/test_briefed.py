"""CaSiNo's dialogues with the briefing that a negotiation opens with."""

from dataclasses import replace
from pathlib import Path

import pytest

from seqrl.data.dialogue_importers import from_casino
from seqrl.data.dialogues import Dialogue, Turn
from seqrl.errors import UserError
from seqrl.language.briefed import briefed
from seqrl.language.rows import token_turns
from seqrl.text import Negotiation
from seqrl.text.negotiation_words import briefed_points

CASINO = Path(__file__).parents[2] / ".." / "shared" / "data" / "casino" / "casino_valid.json"
META = {"high": "Water", "medium": "Firewood", "low": "Food"}
HELLO = Dialogue(
    id="d", agent="me", turns=(Turn(speaker="you", text="Hello"), Turn(speaker="me", text="Hi")), meta=META
)


def test_the_agents_points_come_first():
    # Broken by the partner's priorities, or by a turn of the agent's own, which would be learnt.
    told = "There are 3 packages of each. Your points: food 3, water 5, firewood 4."
    assert [turn.text for turn in briefed(HELLO).turns] == [f"{told} Hello", "Hi"]
    mine_first = replace(HELLO, turns=HELLO.turns[::-1])
    assert [(turn.speaker, turn.text) for turn in briefed(mine_first).turns] == [
        ("you", told),
        ("me", "Hi"),
        ("you", "Hello"),
    ]
    for bad, message in [({"meta": {}}, "do not name food"), ({"turns": HELLO.turns[1:]}, "nobody but the agent")]:
        with pytest.raises(UserError, match=message):
            briefed(replace(HELLO, **bad))


def test_casino_is_read_by_the_tasks_vocabulary():
    if not CASINO.exists():
        pytest.skip("needs CaSiNo's validation split in ../shared/data/casino")
    tokenizer = Negotiation().tokenizer
    for dialogue in from_casino(CASINO):
        result = briefed(dialogue)
        points = dict(zip(("Food", "Water", "Firewood"), briefed_points(result.turns[0].text), strict=True))
        assert [points[dialogue.meta[level]] for level in ("high", "medium", "low")] == [5, 4, 3]
        turns = token_turns(result, tokenizer)
        assert [tokenizer.decode(turn.ids) for turn in turns] == [turn.text for turn in result.turns]
