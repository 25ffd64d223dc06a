"""CaSiNo's negotiations as `Negotiation` would open them: the agent is told what packages are worth to it."""

from dataclasses import replace

from seqrl.data.dialogues import Dialogue, Turn, shown
from seqrl.errors import UserError
from seqrl.text.negotiation_parsing import ITEMS
from seqrl.text.negotiation_words import briefing

LEVELS = {"high": 5, "medium": 4, "low": 3}


def briefed(dialogue: Dialogue) -> Dialogue:
    """The dialogue with the agent's points before all that is said, by its `meta` (high, medium and low).

    They open the other's first turn where that is the first of all, as in `Negotiation`, or are a turn of its own.
    Turns of one speaker in a row stay as they are.

    Raises: UserError where `meta` does not have the three items, or nobody but the agent speaks.
    """
    points = {str(dialogue.meta.get(level, "")).lower(): number for level, number in LEVELS.items()}
    if set(points) != set(ITEMS):
        raise UserError(
            f"dialogue {shown(dialogue.id)}: meta.high, meta.medium and meta.low do not name food, water and firewood: "
            "give a log that seqrl import made of CaSiNo"
        )
    others = [turn.speaker for turn in dialogue.turns if turn.speaker != dialogue.agent]
    if not others:
        raise UserError(f"dialogue {shown(dialogue.id)}: nobody but the agent speaks: leave it out")
    told = briefing([points[item] for item in ITEMS])
    first, *rest = dialogue.turns
    if first.speaker == dialogue.agent:
        return replace(dialogue, turns=(Turn(speaker=others[0], text=told), *dialogue.turns))
    return replace(dialogue, turns=(replace(first, text=f"{told} {first.text}"), *rest))
