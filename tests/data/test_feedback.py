"""Thumbs of logged dialogues as answers that were judged alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from seqrl.data.dialogues import Dialogue, Turn, write_dialogues
from seqrl.data.feedback import holds_dialogues, read_judged, thumbs_of_dialogues
from seqrl.data.preferences import Thumb, cut_turns, write_thumbs
from seqrl.errors import UserError


def said(*texts: str) -> tuple[Turn, ...]:
    return tuple(Turn(speaker=("customer", "bot")[k % 2], text=text) for k, text in enumerate(texts))


def with_thumbs(*thumbs: int | None) -> Dialogue:
    turns = tuple(
        replace(turn, thumbs=given, at=float(k), reward=0.5 if k % 2 else None)
        for k, (turn, given) in enumerate(zip(said("a", "b", "c", "d", "e", "f", "g"), thumbs, strict=True))
    )
    return Dialogue(id="talk", agent="bot", turns=turns)


# Broken by the thumbs of the turn alone (those of the answer to it count too), by a sum of 0 that is taken for down, by
# prompts that differ in what is not said.
def test_each_turn_with_thumbs_is_an_answer_to_all_before_it() -> None:
    dialogue = with_thumbs(None, 1, None, None, -1, -1, 1)
    assert list(thumbs_of_dialogues([dialogue])) == [
        Thumb(id="talk-1", prompt=said("a"), completion=said("", "b")[1:], label=True, agent="bot"),
        Thumb(id="talk-3", prompt=said("a", "b", "c"), completion=said("", "d")[1:], label=False, agent="bot"),
    ]


def test_a_file_of_either_form_is_read(tmp_path: Path) -> None:
    log, thumbs = tmp_path / "log.jsonl", tmp_path / "thumbs.jsonl"
    write_dialogues(log, [with_thumbs(None, 1, None, None, -1, -1, 1)])
    judged = list(read_judged(log))
    write_thumbs(thumbs, judged)
    assert list(read_judged(thumbs)) == judged
    assert (holds_dialogues(log), holds_dialogues(thumbs), holds_dialogues(tmp_path / "none")) == (True, False, False)
    write_dialogues(log, [with_thumbs(*[None] * 7)])
    with pytest.raises(UserError, match=r"log\.jsonl: no turn of the agent has thumbs"):
        list(read_judged(log))
    write_dialogues(log, [with_thumbs(1, 1, *[None] * 5)])
    with pytest.raises(UserError, match=r"turns\[0\] has thumbs, but the agent \(bot\) has said nothing yet"):
        list(read_judged(log))


# Broken by a thumb that does not say so: its end, which nobody said, would be learnt as good or bad.
def test_an_answer_that_was_cut_off_says_so() -> None:
    dialogue = with_thumbs(None, 1, None, -1, None, None, None)
    turns = tuple(replace(turn, cut=True) if k == 3 else turn for k, turn in enumerate(dialogue.turns))
    first, second = thumbs_of_dialogues([replace(dialogue, turns=turns)])
    assert (first.meta, second.meta) == ({}, {"cut": "1"})
    assert cut_turns(second, "cut") == {1}
