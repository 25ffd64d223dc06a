"""Texts to ids and back."""

import pytest
import torch

from seqrl.errors import UserError
from seqrl.text import TextMaze, Tokenizer, TwentyQuestions, Wordle
from seqrl.text.tokenizer import SPECIALS


def test_longest_piece_first_and_specials_before_all():
    # Broken by taking pieces in the order given (`longest_first = pieces`): "aba" would be a, b, a.
    tokenizer = Tokenizer(["a", "b", "ab"])
    assert tokenizer.encode("abaab") == [8, 6, 8]
    assert tokenizer.decode([8, 6, 8]) == "abaab"
    assert len(tokenizer) == 9
    # Ids that were drawn may cut a text elsewhere: the reason for which ids are kept.
    assert tokenizer.decode([6, 7]) == "ab"
    assert tokenizer.encode("ab") == [8]


def test_specials_never_come_from_text():
    # Broken by specials among what is looked for in a text: `sorted([*SPECIALS, *pieces], …)`.
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
        (lambda: Tokenizer(["a"]).decode([7]), "no token 7: ids of this vocabulary are 0 … 6"),
        (lambda: Tokenizer(["a"]).decode([-1]), "no token -1"),
        (lambda: Tokenizer(["a"]).decode([6.0]), "whole number, not float"),
    ],
)
def test_errors_are_one_line(call, words):
    with pytest.raises(UserError, match=words) as raised:
        call()
    assert "\n" not in str(raised.value)
