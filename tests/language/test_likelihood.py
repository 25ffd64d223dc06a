"""Probabilities of what was said: those of the voice that speaks, at the agent's tokens and nowhere else."""

import dataclasses
import math

import pytest
import torch
from guessing import Guess, Sharper, random_voice
from torch.distributions import Categorical
from torch.distributions import kl_divergence as reference_kl

from seqrl.language.generation import sayable
from seqrl.language.likelihood import decided, kl_divergence, log_probs, of_tokens
from seqrl.language.logging import logged_play, with_propensities
from seqrl.language.play import Played, play
from seqrl.language.rows import TokenTurn, rows_of
from seqrl.text import Dialogue, Tokenizer

TASK = Guess()
TOKENIZER = TASK.tokenizer
VOICE = random_voice(TOKENIZER)


@pytest.fixture(scope="module")
def rows():
    return [rows_of(each.turns, TOKENIZER) for each in play(TASK, VOICE, 9, seed=3)]


def test_log_probs_are_the_models_own(rows):
    """Against one pass over each whole conversation alone. Breaks if `place` is not less 1, logits are taken a row late
    (`batch.mask[t - 1]`), or `allowed` is left out."""
    found, said, allowed = log_probs(VOICE, rows, sayable(TOKENIZER)), decided(rows), sayable(TOKENIZER)
    for b, each in enumerate(rows):
        y = VOICE.model(each.tokens[:-1, None])[each.mask, 0]
        expected = VOICE.model.logits(y).masked_fill(~allowed, -torch.inf).log_softmax(-1)
        n = len(expected)
        torch.testing.assert_close(found[:n, b], expected)
        assert (found[n:, b] == 0).all()
        assert said.valid[:, b].sum() == n
        torch.testing.assert_close(said.token[:n, b], each.tokens[1:][each.mask])


def test_batches_have_no_say(rows):
    """Breaks if parts are joined without being as long as the longest."""
    torch.testing.assert_close(
        log_probs(VOICE, rows, sayable(TOKENIZER), batch_size=2), log_probs(VOICE, rows, sayable(TOKENIZER))
    )


def test_sums_over_turns():
    """Two turns on end, one of the other, and one that was cut, whose end is no choice.

    Breaks if turns are told apart by the other's speaking, or `ends_turn` is not taken off its own count.
    """
    turns = [
        TokenTurn(agent=True, ids=(6, 7), reward=1.0),
        TokenTurn(agent=True, ids=(), reward=2.0),
        TokenTurn(agent=False, ids=(8,)),
        TokenTurn(agent=True, ids=(7,), reward=3.0, ended=False),
    ]
    said = decided([rows_of(turns, TOKENIZER), rows_of(turns[:1], TOKENIZER)])
    assert said.turn.T.tolist() == [[0, 0, 0, 1, 2], [0, 0, 0, -1, -1]]
    assert said.ends_turn.T.tolist() == [[False, False, True, True, True], [False, False, True, False, False]]
    assert said.num_turns.tolist() == [3, 1]
    assert said.by_turn(said.reward).T.tolist() == [[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]]
    assert said.by_turn(torch.ones_like(said.reward)).T.tolist() == [[3.0, 1.0, 1.0], [3.0, 0.0, 0.0]]


def test_sayable_is_what_play_draws():
    """Breaks if a special but <end of utterance> may be said, or a piece may not."""
    voice = Sharper(VOICE, factor=0.0)  # all tokens as likely
    drawn = {token for each in play(TASK, voice, 60) for turn in each.turns if turn.agent for token in turn.ids}
    assert drawn | {TOKENIZER.end_of_utterance_id} == set(sayable(TOKENIZER).nonzero()[:, 0].tolist())


def test_kl_divergence():
    """Against torch's; 0 exactly for the same policy; tokens that are never said have no part. Breaks if it is KL(q‖p),
    or without `torch.where`."""
    p, q = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    torch.testing.assert_close(kl_divergence(p, q), reference_kl(Categorical(logits=p), Categorical(logits=q)))
    assert (kl_divergence(p, p) == 0).all()
    never = torch.tensor([0.0, -torch.inf])
    assert kl_divergence(never, never) == 0
    assert kl_divergence(never, torch.tensor([0.5, 0.5]).log()) == pytest.approx(math.log(2))


def test_logs_have_the_probability_of_each_utterance(rows):
    """Breaks if a turn gets another's: `k` not counted up, or counted for the other's turns too."""
    by_turn = decided(rows).by_turn(of_tokens(log_probs(VOICE, rows, sayable(TOKENIZER)), decided(rows)))
    dialogues = list(logged_play(TASK, VOICE, 9, seed=3))
    for b, dialogue in enumerate(dialogues):
        found = [turn.propensity for turn in dialogue.turns if turn.speaker == "agent"]
        assert found == pytest.approx(by_turn[: len(found), b].exp().tolist())
        assert all(turn.propensity is None for turn in dialogue.turns if turn.speaker != "agent")
    assert len({dialogue.id for dialogue in [*dialogues, *logged_play(TASK, VOICE, 9, seed=4)]}) == 18


def test_no_propensity_where_the_text_does_not_say_what_was_drawn():
    """ "aa" is read as one token; drawn as two, the text had another probability. So has one that was cut off.

    Breaks if `clear` leaves out either.
    """
    tokenizer = Tokenizer(["a", "aa", "b"])
    voice = random_voice_of(tokenizer)
    a, aa = tokenizer.encode("a")[0], tokenizer.encode("aa")[0]
    turns = (
        TokenTurn(agent=True, ids=(a, a)),
        TokenTurn(agent=True, ids=(aa,)),
        TokenTurn(agent=True, ids=(a,), ended=False),
    )
    conversation = Dialogue(texts=("", "aa", "", "aa", "", "a", ""), rewards=(0.0, 0.0, 0.0))
    played = [dataclasses.replace(Played(dialogue=conversation, turns=turns))]
    [dialogue] = with_propensities(played, voice, tokenizer)
    known = [turn.propensity is not None for turn in dialogue.turns if turn.speaker == "agent"]
    assert known == [False, True, False]
    # Breaks if a log does not say which turns were cut off, or says it of others.
    assert [turn.cut for turn in dialogue.turns if turn.speaker == "agent"] == [None, None, True]


def random_voice_of(tokenizer):
    return random_voice(tokenizer, unlikely="")
