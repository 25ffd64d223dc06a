"""Fitted values: exact where the truth is known, and never of dialogues that they were learnt from."""

import itertools

import pytest
import torch
from torch import Tensor

from seqrl.language.likelihood import Decided, decided
from seqrl.language.rows import TokenRows, TokenTurn, rows_of
from seqrl.off_policy import FittedConfig, cross_fitted
from seqrl.text import Tokenizer

TOKENIZER = Tokenizer(["a", "b"])
A, B = TOKENIZER.encode("ab")
END = TOKENIZER.end_of_utterance_id
GAMMA = 0.9


def reward(first: int, second: int | None) -> float:
    """Of a turn: the first pays ½ for "b"; the second 1 if it is the same letter, 2 if that is "b"."""
    if second is None:
        return 0.5 * (first == B)
    return (1.0 + (first == B)) * (first == second)


def logs(number: int) -> tuple[list[TokenRows], Decided, Tensor]:
    """Two turns of a letter each, all four as likely, and π: "b" with 0.7 at first, then the same letter with 0.9."""
    rows, columns = [], []
    for first, second in itertools.islice(itertools.cycle(itertools.product((A, B), repeat=2)), number):
        turns = [
            TokenTurn(agent=True, ids=(first,), reward=reward(first, None)),
            TokenTurn(agent=True, ids=(second,), reward=reward(first, second)),
        ]
        rows.append(rows_of(turns, TOKENIZER))
        pi = torch.zeros(4, len(TOKENIZER))
        pi[0, A], pi[0, B] = 0.3, 0.7
        pi[2, A], pi[2, B] = (0.9, 0.1) if first == A else (0.1, 0.9)
        pi[1, END] = pi[3, END] = 1.0
        columns.append(pi.log())
    return rows, decided(rows), torch.stack(columns, 1)


def test_values_are_the_policys():
    """Golden, by hand: V after "a" 0.9 · 1, after "b" 0.9 · 2; with γ = 0.9 between turns,
    V = 0.3 · 0.9 · 0.9 + 0.7 · (0.5 + 0.9 · 1.8) = 1.727; the logging policy's is 0.25 + 0.9 · 0.75 = 0.925.

    Breaks if γ is 1 or counts tokens, or if v is the mean over logged tokens.
    """
    rows, said, log_prob = logs(64)
    config = FittedConfig(num_iterations=8, updates_per_iteration=12, hidden_size=16, batch_size=32)
    q, v = cross_fitted(rows, said, log_prob, GAMMA, config)
    torch.testing.assert_close(v[0], torch.full((64,), 1.727), atol=0.08, rtol=0)
    for b, (first, second) in enumerate(itertools.product((A, B), repeat=2)):
        after = 0.9 * (1.0 + (first == B))
        assert float(v[2, b]) == pytest.approx(after, abs=0.1)
        assert float(q[0, b]) == pytest.approx(reward(first, None) + GAMMA * after, abs=0.1)
        assert float(q[3, b]) == pytest.approx(reward(first, second), abs=0.1)


def test_values_of_a_dialogue_do_not_come_from_it():
    """Another reward in one dialogue changes values of the other fold alone. Breaks if `inside` is learnt from."""
    rows, said, log_prob = logs(12)
    config = FittedConfig(num_iterations=2, updates_per_iteration=4, hidden_size=8, batch_size=16)
    before, _ = cross_fitted(rows, said, log_prob, 1.0, config)
    changed = said._replace(reward=said.reward.clone())
    changed.reward[3, 5] += 10.0
    after, _ = cross_fitted(rows, changed, log_prob, 1.0, config)
    same = (before == after).all(0)
    assert same[5]
    assert 0 < int(same.sum()) < 12


def test_values_of_a_dialogue_do_not_come_from_its_group():
    """Another reward in one changes none of its group. Breaks if folds are of single dialogues."""
    rows, said, log_prob = logs(12)
    config = FittedConfig(num_iterations=2, updates_per_iteration=4, hidden_size=8, batch_size=16)
    groups = torch.arange(12) // 4
    before, _ = cross_fitted(rows, said, log_prob, 1.0, config, groups=groups)
    changed = said._replace(reward=said.reward.clone())
    changed.reward[3, 5] += 10.0
    after, _ = cross_fitted(rows, changed, log_prob, 1.0, config, groups=groups)
    same = (before == after).all(0)
    assert same[4:8].all()
    assert 0 < int(same.sum()) < 12


def test_a_single_dialogue_has_nothing_to_learn_from():
    q, v = cross_fitted(*logs(1), 1.0, FittedConfig(num_iterations=1, updates_per_iteration=1))
    assert (q == 0).all()
    assert (v == 0).all()


def test_it_repeats_and_leaves_the_global_generator_alone():
    """Breaks without `fork_rng`, or if draws are not seeded."""
    rows, said, log_prob = logs(8)
    config = FittedConfig(num_iterations=1, updates_per_iteration=2, hidden_size=8, seed=3)
    state = torch.random.get_rng_state()
    one, other = cross_fitted(rows, said, log_prob, 1.0, config), cross_fitted(rows, said, log_prob, 1.0, config)
    assert torch.equal(one[0], other[0])
    assert torch.equal(state, torch.random.get_rng_state())
