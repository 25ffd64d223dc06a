"""Windows of logged dialogues: whole turns, what bootstraps them, returns, and every turn as often as others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from seqrl.data.dialogues import Dialogue, Turn
from seqrl.errors import UserError
from seqrl.language.logged import DialogueDataset
from seqrl.text import Tokenizer

TOKENIZER = Tokenizer(list("abcxy"))  # 6 … 10
PAD, BEGIN, AGENT, EOU, EOR, EOD = range(6)


def dialogue(*turns: str, rewards: tuple[float, ...] = (), opening: str = "x") -> Dialogue:
    """The opening, then utterance and reply in turns."""
    said = [Turn(speaker="o", text=opening)] if opening else []
    for k, text in enumerate(turns):
        mine = k % 2 == 0
        said.append(Turn(speaker="a" if mine else "o", text=text, reward=rewards[k // 2] if mine and rewards else None))
    return Dialogue(id="d", agent="a", turns=tuple(said))


def dataset(*dialogues: Dialogue, gamma: float = 1.0) -> DialogueDataset:
    return DialogueDataset.of(dialogues, TOKENIZER, gamma)


# Broken by `next_decision` without + 1 (no row bootstraps), by `learnt = mask` (the bootstrap row would be learnt from,
# with the wrong successor), or by `tokens[0]` left as it is (a window would begin with <end of utterance>).
def test_a_window_in_the_middle_is_whole_turns_and_the_next_decision():
    log = dataset(dialogue("ab", "y", "c", "y", "a", "x", rewards=(1.0, 2.0, 4.0)))
    window = log._gather(np.array([0]), np.array([1]), np.array([2]))
    assert window.tokens[:, 0].tolist() == [BEGIN, 10, EOR, AGENT, 8, EOU, 10, EOR, AGENT, 6]
    assert window.mask[:, 0].long().tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 1]
    assert window.learnt[:, 0].long().tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0]
    assert window.reward[:, 0].tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 0]


def test_a_window_at_the_end_has_the_end_and_shorter_ones_are_filled_up():
    log = dataset(dialogue("ab", "y", "c", "y", rewards=(1.0, 2.0)), dialogue("c", opening="", rewards=(3.0,)))
    window = log._gather(np.array([0, 1]), np.array([1, 0]), np.array([2, 1]))
    assert window.tokens.T.tolist() == [
        [BEGIN, 10, EOR, AGENT, 8, EOU, 10, EOR, EOD],
        [BEGIN, AGENT, 8, EOU, EOD, PAD, PAD, PAD, PAD],
    ]
    assert torch.equal(window.mask, window.learnt)
    assert window.mask.T.long().tolist() == [[0, 0, 0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0]]
    assert window.reward.sum(0).tolist() == [2.0, 3.0]


# Broken by windows of turns that count from the dialogue's beginning alone, or by a bootstrap row that is left out.
@pytest.mark.parametrize("num_turns", [0, 1, 2])
def test_the_longest_windows_are_the_longest_that_are_drawn(num_turns):
    log = dataset(dialogue("a", "y", "abcabc", "yyy", "b", "x"), dialogue("c", opening=""), dialogue("ab", "y", "c"))
    assert log.names == ["d"] * 3
    for number, longest in enumerate(log.longest_windows(num_turns)):
        windows = log._subset(np.array([number])).windows(100, num_turns, torch.Generator().manual_seed(0))
        assert len(windows.mask) == longest


# Broken by discounting rows in place of decisions, or by returns that end with the window.
def test_returns_to_go_discount_the_agents_tokens_and_reach_beyond_the_window():
    log = dataset(dialogue("ab", "yxyx", "c", "y", rewards=(1.0, 2.0)), gamma=0.5)
    window = log._gather(np.array([0]), np.array([0]), np.array([1]))
    assert window.return_to_go[window.learnt].tolist() == [0.25 + 2 / 16, 0.5 + 2 / 8, 1 + 2 / 4]
    assert log.returns.tolist() == [3.0]


# Broken by `torch.randint(int(before[-1]) - 1, …)`, by turns found by mask alone (of two in a row one would be lost).
@pytest.mark.parametrize("num_turns", [1, 2, 3, 7])
def test_every_decision_is_learnt_from_as_often_as_others(num_turns, monkeypatch):
    twice = Dialogue(id="t", agent="a", turns=(Turn(speaker="a", text="a", reward=1.0), Turn(speaker="a", text="bc")))
    log = dataset(dialogue("ab", "y", "c", "y", "a", "x"), dialogue("c", opening=""), twice)
    assert log.num_turns.tolist() == [3, 1, 2]
    places = 6 + 3 * (num_turns - 1)
    monkeypatch.setattr(torch, "randint", lambda high, size, generator: torch.arange(high))
    window = log.windows(places, num_turns, torch.Generator())
    assert window.tokens.shape[1] == places
    assert int(window.learnt.sum()) == num_turns * int(log.mask.sum())


def test_whole_dialogues():
    log = dataset(dialogue("ab", "y", "c", "y"), dialogue("c", opening=""))
    window = log.windows(8, 0, torch.Generator().manual_seed(0))
    assert {int(n) for n in window.learnt.sum(0)} == {5, 2}
    assert torch.equal(window.mask, window.learnt)


def test_the_best_and_the_held_out():
    log = dataset(*(dialogue("a", "x", rewards=(float(k),)) for k in (3, 1, 2, 3, 0)))
    assert log.best(0.4).returns.tolist() == [3.0, 3.0]
    assert log.best(0.01).returns.tolist() == [3.0]
    learnt, held_out = log.split(0.4, seed=1)
    assert sorted([*learnt.returns, *held_out.returns]) == [0, 1, 2, 3, 3]
    assert held_out.num_dialogues == 2
    assert log.split(0.4, seed=1)[1].returns.tolist() == held_out.returns.tolist()


# Broken by `keys` left out, in `of` or in `_subset`: the agent's words in a prompt would be learnt and held out.
@pytest.mark.parametrize("key", ["dialogue", "pair"])
def test_dialogues_that_belong_together_are_held_out_together(key):
    silent = Dialogue(id="s", agent="a", turns=(Turn(speaker="o", text="x"),))
    logs = [replace(dialogue("a" * (1 + k)), meta={key: str(k % 10)}) for k in range(20)]
    log = dataset(silent, *logs)
    for share, held_out in ((0.3, 6), (0.04, 2), (0.99, 18)):
        parts = log.split(share, seed=1)
        assert [part.num_dialogues for part in parts] == [20 - held_out, held_out]
        assert not {*parts[0].keys} & {*parts[1].keys}
    first, second = log.split(0.3, seed=1)[0].split(0.5, seed=2)
    assert not {*first.keys} & {*second.keys}


# Broken by groups of any size: half of the log would be held out.
def test_what_many_dialogues_have_in_common_does_not_bind_them():
    log = dataset(*(replace(dialogue("a"), meta={"dialogue": ("phone", "letter")[k % 2]}) for k in range(20)))
    assert [part.num_dialogues for part in log.split(0.1, seed=1)] == [18, 2]


def test_dialogues_that_all_belong_together_are_shared_out_all_the_same():
    log = dataset(*(replace(dialogue("a" * (1 + k)), meta={"dialogue": "1"}) for k in range(5)))
    assert [part.num_dialogues for part in log.split(0.4, seed=1)] == [3, 2]


def test_what_cannot_be_learnt_from():
    silent = Dialogue(id="s", agent="a", turns=(Turn(speaker="o", text="x"),))
    assert dataset(silent, dialogue("a")).num_dialogues == 1
    with pytest.raises(UserError, match="never speaks"):
        dataset(silent)
    with pytest.raises(UserError, match="no token fits 'q'"):
        dataset(dialogue("q"))


# Broken by a window that begins a row behind the last decision: with the end that nobody said, in place of the reply.
def test_a_window_behind_a_turn_that_was_cut_begins_as_any_other():
    whole = dialogue("ab", "y", "c", "y", "a", "x")
    turns = tuple(replace(turn, cut=True) if turn.text == "ab" else turn for turn in whole.turns)
    plain, cut = dataset(whole), dataset(replace(whole, turns=turns))
    for begin in (1, 2):
        one, other = (log._gather(np.array([0]), np.array([begin]), np.array([3])) for log in (plain, cut))
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert int(plain.mask.sum()) - int(cut.mask.sum()) == 1
