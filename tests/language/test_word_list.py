"""Words that must not be said: found in texts, filtered from candidates, and masked token by token."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrl.errors import UserError
from seqrl.language.generation import generate
from seqrl.language.play import play
from seqrl.language.word_list import Filtered, WordList
from seqrl.text import Negotiation, Tokenizer

MADE_UP = WordList(["blorp", "flim flam", "zog*", "Größe", "b"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("You BLORP!", ["blorp"]),
        ("blorping ablorp blorp_s", []),
        ("(blorp)", ["blorp"]),
        ("flim\n\t flam, flimflam", ["flim\n\t flam"]),
        ("zogging the unzog zog", ["zog", "zog"]),
        ("GRÖSSE größe", ["grösse", "grösse"]),
        ("a b c", ["b"]),
        ("b l o r p", ["b"]),
        ("", []),
    ],
)
def test_whole_words_are_found(text, found):
    assert MADE_UP.found(text) == found
    assert MADE_UP.flags(text) == bool(found)


def test_candidates_are_filtered():
    assert MADE_UP.unflagged(["fine", "a blorp", "fine too", "zoggy"]) == [0, 2]
    assert MADE_UP.unflagged(["blorp"]) == []


def test_files(tmp_path):
    path = tmp_path / "words"
    path.write_text("\ufeffblorp\n\n  flim   flam \r\nblorp\n")
    assert WordList.of_file(path).words == ("blorp", "flim flam")
    for content, message in [(b"\n \n", "has no words"), (b"\xff", "no text in UTF-8"), (b"...\n", "is no word")]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            WordList.of_file(path)
    with pytest.raises(UserError, match="cannot read the words"):
        WordList.of_file(tmp_path / "none")
    with pytest.raises(UserError, match="is empty"):
        WordList([])


PIECES = [
    "blorp",
    "b",
    "bl",
    "orp",
    " ",
    "flim",
    "fl",
    "am",
    " flam",
    "flam",
    "\n",
    "zo",
    "g",
    "x",
    ".",
    "größ",
    "E",
    "ss",
    "ing",
    "_",
]


@given(st.lists(st.sampled_from(PIECES), max_size=8), st.sampled_from(PIECES))
@settings(max_examples=300)
def test_a_tail_decides_as_the_whole_does(said, piece):
    # Broken by a tail of the shortest beginning (`reversed(range(…))`): "flim " is lost in "flim fl", by one that does
    # not look at the character before, or by "a" for any letter where a word begins with a.
    text = "".join(said)
    if not MADE_UP.flags(text):
        assert MADE_UP.flags(MADE_UP.tail(text) + piece) == MADE_UP.flags(text + piece)


class Eager:
    """A voice that always wants to say the same: each token by a fixed preference, whatever was read."""

    def __init__(self, preference: torch.Tensor) -> None:
        self.preference = preference

    def start(self, batch_size: int) -> int:
        return 0

    def read(self, tokens, count, context):
        return self.preference.expand(tokens.shape[1], -1).clone(), context + 1


@pytest.mark.parametrize("byte_fallback", [False, True])
def test_no_utterance_has_a_listed_word(byte_fallback):
    # Random speech of pieces that make up listed words often; broken by masking words that stand alone as tokens only.
    tokenizer = Tokenizer(PIECES, byte_fallback=byte_fallback)
    preference = torch.zeros(len(tokenizer))
    preference[6:262] -= 5 * byte_fallback  # bytes are rare, but "ö" is made of two of them
    preference[tokenizer.end_of_utterance_id] = -4.0
    preference[tokenizer.encode("blorp \n")] = 2.0
    if byte_fallback:
        preference[[6 + byte for byte in "gröe".encode()]] = 1.0
    plain = Eager(preference)
    filtered = Filtered(plain, tokenizer, MADE_UP)
    allowed = torch.ones(len(tokenizer), dtype=torch.bool)
    allowed[:6] = False
    allowed[tokenizer.end_of_utterance_id] = True
    flagged = {}
    for name, voice in [("plain", plain), ("filtered", filtered)]:
        generator = torch.Generator().manual_seed(0)
        context = voice.start(100)
        prompt = torch.tensor(
            [tokenizer.begin_id, *tokenizer.encode("blorp"), tokenizer.end_of_reply_id, tokenizer.agent_id]
        )
        count = torch.full((100,), len(prompt))
        logits, context = voice.read(prompt[:, None].expand(-1, 100), count, context)
        said, _ = generate(
            voice, logits, context, stop_id=tokenizer.end_of_utterance_id, max_tokens=8,
            speaks=torch.ones(100, dtype=torch.bool), allowed=allowed, generator=generator,
        )  # fmt: skip
        texts = [
            tokenizer.decode([token for token in ids[:length] if token >= 6])
            for ids, length in zip(said.ids.T.tolist(), said.length.tolist(), strict=True)
        ]
        flagged[name] = sum(map(MADE_UP.flags, texts))
        assert said.log_prob[: int(said.length.min())].isfinite().all()
    assert flagged["plain"] > 20
    assert flagged["filtered"] == 0


def test_what_is_not_listed_is_as_likely_as_before():
    tokenizer = Tokenizer(["ab", "blorp", "c"])
    voice = Filtered(Eager(torch.arange(9.0)), tokenizer, WordList(["blorp"]))
    context = voice.start(3)
    # Column 0 begins an utterance, 1 is in one ("c"), 2 hears the other: nothing is kept from the other's words.
    tokens = torch.tensor([[1, 1, 1], [2, 2, 7], [0, 8, 0]])
    logits, context = voice.read(tokens, torch.tensor([2, 3, 2]), context)
    expected = torch.arange(9.0).expand(3, -1).clone()
    expected[0, 7] = -torch.inf
    assert torch.equal(logits, expected)
    # "ab" and "blorp" in two readings make "abblorp", which is not listed; behind the end nothing is held back.
    logits, context = voice.read(torch.tensor([[6, 3, 0]]), torch.tensor([1, 1, 0]), context)
    assert torch.equal(logits, torch.arange(9.0).expand(3, -1))
    assert context[1] == [[6], None, None]


def test_a_byte_may_complete_a_word():
    # Broken by looking at what a token is alone: the second byte of "ö" is no text.
    tokenizer = Tokenizer(["z"], byte_fallback=True)
    first, second = tokenizer.encode("ö")
    voice = Filtered(Eager(torch.zeros(len(tokenizer))), tokenizer, WordList(["zö"]))
    said = torch.tensor([[tokenizer.agent_id], [262], [first]])
    logits, context = voice.read(said, torch.tensor([3]), voice.start(1))
    assert logits.isinf().nonzero()[:, 1].tolist() == [tokenizer.encode("Ö")[1], second]
    logits, _ = voice.read(torch.tensor([[second - 1]]), torch.tensor([1]), context)
    assert not logits.isinf().any()


def test_a_voice_that_chooses_whole_utterances_is_refused():
    # Broken by wrapping it all the same: it would speak token by token, without its choosing.
    voice = Eager(torch.zeros(9))
    voice.speak = lambda *args, **kwargs: None
    with pytest.raises(UserError, match="Eager chooses whole utterances"):
        Filtered(voice, Tokenizer(["ab", "c", "d"]), WordList(["blorp"]))


def test_it_plays():
    task = Negotiation("fair", max_turns=2)
    tokenizer = task.tokenizer
    words = WordList(["fool", "silly"])
    preference = torch.full((len(tokenizer),), -20.0)
    for token in [*tokenizer.encode("You are a fool"), *tokenizer.encode(" silly"), tokenizer.end_of_utterance_id]:
        preference[token] = 0.0
    for voice, flagged in [(Eager(preference), True), (Filtered(Eager(preference), tokenizer, words), False)]:
        played = play(task, voice, 20, max_tokens=10)
        assert any(words.flags(text) for each in played for text in each.dialogue.utterances) == flagged
