"""A conversation: what is chosen, what is removed, what is taken back, and what of it is kept."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seqrl.data.dialogues import read_dialogues
from seqrl.errors import UserError
from seqrl.language.agent import LanguageAgent
from seqrl.language.candidates import conversation_ids
from seqrl.language.model import MemoryModel
from seqrl.language.rows import rows_of
from seqrl.language.steering import SteeredAgent, TokenValues
from seqrl.language.utterance_steering import UtteranceAgent
from seqrl.memory.make import make_memory
from seqrl.people.chat import AGENT, PERSON, ROUNDS, TASK, Chat, Transcript, WordFilter
from seqrl.text import Tokenizer, TwentyQuestions

PIECES = ["a", "b", "ab", " ", "c"]


def agent_of(tokenizer: Tokenizer, *, values: bool = False, seed: int = 0) -> LanguageAgent:
    torch.manual_seed(seed)

    def model() -> MemoryModel:
        return MemoryModel(len(tokenizer), make_memory("gru", 8, 8))

    if not values:
        return LanguageAgent(tokenizer, model())
    made = TokenValues(model())
    for head in (*made.target_q, made.v):
        torch.nn.init.normal_(head[-1].weight)  # else all is worth about the same
    return SteeredAgent(tokenizer, model(), made, beta=0.0)


def chat_of(values: bool = False, **options: object) -> Chat:
    options = {"num_candidates": 8, "max_tokens": 5} | options
    return Chat(agent_of(Tokenizer(PIECES), values=values), **options)  # type: ignore[arg-type]


def test_the_highest_q_is_said() -> None:
    # Must break: `_rank` without its minus.
    talk = chat_of(values=True)
    talk.hear("abc")
    said = talk.answer()
    worth = [option.candidate.q for option in said.options]
    assert said.chosen is said.options[0]
    assert worth == sorted(worth, reverse=True)
    assert worth[0] > worth[-1]
    assert said.text == said.options[0].candidate.text
    assert said.why == "highest Q"


def test_the_first_drawn_or_the_most_probable_is_said() -> None:
    drawn = [chat_of(choose="drawn", num_candidates=k) for k in (1, 8)]
    for talk in drawn:
        talk.hear("abc")
    alone, first = (talk.answer() for talk in drawn)
    assert alone.why == first.why == "drawn first"
    likeliest = chat_of(choose="likeliest")
    likeliest.hear("abc")
    said = likeliest.answer()
    assert said.chosen is not None
    assert said.chosen.candidate.log_prob == max(option.candidate.log_prob for option in said.options)


def test_a_run_without_values_cannot_choose_by_them() -> None:
    with pytest.raises(UserError, match="no values"):
        chat_of(choose="q")


# Broken by V behind the turn, Q before its last token, or an agent without `appraise`, which would speak as its clone.
def test_values_of_whole_utterances_choose() -> None:
    tokenizer = Tokenizer(PIECES)
    steered = agent_of(tokenizer, values=True)
    assert isinstance(steered, SteeredAgent)
    torch.manual_seed(1)
    values = TokenValues(steered.values.model, 1)
    for head in (*values.target_q, values.v):
        torch.nn.init.normal_(head[-1].weight)
    agent = UtteranceAgent(tokenizer, steered.policy, values, beta=1.0, num_proposals=4)
    talk = Chat(agent, num_candidates=8, max_tokens=5)
    assert talk.choose == "q"
    talk.hear("abc")
    heard = conversation_ids([said.turn for said in talk.said], tokenizer)
    said = talk.answer()
    assert said.why == "highest Q"
    assert said.chosen is not None
    assert said.chosen.candidate.q == max(option.candidate.q or 0.0 for option in said.options)
    for option in said.options:
        read = [*heard, *option.candidate.ids, *[tokenizer.end_of_utterance_id] * option.candidate.ended]
        y = values.model(torch.tensor(read)[:, None])[:, 0]
        found = option.candidate.v, option.candidate.q
        expected = values.value(y[len(heard) - 1]).item(), float(values.least(y[-1])[0])
        assert found == pytest.approx(expected, abs=1e-5)


def test_equal_texts_are_one_option() -> None:
    talk = chat_of(num_candidates=64, max_tokens=1)
    said = talk.answer()
    texts = [(option.candidate.text, option.candidate.ended) for option in said.options]
    assert len(set(texts)) == len(texts) <= 6
    assert sum(option.times for option in said.options) == 64


def test_what_is_removed_is_not_said_and_stands_last_with_its_reason() -> None:
    # Must break: sorting without `bool(option.removed)`.
    def no_c(text: str) -> str:
        return "has c" if "c" in text else ""

    talk = chat_of(values=True, forbid=no_c, num_candidates=32)
    for _ in range(3):
        said = talk.answer()
        removed = [option for option in said.options if option.removed]
        assert removed
        assert removed == list(said.options[-len(removed) :])
        assert "c" not in said.text
        assert all(option.removed == "has c" and "c" in option.candidate.text for option in removed)
        assert said.why == "highest Q of those that are left"


def test_where_all_is_removed_nothing_is_said() -> None:
    talk = chat_of(forbid=lambda text: "no", num_candidates=3)
    said = talk.answer()
    assert said.chosen is None
    assert said.text == ""
    assert sum(option.times for option in said.options) == 3 * ROUNDS
    assert "removed every candidate" in said.why
    talk.hear("a")  # and the conversation goes on
    talk.answer()


def test_what_was_drawn_is_never_encoded_again() -> None:
    # Must break: encoding a candidate's text for its turn ("a" then "b" would become "ab").
    talk = chat_of(num_candidates=1)
    found = False
    for _ in range(40):
        said = talk.answer()
        assert said.chosen is not None
        assert said.turn.ids == said.chosen.candidate.ids
        found |= tuple(talk.tokenizer.encode(said.text)) != said.turn.ids
    assert found
    tokens = rows_of([said.turn for said in talk.said], talk.tokenizer).tokens.tolist()
    assert [token for said in talk.said for token in said.turn.ids] == [token for token in tokens if token > 5]


def test_what_has_no_tokens_is_one_line_and_the_conversation_goes_on() -> None:
    talk = chat_of()
    for text, words in {"xyz": "cannot read that", "  ": "nothing was said", "a" * 5000: "5000 characters"}.items():
        with pytest.raises(UserError, match=words) as error:
            talk.hear(text)
        assert "\n" not in str(error.value)
    assert talk.said == []
    talk.hear("ab")
    assert [said.speaker for said in (talk.said[0], talk.answer())] == [PERSON, AGENT]


def test_undo_takes_back_what_the_person_said_last_and_what_followed() -> None:
    talk = chat_of()
    with pytest.raises(UserError, match="nothing of yours"):
        talk.undo()
    for text in ("a", "b"):
        talk.hear(text)
        talk.answer()
    assert talk.undo() == "b"
    assert [said.speaker for said in talk.said] == [PERSON, AGENT]
    assert talk.undo() == "a"
    assert talk.said == []


def test_a_seed_repeats_a_conversation() -> None:
    def texts(seed: int) -> list[str]:
        talk = chat_of(seed=seed)
        return [talk.answer().text for _ in range(6)]

    assert texts(1) == texts(1) != texts(2)


def test_a_task_speaks_in_the_persons_place_until_its_end() -> None:
    task = TwentyQuestions(max_turns=4)
    talk = Chat(agent_of(task.tokenizer), task=task, num_candidates=2, seed=3)
    while not talk.over:
        talk.answer()
    with pytest.raises(UserError, match="over"):
        talk.answer()
    generator = torch.Generator().manual_seed(3)
    state, opening = task.start(generator)
    expected = [(TASK, opening, None)]
    for said in talk.said[1::2]:
        turn = task.reply(state, said.text, generator)
        state = turn.state
        expected += [(AGENT, said.text, turn.reward), (TASK, turn.text, None)]
    assert [(said.speaker, said.text, said.reward) for said in talk.said] == expected


UNSEEN = "\x00\x08\x1b\x1c\x7f\x9b\u034f\u115f\u1160\u17b4\u180b\u2065\u2800\u3164\ufe0f\uffa0\ufff0\U000e0100"
"""Characters that are no formatting and are not seen either."""


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("you are a FOOL.", "fool"),
        ("straße", "strasse"),
        ("a secret\u00a0 price, no", "secret  price"),
        ("f\u200bool", "fool"),  # with a character that has no width
        ("\uff46ool", "fool"),  # a wide f
        *((f"fo{each}ol", "fool") for each in UNSEEN),
        ("a cafe\u034f\u0301", "café"),  # what cannot be seen keeps an accent apart from its letter
        ("secret\x0bprice", r"secret\x0bprice"),
        ("foolish", ""),
        ("fo ol", ""),
        ("secret of price", ""),
        ("", ""),
    ],
)
def test_forbidden_words_are_whole_words_however_they_are_written(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\ufefffool\n\nstrasse\nsecret price\ncafé\n", encoding="utf-8")
    assert WordFilter(path)(text) == (f"has '{word}', which is forbidden" if word else "")


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.write_text("\n \n"), lambda p: p.write_bytes(b"\xff")])
def test_a_list_of_words_that_is_none(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "words")
    with pytest.raises(UserError, match="--forbid"):
        WordFilter(tmp_path / "words")


# Must break: `cut` left out of `dialogue`.
def test_a_transcript_says_what_was_cut_off() -> None:
    talk = chat_of(max_tokens=1)
    for _ in range(8):
        talk.hear("ab")
        talk.answer()
    mine = [each for each in talk.said if each.speaker == AGENT]
    cut = [turn.cut for turn in talk.dialogue({}).turns if turn.speaker == AGENT]
    assert cut == [None if said.turn.ended else True for said in mine]
    assert True in cut
    assert all(turn.cut is None for turn in talk.dialogue({}).turns if turn.speaker == PERSON)


def test_a_transcript_holds_all_that_was_said_after_each_turn(tmp_path: Path) -> None:
    path, talk = tmp_path / "chat.jsonl", chat_of()
    transcript = Transcript(path, {"run": "r"})
    transcript.save(talk)
    assert not path.exists()
    for count in range(1, 4):
        talk.hear("ab")
        talk.answer()
        transcript.save(talk)
        (dialogue,) = read_dialogues(path)
        assert dialogue == talk.dialogue({"run": "r"})
        assert [turn.speaker for turn in dialogue.turns] == [PERSON, AGENT] * count
    for _ in range(3):
        talk.undo()
    transcript.save(talk)
    assert list(tmp_path.iterdir()) == []


def test_a_transcript_never_writes_over_a_file(tmp_path: Path) -> None:
    path, talk = tmp_path / "chat.jsonl", chat_of()
    transcript = Transcript(path, {})
    path.write_text("mine")
    talk.hear("a")
    with pytest.raises(UserError, match="exists already"):
        transcript.save(talk)
    assert path.read_text() == "mine"
    with pytest.raises(UserError, match="exists already"):
        Transcript(path, {})
    with pytest.raises(UserError, match="no folder"):
        Transcript(tmp_path / "none" / "chat.jsonl", {})


def test_a_watched_conversation_is_saved_with_what_the_task_tells() -> None:
    class Telling(TwentyQuestions):
        def outcome(self, state: object) -> dict[str, bool]:
            return {"agreement": False}

        def facts(self, state: object) -> dict[str, str]:
            return {"thing": state.thing}  # type: ignore[attr-defined]

    task = Telling(max_turns=2)
    talk = Chat(agent_of(task.tokenizer), task=task, num_candidates=1)
    talk.answer()
    assert talk.dialogue({}).outcome == {}  # nothing is known before the end
    talk.answer()
    dialogue = talk.dialogue({"run": "r"})
    assert dialogue.outcome == {"agreement": False}
    assert dialogue.meta == {"thing": talk.state.thing, "run": "r"}
