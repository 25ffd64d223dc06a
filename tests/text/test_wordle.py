"""Wordle's rules, and its exact optimum against the whole tree."""

import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from seqrl.errors import UserError
from seqrl.text import GreedyWordle, RandomConsistent, Wordle, WordleOptimum, converse
from seqrl.text.wordle import WordleState, feedback
from seqrl.text.wordle_optimum import _code, feedback_codes

# Rhymes and doubled letters, so that partitions are uneven and the best guess is often no candidate.
RHYMES = """
    batch catch hatch latch match patch watch baker maker taker water later hater eater otter utter geese these those
    there where level lever never fever sever eerie allee llama mamma daddy paddy puppy poppy happy sorry berry merry
"""
WORDS = RHYMES.split()
LISTS = Path(__file__).parents[2].parent / "shared/data/wordle"


@pytest.mark.parametrize(
    ("guess", "word", "colours"),
    [
        ("crane", "crane", "GGGGG"),
        ("crane", "light", "BBBBB"),
        # Broken by not counting letters (`elif said in word` for yellow): the second e would be yellow.
        ("geese", "those", "BBBGG"),
        ("eerie", "these", "YBBBG"),
        ("llama", "label", "GYYBB"),
        ("allee", "level", "BYYGY"),
        # Broken by colouring from left to right without greens first: the first p of "puppy" would be yellow.
        ("puppy", "happy", "BBGGG"),
        ("paddy", "daddy", "BGGGG"),
        ("level", "never", "BGGGB"),
        ("otter", "utter", "BGGGG"),
        ("sever", "eerie", "BGBYY"),
        ("mamma", "llama", "BYBGG"),
    ],
)
def test_duplicate_letters(guess, word, colours):
    assert feedback(guess, word) == colours


def test_codes_are_the_feedback():
    # Broken by `if j <= i` in feedback_codes: a letter would take itself away.
    codes = feedback_codes(tuple(WORDS), tuple(WORDS))
    assert codes.tolist() == [[_code(feedback(guess, word)) for word in WORDS] for guess in WORDS]


def test_alphabet_has_35_tokens():
    tokenizer = Wordle(["crane"]).tokenizer
    assert len(tokenizer) == 35
    assert len(tokenizer.encode("crane")) == len(tokenizer.encode("BYGBB")) == 5
    assert tokenizer.decode(tokenizer.encode("invalid")) == "invalid"


def test_rewards_and_ends():
    # Broken by `turns > self.max_turns`: a seventh guess; by a reward of −1 for the word.
    task, generator = Wordle(["crane", "slate"]), torch.Generator()
    state = WordleState(word="crane")
    won = task.reply(state, "crane", generator)
    assert (won.text, won.reward, won.ended) == ("GGGGG", 0.0, True)
    for guess, text in [
        ("slate", "BBGBG"),
        ("house", "unknown"),
        ("x", "invalid"),
        ("", "invalid"),
        ("CRANE", "invalid"),
    ]:
        turn = task.reply(state, guess, generator)
        assert (turn.text, turn.reward, turn.ended) == (text, -1.0, False)
        state = turn.state
    last = task.reply(state, "slate", generator)
    assert (last.reward, last.ended, last.state.turns) == (-1.0, True, 6)
    assert task.reply(state, "crane", generator).reward == 0.0  # states are values: the sixth guess once more
    with pytest.raises(UserError, match="has ended"):
        task.reply(last.state, "crane", generator)


def test_every_word_is_drawn():
    task, generator = Wordle(WORDS[:8]), torch.Generator().manual_seed(0)
    assert {task.start(generator)[0].word for _ in range(200)} == set(WORDS[:8])


def whole_tree(words: tuple[str, ...], allowed: tuple[str, ...], tries: int) -> int:
    """The least number of wrong guesses summed over `words`, over all policies."""

    @cache
    def cost(left: frozenset[str], tries: int) -> int:
        if tries == 0 or not left:
            return 0
        totals = []
        for guess in allowed:
            parts: dict[str, set[str]] = {}
            for word in left - {guess}:
                parts.setdefault(feedback(guess, word), set()).add(word)
            if guess in left or len(parts) > 1 or tries == 1:
                totals.append(sum(len(part) + cost(frozenset(part), tries - 1) for part in parts.values()))
        return min(totals)

    return cost(frozenset(words), tries)


def all_games(task: Wordle, speaker) -> list[float]:
    """The return for each word in turn."""
    returns = []
    for word in task.words:
        state, texts, total = WordleState(word=word), ("",), 0.0
        while not state.ended:
            utterance = speaker(texts)
            turn = task.reply(state, utterance, torch.Generator())
            state, texts, total = turn.state, (*texts, utterance, turn.text), total + turn.reward
        returns.append(total)
    return returns


@pytest.mark.parametrize("tries", [2, 3, 6])
@pytest.mark.parametrize("seed", range(6))
def test_optimum_equals_the_whole_tree(seed, tries):
    # Broken by a bound that is too high (`bounds -= 1` left out of `_bounds`): the best guess is given up unseen; by
    # leaving `total + pending >= limit` the cost of a guess that was given up.
    words = random.Random(seed).sample(WORDS, 11)
    task = Wordle(words, words + [word for word in WORDS if word not in words][:6] if seed % 2 else None)
    task.max_turns = tries
    optimum = WordleOptimum(task)
    expected = -whole_tree(task.words, task.allowed, tries) / len(words)
    assert optimum.expected_return == pytest.approx(expected)
    assert np.mean(all_games(task, optimum)) == pytest.approx(expected)  # its guesses attain what it promises


def test_order_of_speakers():
    # A guess that is not a candidate is worth it among words that rhyme; greedy ones and random ones fall behind.
    task = Wordle(WORDS)
    optimum, generator = WordleOptimum(task), torch.Generator().manual_seed(0)
    best = optimum.expected_return
    parts, entropy = (np.mean(all_games(task, GreedyWordle(task, by))) for by in ("parts", "entropy"))
    chance = np.mean([all_games(task, RandomConsistent(task, generator)) for _ in range(2)])
    assert best == pytest.approx(np.mean(all_games(task, optimum)))
    assert best >= max(parts, entropy)
    assert min(parts, entropy) > chance + 0.1


def test_optimum_answers_from_any_history():
    task = Wordle(WORDS)
    texts = ("", "happy", feedback("happy", "paddy"), "zzz", "invalid")
    speaker = WordleOptimum(task)
    guess = speaker(texts)
    assert guess in task.allowed
    # The last guess is a word that is left, even where a guess that is not would have told more.
    last = (*texts, *("zzz", "invalid") * 3)
    assert feedback("happy", speaker(last)) == texts[2]


def test_converse_gives_texts_in_order():
    task, generator = Wordle(WORDS), torch.Generator().manual_seed(1)
    dialogue = converse(task, WordleOptimum(task), generator)
    assert len(dialogue.utterances) == len(dialogue.replies) == len(dialogue.rewards)
    assert dialogue.replies[-1] == "GGGGG"
    assert sum(dialogue.rewards) == 1 - len(dialogue.rewards)


@pytest.mark.parametrize("name", ["wordle_official_200.txt", "wordle_official_400.txt"])
def test_lists_of_real_words(name):
    # Branch and bound gives the value; that it is attained is what can be checked here.
    if not LISTS.is_dir():
        pytest.skip("the word lists are not here: ../shared/data/wordle")
    task = Wordle((LISTS / name).read_text().split())
    optimum = WordleOptimum(task)
    assert optimum.expected_return == pytest.approx(np.mean(all_games(task, optimum)))


@pytest.mark.parametrize(
    ("words", "allowed", "message"),
    [
        ([], None, "at least one word"),
        ("crane", None, "a list"),
        (["crane", "cranes"], None, "'cranes' in words is not 5 letters"),
        (["cra\ne"], None, r"'cra\\ne' in words"),
        (["Crane"], None, "lower case"),
        (["crane", "crane"], None, "'crane' stands in words twice"),
        (["crane"], ["slate"], "'crane' may be the word but not be guessed"),
        (["crane"], ["crane", 5], "'5' in allowed"),
    ],
)
def test_bad_lists(words, allowed, message):
    with pytest.raises(UserError, match=message) as raised:
        Wordle(words, allowed)
    assert "\n" not in str(raised.value)


def test_colours_that_fit_no_word():
    with pytest.raises(UserError, match="no word of this task's list fits"):
        GreedyWordle(Wordle(WORDS))(("", "happy", "YYYYY"))
    with pytest.raises(UserError, match="'parts' or 'entropy'"):
        GreedyWordle(Wordle(WORDS), "luck")
