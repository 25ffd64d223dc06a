"""Texts to ids and back."""

import pytest
import torch

from seqrl.errors import UserError
from seqrl.text import TextMaze, Tokenizer, TwentyQuestions, Wordle
from seqrl.text.tokenizer import SPECIALS


def test_longest_piece_first_and_specials_before_all():
    # Broken by shorter pieces first (`reverse=False`): "abaab" would be a, b, a, a, b.
    tokenizer = Tokenizer(["a", "b", "ab"])
    assert tokenizer.encode("abaab") == [8, 6, 8]
    assert tokenizer.decode([8, 6, 8]) == "abaab"
    assert len(tokenizer) == 9
    # Ids that were drawn may cut a text elsewhere: the reason for which ids are kept.
    assert tokenizer.decode([6, 7]) == "ab"
    assert tokenizer.encode("ab") == [8]


def test_specials_never_come_from_text():
    # Broken by specials among what is looked for in a text: `self._ids |= {name: i for i, name in enumerate(SPECIALS)}`
    # and their lengths among `_lengths`.
    tokenizer = Tokenizer(list("<pad>beginof "))
    for special in ("<pad>", "<begin>"):
        ids = tokenizer.encode(special)
        assert len(ids) == len(special)
        assert min(ids) >= len(SPECIALS)
    assert tokenizer.decode([Tokenizer.pad_id, Tokenizer.end_of_dialogue_id]) == "<pad><end of dialogue>"


def test_special_ids_are_where_their_names_are():
    # Broken by two names of SPECIALS in each other's place: a reply would end the agent's turn.
    assert SPECIALS[Tokenizer.agent_id] == "<agent>"
    assert SPECIALS[Tokenizer.end_of_utterance_id] == "<end of utterance>"
    assert SPECIALS[Tokenizer.end_of_reply_id] == "<end of reply>"
    assert SPECIALS[Tokenizer.end_of_dialogue_id] == "<end of dialogue>"


def test_words_keep_every_character():
    texts = ["You are at row 5, column 12.", "Walls:  above\n\t<b>below</b>\x00."]
    tokenizer = Tokenizer.of_words(texts)
    for text in texts:
        assert tokenizer.decode(torch.tensor(tokenizer.encode(text))) == text
    assert len(tokenizer.encode(texts[0])) == 9  # You | are | at | row | 5 | , | column | 12 | .


@pytest.mark.parametrize(
    "tokenizer", [Tokenizer(byte_fallback=True), Tokenizer(["é", "ab", " the"], byte_fallback=True)]
)
def test_any_text_has_tokens_with_bytes(tokenizer):
    # Broken by decoding token by token: "木" is three bytes, none of which is a character.
    for text in ("", "over the aab", "naïve é 木 🙂", "<pad>\x00\n", "\u202e"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(len(SPECIALS) <= token < len(tokenizer) for token in ids)


def test_bytes_stand_between_specials_and_pieces():
    # Broken by `start=len(SPECIALS)` for pieces: "ab" would be the first byte.
    tokenizer = Tokenizer(["ab"], byte_fallback=True)
    assert len(tokenizer) == 6 + 256 + 1
    assert tokenizer.encode("abé") == [262, 6 + 0xC3, 6 + 0xA9]


def test_drawn_ids_that_are_no_text_are_replaced():
    # Broken by `errors="replace"` left out.
    tokenizer = Tokenizer(["ab"], byte_fallback=True)
    assert tokenizer.decode([6 + 0xC3, 262, 6 + 0xFF, 6 + 0x41]) == "\ufffdab\ufffdA"


def test_rare_words_are_spelled():
    tokenizer = Tokenizer.of_words(["two two", "two three"], byte_fallback=True, min_count=2)
    assert tokenizer.pieces == ("two",)
    assert tokenizer.decode(tokenizer.encode("two three")) == "two three"


@pytest.mark.parametrize("task", [Wordle(["crane"]), TextMaze(), TextMaze(partly_observed=True), TwentyQuestions()])
def test_tasks_have_small_vocabularies_that_go_round(task):
    size = {Wordle: 35, TextMaze: 50, TwentyQuestions: 120}[type(task)]
    assert len(task.tokenizer) <= size
    for piece in task.tokenizer.pieces:
        assert task.tokenizer.decode(task.tokenizer.encode(piece)) == piece


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Tokenizer([]), "needs pieces"),
        (lambda: Tokenizer(["a", ""]), "none of them empty"),
        (lambda: Tokenizer(["a", "b", "a"]), "'a' stands in the vocabulary twice"),
        (lambda: Tokenizer(["a"]).encode("aa\nb"), r"no token fits '\\nb' at character 2"),
        (lambda: Tokenizer(["a"]).encode(7), "not int"),
        (lambda: Tokenizer(byte_fallback=True).encode("a\ud800"), r"half of a surrogate pair .* at character 1"),
        (lambda: Tokenizer(["a"]).decode([7]), "no token 7: ids of this vocabulary are 0 … 6"),
        (lambda: Tokenizer(["a"]).decode([-1]), "no token -1"),
        (lambda: Tokenizer(["a"]).decode([6.0]), "whole number, not float"),
    ],
)
def test_errors_are_one_line(call, words):
    with pytest.raises(UserError, match=words) as raised:
        call()
    assert "\n" not in str(raised.value)
