"""Tokenizers as JSON and back."""

import json
from pathlib import Path

import pytest

from seqrl.errors import UserError
from seqrl.language.tokenizers import byte_tokenizer, tokenizer_of
from seqrl.text import Tokenizer

CASINO = Path(__file__).parents[3] / "shared" / "data" / "casino" / "casino_train.json"


# Broken by `byte_fallback` left out of `tokenizer_of`, or "kind" the same for both.
@pytest.mark.parametrize(
    "tokenizer", [Tokenizer(["a", "ab", "é"]), byte_tokenizer(), Tokenizer.of_words(["a b"], byte_fallback=True)]
)
def test_json_and_back(tokenizer: Tokenizer) -> None:
    again = tokenizer_of(json.loads(json.dumps(tokenizer.to_json())), "vocabulary.json")
    assert (again.pieces, again.byte_fallback, len(again)) == (
        tokenizer.pieces,
        tokenizer.byte_fallback,
        len(tokenizer),
    )
    assert again.encode("aab") == tokenizer.encode("aab")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "vocabulary.json is damaged .*names no kind"),
        ({"pieces": ["a"]}, "names no kind"),
        ({"kind": "word", "pieces": ["a"]}, "unknown kind 'word': did you mean 'words'"),
        ({"kind": "words"}, "no list of pieces"),
        ({"kind": "words", "pieces": [1]}, "no list of pieces"),
        ({"kind": "words", "pieces": ["a", "a"]}, "is damaged .*stands in the vocabulary twice"),
    ],
)
def test_damaged_vocabularies(content: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        tokenizer_of(content, "vocabulary.json")


@pytest.mark.skipif(not CASINO.exists(), reason="the CaSiNo negotiations are not in shared/data")
def test_negotiations_of_people_have_tokens() -> None:
    logs = json.loads(CASINO.read_text())
    texts = [turn["text"] for log in logs for turn in log["chat_logs"]]
    tokenizer = Tokenizer.of_words(texts[:2000], byte_fallback=True, min_count=3)
    assert len(tokenizer) < 2000
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text
