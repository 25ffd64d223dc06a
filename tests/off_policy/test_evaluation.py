"""Logged dialogues to estimates: weights of utterances, intervals that cover, figures of overlap, bad logs."""

import dataclasses
import math

import pytest
import torch
from guessing import Guess, Sharper, random_voice
from torch import Tensor

import seqrl.off_policy.evaluation as module
from seqrl.data.dialogues import Dialogue, Turn
from seqrl.errors import UserError
from seqrl.language.logging import logged_play, with_propensities
from seqrl.language.play import play
from seqrl.off_policy import FittedConfig, Turns, estimate, evaluate_logged
from seqrl.off_policy.evaluation import FITTED, PER_DECISION, ROBUST, WIS

TASK = Guess()
LOGGED = random_voice(TASK.tokenizer)
OTHER = Sharper(LOGGED, factor=1.0, liking=0.4)
QUICK = FittedConfig(num_iterations=2, updates_per_iteration=2, hidden_size=8, batch_size=8)


@pytest.fixture(scope="module")
def dialogues() -> list[Dialogue]:
    return list(logged_play(TASK, LOGGED, 40, seed=1))


def without(dialogue: Dialogue, **changes: object) -> Dialogue:
    return dataclasses.replace(dialogue, turns=tuple(dataclasses.replace(turn, **changes) for turn in dialogue.turns))


def returns(dialogues: list[Dialogue]) -> Tensor:
    return torch.tensor([sum(turn.reward or 0 for turn in each.turns) for each in dialogues], dtype=torch.float64)


def test_the_policy_that_was_logged_has_the_logged_mean(dialogues):
    """Breaks if π and μ are not over the same tokens, or rewards are lost on the way to turns."""
    found = evaluate_logged(dialogues, TASK.tokenizer, LOGGED, LOGGED, num_resamples=100)
    mean = float(returns(dialogues).mean())
    assert found.logged.value == pytest.approx(mean)
    for interval in found.estimates.values():
        assert interval == pytest.approx(found.logged, abs=1e-4)
    assert found.gain.value == pytest.approx(0, abs=1e-4)
    assert found.effective_size == pytest.approx(40, rel=1e-4)
    assert found.mean_weight.value == pytest.approx(1, rel=1e-4)
    assert found.num_propensities == found.num_turns == sum(len(each.turns) for each in dialogues) // 2
    assert found.num_unrewarded == 0


def test_weights_by_hand(dialogues):
    """The weighted mean with weights from one pass over each conversation. Breaks if the propensity is taken for its
    logarithm, or a weight is of the first turn alone."""
    found = evaluate_logged(dialogues, TASK.tokenizer, OTHER, LOGGED, num_resamples=100)
    log_weight = torch.zeros(40, dtype=torch.float64)
    played = play(TASK, LOGGED, 40, seed=1)
    for b, (each, dialogue) in enumerate(zip(played, dialogues, strict=True)):
        read = [TASK.tokenizer.begin_id]
        logged = [turn for turn in dialogue.turns if turn.speaker == "agent"]
        for turn in each.turns:
            if not turn.agent:
                read += [*turn.ids, TASK.tokenizer.end_of_reply_id]
                continue
            read.append(TASK.tokenizer.agent_id)
            for token in (*turn.ids, TASK.tokenizer.end_of_utterance_id):
                logits = LOGGED.model.logits(LOGGED.model(torch.tensor(read)[:, None]))[-1, 0].detach()
                logits[6] += 0.4
                logits[[0, 1, 2, 4, 5]] = -torch.inf
                log_weight[b] += float(logits.log_softmax(-1)[token])
                read.append(token)
            log_weight[b] -= math.log(logged.pop(0).propensity)
    weight = log_weight.exp()
    expected = float((weight * returns(dialogues)).sum() / weight.sum())
    assert found.estimates[WIS].value == pytest.approx(expected, rel=1e-4)
    assert found.effective_size == pytest.approx(float(weight.sum() ** 2 / weight.square().sum()), rel=1e-4)
    assert found.greatest_share == pytest.approx(float(weight.max() / weight.sum()), rel=1e-4)
    assert found.mean_weight.value == pytest.approx(float(weight.mean()), rel=1e-4)


def test_what_was_not_logged_is_estimated_turn_by_turn(dialogues):
    """By a model that is the logging policy, the same figures; and it is counted. Breaks if what is missing is
    taken for a probability of 1, or `behaviour` is not asked."""
    known = evaluate_logged(dialogues, TASK.tokenizer, OTHER, LOGGED, num_resamples=100)
    half = [without(each, propensity=None) if k % 2 else each for k, each in enumerate(dialogues)]
    mixed = evaluate_logged(half, TASK.tokenizer, OTHER, LOGGED, num_resamples=100)
    assert mixed.estimates[PER_DECISION] == pytest.approx(known.estimates[PER_DECISION], rel=1e-3)
    assert mixed.num_propensities == sum(turn.propensity is not None for each in half for turn in each.turns)
    wrong = evaluate_logged(half, TASK.tokenizer, OTHER, OTHER, num_resamples=100)
    assert wrong.estimates[WIS].value != pytest.approx(known.estimates[WIS].value, rel=1e-3)


def test_with_fitted_values_the_doubly_robust_estimate_comes_first(dialogues):
    found = evaluate_logged(dialogues, TASK.tokenizer, OTHER, LOGGED, fitted=QUICK, num_resamples=100)
    assert list(found.estimates) == [ROBUST, PER_DECISION, WIS, FITTED]
    assert math.isnan(found.estimates[FITTED].low)
    again = evaluate_logged(dialogues, TASK.tokenizer, OTHER, LOGGED, fitted=QUICK, num_resamples=100)
    assert again.estimates[ROBUST] == found.estimates[ROBUST]


def bandit(generator: torch.Generator, B: int = 150) -> Turns:
    """Two turns of two actions: μ = (½, ½), π = (0.2, 0.8), the second pays 1; a first that pays may end it."""
    action = torch.randint(2, (2, B), generator=generator)
    ratio = torch.tensor([0.4, 1.6], dtype=torch.float64).log()[action]
    mask = torch.ones(2, B, dtype=torch.bool)
    mask[1] = (action[0] == 0) | (torch.rand(B, generator=generator) < 0.5)
    return Turns(ratio, action.double() * mask, mask)


def test_intervals_cover_the_truth():
    """Truth: 0.8 + (0.2 + 0.8 · ½) · 0.8 = 1.28. Of 150 logs, 95 % intervals are to hold it in 135 at least, and the
    bias is to be small. Breaks if resamples are not of dialogues, or the quantiles are others."""
    generator = torch.Generator().manual_seed(0)
    held = dict.fromkeys((PER_DECISION, WIS), 0)
    means = dict.fromkeys(held, 0.0)
    for k in range(150):
        found = estimate(bandit(generator), None, num_resamples=200, seed=k)
        for name in held:
            interval = found.estimates[name]
            held[name] += interval.low <= 1.28 <= interval.high
            means[name] += interval.value / 150
    assert min(held.values()) >= 135
    assert max(held.values()) < 150  # intervals that always hold it are too wide
    for mean in means.values():
        assert mean == pytest.approx(1.28, abs=0.03)


def test_intervals_are_percentiles_of_the_resamples():
    """Golden: of 0 … 400, 2.5 % lie below 10 and above 390; the first value, of the log itself, is not among them."""
    values = torch.cat([torch.tensor([7.0]), torch.arange(401.0)[torch.randperm(401)]])
    assert module._interval(values) == pytest.approx((7.0, 10.0, 390.0))


def test_the_gain_is_paired():
    """On policy it is 0 in every resample. Breaks if the log is resampled anew."""
    turns = bandit(torch.Generator().manual_seed(1))
    found = estimate(turns._replace(log_ratio=torch.zeros_like(turns.log_ratio)), None, num_resamples=100)
    assert found.gain == pytest.approx((0, 0, 0), abs=1e-12)
    assert found.logged.low < found.logged.value < found.logged.high


def test_dialogues_that_belong_together_are_resampled_together():
    """Two of each say no more than one. Breaks if every dialogue is drawn alone: intervals would be 0.7 × as wide."""
    turns = bandit(torch.Generator().manual_seed(1))
    twice = Turns(*(leaf.repeat_interleave(2, 1) for leaf in turns))
    groups = torch.arange(twice.mask.shape[1]) // 2
    once, found = estimate(turns, None, num_resamples=100), estimate(twice, None, num_resamples=100, groups=groups)
    assert found.logged == pytest.approx(once.logged)
    assert found.gain == pytest.approx(once.gain)
    assert found.mean_weight == pytest.approx(once.mean_weight)
    for name, interval in found.estimates.items():
        assert interval == pytest.approx(once.estimates[name])
    alike = estimate(twice, None, num_resamples=100, groups=torch.zeros_like(groups))
    assert alike == estimate(twice, None, num_resamples=100)  # of one group alone nothing could be resampled


def test_what_belongs_together_is_told_by_the_log(dialogues):
    """Breaks if `groups` are not handed on, to resamples or to folds: values of a copy would be the other's."""

    def evaluated(log: list[Dialogue]) -> module.Evaluation:
        return evaluate_logged(log, TASK.tokenizer, OTHER, LOGGED, fitted=QUICK, num_resamples=100)

    copies = [dataclasses.replace(each, meta={"dialogue": f"{k}"}) for k, each in enumerate(dialogues) for _ in "ab"]
    alone = [dataclasses.replace(each, meta={}) for each in copies]
    bound, free = evaluated(copies), evaluated(alone)
    assert bound.logged.high - bound.logged.low > 1.2 * (free.logged.high - free.logged.low)
    assert bound.estimates[FITTED].value != free.estimates[FITTED].value


def test_resamples_of_groups_of_different_sizes_are_means():
    """Breaks if sums are divided by the log's number of dialogues: equal returns would seem to vary."""
    mask = torch.ones(1, 7, dtype=torch.bool)
    turns = Turns(torch.zeros(1, 7, dtype=torch.float64), torch.ones(1, 7, dtype=torch.float64), mask)
    found = estimate(turns, None, num_resamples=100, groups=torch.tensor([0, 1, 1, 1, 1, 2, 3]))
    for interval in (found.logged, found.mean_weight, *found.estimates.values()):
        assert interval == pytest.approx((1, 1, 1))


def test_no_weight_at_all():
    """A policy that would have said nothing of what was logged. Breaks without `nan_to_num`."""
    turns = bandit(torch.Generator().manual_seed(1))
    found = estimate(turns._replace(log_ratio=torch.full_like(turns.log_ratio, -torch.inf)), None, num_resamples=100)
    assert found.effective_size == found.greatest_share == found.mean_weight.value == 0


def dialogue(*turns: Turn) -> Dialogue:
    return Dialogue(id="x\x1b[2J", agent="agent", turns=turns)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (dialogue(Turn(speaker="task", text="h")), r"never speaks in dialogue x\\x1b"),
        (dialogue(Turn(speaker="agent", text="a", propensity=0.0)), r"turns\[0\] has the propensity 0:"),
        (dialogue(Turn(speaker="agent", text="a", propensity=1.5)), "propensity 1.5"),
        (dialogue(Turn(speaker="agent", text="hello")), "no token fits"),
    ],
)
def test_bad_logs_are_refused(bad, words):
    with pytest.raises(UserError, match=words):
        evaluate_logged([bad], TASK.tokenizer, LOGGED, LOGGED)


def test_a_log_that_does_not_fit_is_refused(dialogues, monkeypatch):
    monkeypatch.setattr(module, "MAX_NUMBERS", 10)
    with pytest.raises(UserError, match="evaluate fewer dialogues"):
        evaluate_logged(dialogues, TASK.tokenizer, LOGGED, LOGGED)


class Choosing(Sharper):
    """A voice that chooses utterances by other numbers than its logits."""

    def speak(self, *args: object, **kwargs: object) -> None:
        raise AssertionError("not asked to speak")


def test_who_chooses_whole_utterances_has_no_known_probabilities(dialogues):
    """Breaks if weights are taken from logits that nobody draws from; so do logs with propensities of them."""
    voices = (Choosing(LOGGED), LOGGED)
    for pair in (voices, voices[::-1]):
        with pytest.raises(UserError, match="Choosing chooses among whole utterances"):
            evaluate_logged(dialogues, TASK.tokenizer, *pair)
    played = play(TASK, LOGGED, 3)
    logged = with_propensities(played, Choosing(LOGGED), TASK.tokenizer)
    assert all(turn.propensity is None for each in logged for turn in each.turns)
