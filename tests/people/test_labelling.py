"""Labelling: the same questions for everyone, no choice lost, none asked twice, and how far labellers agree."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from seqrl.data.dialogues import Turn
from seqrl.data.preferences import AGENT, USER, Preference, cut_turns, read_preferences, thumbs_of
from seqrl.errors import UserError
from seqrl.language.generation import Plain, Sampling
from seqrl.language.labellers import SimulatedLabeller, hidden_reward
from seqrl.language.model import MemoryModel
from seqrl.language.prompted import Prompted
from seqrl.memory.make import make_memory
from seqrl.people.labelling import Question, Questions, Session, agreements
from seqrl.text import Tokenizer, TwentyQuestions

FEW: dict[str, Any] = {"sampling": Sampling(), "max_tokens": 3, "name": "q"}


def said(text: str) -> tuple[Turn, ...]:
    return (Turn(speaker=AGENT, text=text),)


class Asked:
    """Questions that are known; `on_ask` is called whenever one is drawn."""

    def __init__(self, count: int = 6, on_ask: Callable[[int], None] = lambda number: None) -> None:
        self.count, self.on_ask = count, on_ask

    def id_of(self, number: int) -> str:
        return f"q-{number}"

    def among(self, wanted: Callable[[str], bool]) -> Iterator[Question]:
        for number in range(self.count):
            if wanted(f"q-{number}"):
                self.on_ask(number)
                yield Question(
                    id=f"q-{number}", prompt=(Turn(speaker=USER, text=f"ask {number}"),),
                    answers=(said(f"one {number}"), said(f"two {number} more")),
                )  # fmt: skip


# Broken by asking for the next question before `append_preference`.
def test_a_choice_is_on_the_disk_before_the_next_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.jsonl"
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(path.stat().st_size), fsync(file))[1])

    def on_ask(number: int) -> None:
        assert len(list(read_preferences(path)) if number else []) == number
        assert path.stat().st_size == synced[-1]

    with Session(path, Asked(on_ask=on_ask), "ada") as session:
        while session.asked is not None:
            session.choose(session.labelled % 2)
    assert session.labelled == 6


def test_a_session_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    with Session(path, Asked(), "ada") as session:
        session.choose(0)
        session.skip()
        assert session.asked is not None
        assert session.asked.question.id == "q-2"
        first = session.asked.first
        session.choose(1)
    asked = []
    with Session(path, Asked(), "ada") as session:
        assert (session.labelled, session.notice) == (2, "")
        while session.asked is not None:
            asked.append(session.asked.question.id)
            session.choose(0)
    assert asked == ["q-1", "q-3", "q-4", "q-5"]  # what was skipped is asked again
    kept = {each.id: each for each in read_preferences(path)}
    assert kept["q-2"].rejected == first
    assert kept["q-2"].meta == {"chosen_shown": "second"}
    with Session(path, Asked(), "bo") as session:
        assert session.asked is not None
        assert session.asked.question.id == "q-0"


# Broken by an order that is the same for all questions.
def test_which_comes_first_is_drawn_for_each_question_and_labeller(tmp_path: Path) -> None:
    orders = {}
    for name in ("ada", "bo"):
        with Session(tmp_path / "p.jsonl", Asked(40), name) as session:
            orders[name] = []
            while session.asked is not None:
                orders[name].append(session.asked.order)
                session.choose(0)
    swapped = [sum(order == (1, 0) for order in each) for each in orders.values()]
    assert all(9 < count < 31 for count in swapped)
    assert orders["ada"] != orders["bo"]


# Broken by reading before `mend_end`, or by cutting more than the last line.
def test_a_line_that_was_cut_short_costs_no_other_label(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    with Session(path, Asked(), "ada") as session:
        for _ in range(3):
            session.choose(0)
    whole = path.read_bytes()
    last = len(whole) - len(whole.splitlines(keepends=True)[-1])
    for cut in [*range(last, last + 12), len(whole) - 2, len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with Session(path, Asked(), "ada") as session:
            left = 3 if cut == len(whole) - 1 else 2  # a line that lacks its end alone is whole
            assert session.labelled == left
            assert bool(session.notice) == (last < cut < len(whole) - 1)
            assert session.asked is not None
            assert session.asked.question.id == f"q-{left}"
            session.choose(0)
        assert [each.id for each in read_preferences(path)] == [f"q-{k}" for k in range(left + 1)]


def test_one_session_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    with Session(path, Asked(), "ada"), pytest.raises(UserError, match="in another session"):
        Session(path, Asked(), "bo")
    assert not path.exists()  # nothing was chosen


def test_other_answers_to_the_same_question_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    with Session(path, Asked(), "ada") as session:
        session.choose(0)
    line = json.loads(path.read_text())
    line["rejected"][0]["content"] = "another"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match="q-0 with other answers"):
        Session(path, Asked(), "bo")


def test_a_simulated_labeller_chooses_the_same_however_often_it_is_stopped(tmp_path: Path) -> None:
    labeller, length = SimulatedLabeller(name="sim", temperature=1.0), hidden_reward("length")
    with Session(tmp_path / "whole.jsonl", Asked(40), "sim") as session:
        assert session.simulate(labeller, length) == 40
    for count in (11, 40):
        with Session(tmp_path / "part.jsonl", Asked(count), "sim") as session:
            session.simulate(labeller, length)
    assert (tmp_path / "whole.jsonl").read_bytes() == (tmp_path / "part.jsonl").read_bytes()
    kept = list(read_preferences(tmp_path / "whole.jsonl"))
    longer = [each for each in kept if each.meta["hidden_chosen"] == 3.0]
    assert 20 < len(longer) < 40  # σ(1) = 73 %
    assert all("more" in each.chosen[0].text for each in longer)


def questions(task: Any, count: int, seed: int = 0) -> Questions:
    torch.manual_seed(0)
    tokenizer = task.tokenizer
    voice = Plain(MemoryModel(len(tokenizer), make_memory("gru", 8, 8)))
    return Questions(task, voice, count, tokenizer=tokenizer, seed=seed, **FEW)


# Broken by chunks whose size depends on `count`, or by a seed that depends on what is left.
def test_questions_are_the_same_for_everyone() -> None:
    task = TwentyQuestions(max_turns=2)
    every = list(questions(task, 20).among(lambda name: True))
    assert [each.id for each in every] == [f"q-0-{k}" for k in range(20)]
    assert every[:5] == list(questions(task, 5).among(lambda name: True))
    assert [every[3], every[18]] == list(questions(task, 20).among(lambda name: name in ("q-0-3", "q-0-18")))
    assert every[:5] != list(questions(task, 5, seed=1).among(lambda name: True))
    for each in every:
        assert each.answers[0] != each.answers[1]
        assert [turn.speaker for turn in each.answers[0]][:2] == [AGENT, USER]
        assert sum(turn.reward or 0.0 for turn in each.answers[0]) == each.worth(hidden_reward("return"))[0]


def test_prompts_of_a_log_are_asked_with_all_that_was_said() -> None:
    task = Prompted([((False, "x"), (True, "a"), (False, "y"))], Tokenizer(list("abxy")))
    every = list(questions(task, 4).among(lambda name: True))
    said_before = [(turn.speaker, turn.text) for turn in every[0].prompt]
    assert said_before == [(USER, "x"), (AGENT, "a"), (USER, "y")]
    assert all(len(answer) == 1 for each in every for answer in each.answers)


def test_where_all_that_is_drawn_is_the_same_nothing_is_asked() -> None:
    known = questions(Prompted([((False, "a"),)], Tokenizer(["a"])), 3)
    known.sampling = Sampling(temperature=0.0)
    assert list(known.among(lambda name: True)) == []


# Broken by a mark on the other answer, or on a turn that the agent ended.
def test_answers_that_were_cut_off_are_marked(tmp_path: Path) -> None:
    asked = questions(Prompted([((False, "x"),)], Tokenizer(list("abxy"))), 12)
    every = {each.id: each for each in asked.among(lambda name: True)}
    for each in every.values():
        for answer, cut in zip(each.answers, each.cut, strict=True):
            assert cut == ((1,) if len(answer[0].text) == 3 else ())  # of 3 tokens at most, none is the end
    assert {bool(cut) for each in every.values() for cut in each.cut} == {True, False}
    with Session(tmp_path / "p.jsonl", asked, "ada") as session:
        while session.asked is not None:
            assert (session.asked.note(1) == "cut off here") == (len(session.asked.first[0].text) == 3)
            session.choose(0)
    for each in read_preferences(tmp_path / "p.jsonl"):
        for part, column in ((each.chosen, "cut_in_chosen"), (each.rejected, "cut_in_rejected")):
            assert cut_turns(each, column) == ({1} if len(part[0].text) == 3 else set())
        for thumb, answer in zip(thumbs_of([each]), (each.chosen, each.rejected), strict=True):
            assert (thumb.completion, bool(cut_turns(thumb, "cut"))) == (answer, len(answer[0].text) == 3)


# Broken by κ with chance ½, or by the first choice of two in the same question.
def test_agreement_by_hand() -> None:
    def chosen(name: str, labeller: str, better: str) -> Preference:
        other = "b" if better == "a" else "a"
        return Preference(id=name, prompt=(), chosen=said(better), rejected=said(other), labeller=labeller)

    ada = [chosen(f"q{k}", "ada", better) for k, better in enumerate("aaabbb")]
    bo = [chosen(f"q{k}", "bo", better) for k, better in enumerate("aaaaab")]
    again = chosen("q4", "bo", "b")
    (both,) = agreements([*ada, *bo[:5], again, bo[5], chosen("else", "cy", "a")])
    assert both[:3] == ("ada", "bo", 6)
    assert both.share == pytest.approx(5 / 6)
    chance = 0.5 * 4 / 6 + 0.5 * 2 / 6
    assert both.kappa == pytest.approx((5 / 6 - chance) / (1 - chance))
    (same,) = agreements([chosen("q", "ada", "a"), chosen("q", "bo", "a")])
    assert (same.share, same.kappa) == (1.0, None)
    with pytest.raises(UserError, match="other answers"):
        agreements([ada[0], Preference(id="q0", prompt=(), chosen=said("c"), rejected=said("a"), labeller="bo")])
