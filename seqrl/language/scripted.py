"""Logs of scripted speakers: conversations of known quality to learn from."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from seqrl.data.dialogues import Dialogue, Turn
from seqrl.seeds import derived_seed
from seqrl.text import Dialogue as Conversation
from seqrl.text import TextTask, converse, make_speaker

AGENT, OTHER = "agent", "task"
"""Who speaks in the logs of tasks."""


def logged(conversation: Conversation, number: int, **meta: str | float | bool) -> Dialogue:
    """A conversation of a task as a line of a log; texts of the other that are empty are no turns.

    Its outcome and facts, where the task tells any, are the dialogue's outcome and meta. Without an outcome its return
    stands there: that there is one says that the conversation is whole.
    """
    turns = [Turn(speaker=OTHER, text=conversation.texts[0])] if conversation.texts[0] else []
    for said, reply, reward in zip(conversation.utterances, conversation.replies, conversation.rewards, strict=True):
        turns += [Turn(speaker=AGENT, text=said, reward=float(reward)), Turn(speaker=OTHER, text=reply)]
    if not turns[-1].text:
        turns.pop()
    known = {**conversation.facts, **meta}
    outcome = dict(conversation.outcome) or {"return": float(sum(conversation.rewards))}
    return Dialogue(id=f"{number}", agent=AGENT, turns=tuple(turns), outcome=outcome, meta=known)


def scripted_dialogues(
    task: TextTask[Any], speakers: Sequence[str], num_dialogues: int, seed: int = 0
) -> Iterator[Dialogue]:
    """`num_dialogues` conversations of `task`, the speakers (names for `make_speaker`) in turns.

    Conversation number i depends on `seed`, i and its speaker alone. `meta` has the speaker's name.
    """
    draws = torch.Generator()
    known = [(name, make_speaker(name, task, draws)) for name in speakers]
    for number in range(num_dialogues):
        name, speaker = known[number % len(known)]
        draws.manual_seed(derived_seed(seed, 0, number))
        hidden = torch.Generator().manual_seed(derived_seed(seed, 1, number))
        yield logged(converse(task, speaker, hidden), number, speaker=name)
