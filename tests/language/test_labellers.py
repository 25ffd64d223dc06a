"""Simulated labellers: how often they choose what, and what could be foretold of it."""

import math

import pytest

from seqrl.data.dialogues import Dialogue, Turn
from seqrl.errors import UserError
from seqrl.language.labellers import SimulatedLabeller, bayes_rate, hidden_reward


# Broken by σ without the temperature, or by flips that are half as many.
def test_probabilities_by_hand() -> None:
    labeller = SimulatedLabeller(temperature=2.0, flips=0.1)
    p = 1 / (1 + math.exp(-1.5))
    assert labeller.probability(5.0, 2.0) == pytest.approx(0.9 * p + 0.1 * (1 - p))
    assert labeller.probability(2.0, 5.0) == pytest.approx(1 - labeller.probability(5.0, 2.0))
    assert labeller.probability(1e6, 0.0) == pytest.approx(0.9)
    sure = SimulatedLabeller(temperature=0.0)
    assert [sure.probability(*pair) for pair in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))] == [1.0, 0.0, 0.5]


# Broken by a draw that does not depend on the question, the name or the seed.
def test_choices_are_as_frequent_as_their_probability_and_come_again() -> None:
    labeller = SimulatedLabeller(name="ada", temperature=1.0, flips=0.05)
    names = [f"question {k}" for k in range(4000)]
    choices = [labeller.prefers_first(name, 1.0, 0.0) for name in names]
    p = labeller.probability(1.0, 0.0)
    assert sum(choices) / len(choices) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / len(choices)))
    assert choices == [labeller.prefers_first(name, 1.0, 0.0) for name in names]
    for other in (SimulatedLabeller(name="bo", flips=0.05), SimulatedLabeller(name="ada", flips=0.05, seed=1)):
        theirs = [other.prefers_first(name, 1.0, 0.0) for name in names]
        agree = sum(one == two for one, two in zip(choices, theirs, strict=True)) / len(names)
        assert agree == pytest.approx(p * p + (1 - p) * (1 - p), abs=0.04)


def test_the_bayes_rate_is_what_the_best_guess_gets() -> None:
    assert bayes_rate([0.9, 0.2, 0.5]) == pytest.approx((0.9 + 0.8 + 0.5) / 3)


def test_hidden_rewards_by_name() -> None:
    turns = (Turn(speaker="assistant", text="a b c", reward=2.0), Turn(speaker="user", text="no"))
    dialogue = Dialogue(id="d", agent="assistant", turns=turns, outcome={"points": 7})
    assert {name: hidden_reward(name)(dialogue) for name in ("points", "return", "length")} == {
        "points": [7.0], "return": [2.0], "length": [3.0],
    }  # fmt: skip
    with pytest.raises(UserError, match=r"did you mean 'points'\?"):
        hidden_reward("point")


@pytest.mark.parametrize("options", [{"temperature": -1.0}, {"temperature": math.inf}, {"flips": 0.6}])
def test_what_no_labeller_can_be(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="must be"):
        SimulatedLabeller(**options)
