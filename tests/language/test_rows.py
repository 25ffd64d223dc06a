"""Turns become tokens, masks and rewards."""

import pytest
import torch

from seqrl.data.dialogues import Dialogue, Turn
from seqrl.errors import UserError
from seqrl.language.rows import TokenTurn, batch_of, decisions, rows_of, token_turns
from seqrl.text import Tokenizer

TOKENIZER = Tokenizer(list("abc"))  # 6, 7, 8
PAD, BEGIN, AGENT, EOU, EOR, EOD = range(6)


def other(*ids: int) -> TokenTurn:
    return TokenTurn(agent=False, ids=ids)


def agent(*ids: int, reward: float = 0.0, ended: bool = True) -> TokenTurn:
    return TokenTurn(agent=True, ids=ids, reward=reward, ended=ended)


# Broken by `mine[:-1]` in `rows_of` (a mask by token, not by action), or <agent> added as the agent's own.
def test_rows_of_a_conversation() -> None:
    rows = rows_of([other(6, 7), agent(8, 6, reward=2.0), other(7), agent(6, reward=-1.0)], TOKENIZER)
    assert rows.tokens.tolist() == [BEGIN, 6, 7, EOR, AGENT, 8, 6, EOU, 7, EOR, AGENT, 6, EOU, EOD]
    #                         row's action:  6, 7, EOR, AGENT, 8, 6, EOU, 7, EOR, AGENT, 6, EOU, EOD
    assert rows.mask.long().tolist() == [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 0]
    assert rows.reward.tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, -1, 0]
    assert rows.turn.tolist() == [0, 0, 0, -1, 1, 1, 1, 2, 2, -1, 3, 3, -1]


# Broken by `add((tokenizer.end_of_utterance_id,), True, index)`: what the agent did not choose would be learnt.
def test_a_turn_that_was_cut_earns_on_its_last_own_token() -> None:
    rows = rows_of([agent(6, 7, reward=3.0, ended=False), other()], TOKENIZER)
    assert rows.tokens.tolist() == [BEGIN, AGENT, 6, 7, EOU, EOR, EOD]
    assert rows.mask.long().tolist() == [0, 1, 1, 0, 0, 0]
    assert rows.reward.tolist() == [0, 0, 3, 0, 0, 0]


# Broken by a reward that is put on the last row whose action is the agent's in the whole conversation.
def test_two_turns_of_the_agent_in_a_row_and_an_empty_one() -> None:
    rows = rows_of([agent(6, reward=1.0), agent(reward=2.0), other(7)], TOKENIZER)
    assert rows.tokens.tolist() == [BEGIN, AGENT, 6, EOU, AGENT, EOU, 7, EOR, EOD]
    assert rows.mask.long().tolist() == [0, 1, 1, 0, 1, 0, 0, 0]
    assert rows.reward.tolist() == [0, 0, 1, 0, 2, 0, 0, 0]
    assert decisions(rows.mask[:, None]).row[:, 0].tolist() == [1, 2, 4]


# Broken by an argsort that is not stable, or `valid` left out: row 0 would be learnt from.
def test_decisions_are_the_agents_rows_in_their_order() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(200, 5, generator=generator) < torch.tensor([0.5, 0.0, 1.0, 0.1, 0.9])
    chosen = decisions(mask)
    value = torch.arange(200.0)[:, None, None] + torch.zeros(200, 5, 2)
    for b in range(5):
        rows = mask[:, b].nonzero()[:, 0]
        assert chosen.row[chosen.valid[:, b], b].tolist() == rows.tolist()
        assert chosen.of(value)[chosen.valid[:, b], b, 1].tolist() == rows.tolist()
    assert decisions(torch.zeros(4, 2, dtype=torch.bool)).valid.shape == (1, 2)


def test_a_batch_is_as_long_as_its_longest_and_padding_earns_nothing() -> None:
    short, long = rows_of([agent(6, reward=1.0)], TOKENIZER), rows_of([other(7, 7, 7), agent(6)], TOKENIZER)
    batch = batch_of([short, long])
    assert batch.tokens.shape == (len(long.tokens), 2)
    assert batch.mask.shape == batch.reward.shape == (len(long.mask), 2)
    assert batch.tokens[:, 0].tolist() == [*short.tokens.tolist(), *[PAD] * 4]
    assert batch.mask.sum(0).tolist() == [2, 2]
    assert batch.reward.sum(0).tolist() == [1, 0]


def test_turns_of_a_log() -> None:
    turns = (
        Turn(speaker="you", text="ab"),
        Turn(speaker="me", text="c", reward=1.5),
        Turn(speaker="them", text=""),
    )
    dialogue = Dialogue(id="d1", agent="me", turns=turns)
    assert token_turns(dialogue, TOKENIZER) == [other(6, 7), agent(8, reward=1.5), other()]
    stray = Dialogue(id="d1", agent="me", turns=(Turn(speaker="you", text="a", reward=1.0),))
    with pytest.raises(UserError, match=r"dialogue d1: turns\[0\] has a reward, but it is not the agent's"):
        token_turns(stray, TOKENIZER)
    unknown = Dialogue(id="d1", agent="me", turns=(Turn(speaker="me", text="axb"),))
    with pytest.raises(UserError, match=r"dialogue d1: turns\[0\]: no token fits 'xb' at character 1"):
        token_turns(unknown, TOKENIZER)


# Broken by `ended` left out of `token_turns`; by `ids` left out of it, where a turn without tokens would end nowhere.
def test_a_logged_turn_that_was_cut_has_no_end_of_its_own() -> None:
    turns = [Turn(speaker="a", text=text, cut=True) for text in ("ab", "")] + [Turn(speaker="o", text="a", cut=True)]
    found = token_turns(Dialogue(id="d", agent="a", turns=(*turns, Turn(speaker="a", text="c"))), TOKENIZER)
    assert [turn.ended for turn in found] == [False, True, True, True]
    assert rows_of(found[:1], TOKENIZER).mask.long().tolist() == [0, 1, 1, 0, 0]
