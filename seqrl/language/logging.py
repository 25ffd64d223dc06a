"""Logs of voices at play: which turns were cut off, and the probabilities of the others, for importance weights."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from seqrl.data.dialogues import Dialogue
from seqrl.language.generation import Voice, sayable
from seqrl.language.likelihood import decided, log_probs, of_tokens
from seqrl.language.play import Played, play
from seqrl.language.rows import rows_of
from seqrl.language.scripted import AGENT, logged
from seqrl.text import TextTask, Tokenizer


def logged_play(
    task: TextTask[Any],
    voice: Voice,
    num_dialogues: int,
    *,
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
    max_tokens: int = 64,
) -> Iterator[Dialogue]:
    """`num_dialogues` conversations of `voice` with `task` as lines of a log, with propensities.

    A turn has none where its text does not say which tokens were drawn: it was cut off, or would be read as others; nor
    has any of a voice that chooses whole utterances (`speak`), whose probabilities are not known.
    """
    tokenizer = tokenizer or task.tokenizer
    played = play(task, voice, num_dialogues, tokenizer=tokenizer, seed=seed, max_tokens=max_tokens)
    yield from with_propensities(played, voice, tokenizer, name=f"play-{seed}-")


def with_propensities(played: list[Played], voice: Voice, tokenizer: Tokenizer, name: str = "") -> Iterator[Dialogue]:
    """What `voice` played, as lines of a log, whose ids are `name` and a number."""
    known = not hasattr(voice, "speak")
    if known:
        rows = [rows_of(each.turns, tokenizer) for each in played]
        said = decided(rows)
        by_turn = said.by_turn(of_tokens(log_probs(voice, rows, sayable(tokenizer)), said)).double()
    for number, conversation in enumerate(played):
        dialogue = logged(conversation.dialogue, number)
        drawn = [turn for turn in conversation.turns if turn.agent and not turn.given]
        turns, k = [], 0
        for turn in dialogue.turns:
            if turn.speaker == AGENT:
                clear = known and drawn[k].ended and tuple(tokenizer.encode(turn.text)) == drawn[k].ids
                propensity = math.exp(by_turn[k, number]) if clear else None
                turn = dataclasses.replace(turn, propensity=propensity, cut=None if drawn[k].ended else True)
                k += 1
            turns.append(turn)
        yield dataclasses.replace(dialogue, id=f"{name}{number}", turns=tuple(turns))
