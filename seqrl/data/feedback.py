"""What people thought of the agent's turns in logged dialogues: thumbs and clicks."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from seqrl.data.dialogues import Dialogue, Turn, Value, first_line, read_dialogues, shown
from seqrl.data.held_out import groups_of
from seqrl.data.preferences import Thumb, read_thumbs
from seqrl.errors import UserError


def feedback(dialogue: Dialogue, name: Literal["thumbs", "clicks"]) -> list[float]:
    """For each of the agent's turns, its own and that of others' turns until it speaks again, added up: many programs
    log a verdict with the turn of whoever gives it.

    Raises UserError for any before the agent's first turn, which is about nothing of its.
    """
    sums: list[float] = []
    for k, turn in enumerate(dialogue.turns):
        given = getattr(turn, name)
        if turn.speaker == dialogue.agent:
            sums.append(float(given or 0))
        elif given is not None and not sums:
            raise UserError(
                f"dialogue {shown(dialogue.id)}: turns[{k}] has {name}, but the agent ({shown(dialogue.agent)}) has "
                "said nothing yet: take them out, or put them on its turn"
            )
        elif given is not None:
            sums[-1] += given
    return sums


def thumbs_of_dialogues(dialogues: Iterable[Dialogue]) -> Iterator[Thumb]:
    """Each of the agent's turns that has thumbs as an answer judged alone, to all that was said before it. Thumbs that
    add up to 0 say nothing."""
    dialogues = list(dialogues)
    for dialogue, group in zip(dialogues, groups_of(dialogues), strict=True):
        said = tuple(Turn(speaker=turn.speaker, text=turn.text) for turn in dialogue.turns)
        mine = [k for k, turn in enumerate(said) if turn.speaker == dialogue.agent]
        for k, given in zip(mine, feedback(dialogue, "thumbs"), strict=True):
            if given:
                name, answer = f"{dialogue.id}-{k}", said[k : k + 1]
                cut: dict[str, Value] = {"cut": "1"} if dialogue.turns[k].cut else {}  # see `cut_turns`
                yield Thumb(
                    id=name, prompt=said[:k], completion=answer, label=given > 0, agent=dialogue.agent, meta=cut,
                    group=group,
                )  # fmt: skip


def holds_dialogues(path: str | Path) -> bool:
    """Whether the first line of a file is a dialogue; False also where it cannot be read."""
    return "turns" in first_line(path)


def read_judged(path: str | Path) -> Iterator[Thumb]:
    """The thumbs of a file of them, or of a log of dialogues.

    Raises UserError as `read_thumbs` and `read_dialogues` do, and for a log whose agent has none.
    """
    if not holds_dialogues(path):
        yield from read_thumbs(path)
        return
    found = False
    for thumb in thumbs_of_dialogues(read_dialogues(path)):
        found = True
        yield thumb
    if not found:
        raise UserError(f"{shown(path, 1000)}: no turn of the agent has thumbs: give a log that has, or judged answers")
