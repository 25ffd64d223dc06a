"""What the advice says of episodes that are longer than what a run can learn from."""

import re
from dataclasses import replace

import pytest
from test_advice import result, row

from seqrl.algorithms import impala, ppo, r2d2
from seqrl.comparison.advice import advice
from seqrl.comparison.approaches import Approach
from seqrl.comparison.reach import Reach
from seqrl.comparison.report import Horizon, Tried
from seqrl.config import RunConfig

LINEAR, GRU = Approach("ppo", "linear"), Approach("ppo", "gru")


def test_gradients_that_end_long_before_an_episode_does() -> None:
    # Breaks where `_two_digits` rounds down: a rollout of 300 has not all of 302.
    assert Reach.of(LINEAR, ppo.Config(), 302).advice_on_gradients("linear") == (
        "Gradients of linear reach 64 steps back, its episodes last 302: compare with --rollout-length 310."
    )
    assert Reach.of(LINEAR, ppo.Config(), 256).advice_on_gradients("linear") == ""  # 64 suffice for 100, as measured
    assert Reach.of(LINEAR, ppo.Config(rollout_length=310), 302).advice_on_gradients("linear") == ""
    for memory in ("none", "frame_stack", "gru"):  # breaks where a GRU is said to need what it does not
        assert Reach.of(Approach("ppo", memory), ppo.Config(), 9_999).advice_on_gradients(memory) == ""


def test_a_discount_that_makes_little_of_the_end() -> None:
    # Breaks where γ's horizon is not 1 / (1 − γ).
    assert Reach.of(GRU, ppo.Config(), 500).advice_on_discount() == (
        "γ 0.99 looks 100 steps ahead, episodes last 500: compare with --gamma 0.998."
    )
    assert Reach.of(GRU, ppo.Config(gamma=0.998), 500).advice_on_discount() == ""
    assert Reach.of(GRU, ppo.Config(gamma=1.0), 500).advice_on_discount() == ""


@pytest.mark.parametrize("steps", [1, 9, 64, 99, 302, 1_001, 54_321])
def test_what_is_advised_is_enough(steps: int) -> None:
    given = Reach.of(LINEAR, ppo.Config(), steps)
    rollout = given.advice_on_gradients("x").rstrip(".").partition("--rollout-length ")[2]
    gamma = given.advice_on_discount().rstrip(".").partition("--gamma ")[2]
    config = ppo.Config(rollout_length=int(rollout or 64), gamma=float(gamma or 0.99))
    assert not rollout or int(rollout) >= steps
    then = Reach.of(LINEAR, config, steps)
    assert (then.advice_on_gradients("x"), then.advice_on_discount()) == ("", "")


@pytest.mark.parametrize(
    ("approach", "config", "flag"),
    [
        # Breaks where what is learnt from at once is taken from the rollout: R2D2's gradients flow over `length`.
        (Approach("r2d2", "lstm"), r2d2.Config(), "reach 40 steps back, .*--override r2d2.length=310."),
        (LINEAR, ppo.Config(bptt_length=32), "reach 32 steps back, .* --bptt-length 310."),
        (Approach("impala", "linear"), impala.Config(), "reach 32 steps back, .*--override impala.rollout_length=310."),
    ],
)
def test_of_each_algorithm(approach: Approach, config: RunConfig, flag: str) -> None:
    said = Reach.of(approach, config, 302).advice_on_gradients(str(approach))
    assert re.search(flag, said)


def test_where_a_comparison_says_it() -> None:
    """Breaks where it is said of what did learn, or of the discount where nothing was lost."""
    far = Reach.of(LINEAR, ppo.Config(), 302)
    compared = replace(result(row("none", 0.5, 0.5), row("linear", 0.5, 0.5, reach=far)), threshold=0.9)
    assert "Gradients of linear reach 64 steps back" in advice(compared)
    assert "γ" not in advice(compared)
    assert "Gradients" not in advice(replace(compared, rows=[row("linear", 1.0, 1.0, reach=far)]))
    assert "Gradients" not in advice(replace(compared, rows=[row("linear", 0.5, 0.5)]))

    kept = row("gru", 1.0, 1.0, final_means=[0.5, 1.0], reached=[True] * 2, earlier_kept=[True] * 2, reach=far)
    lost = advice(replace(compared, rows=[kept]))
    assert "earlier agents are kept there. γ 0.99 looks 100 steps ahead, episodes last 302: compare with" in lost
    assert "Gradients" not in lost


def test_what_ended_a_sweep() -> None:
    """Breaks where it is told of an approach that bridged all of it."""
    ends = {"ppo:gru": [tried(5, True, GRU), tried(300, True, GRU)]}
    ends["ppo:linear"] = [tried(5, True, LINEAR), tried(300, False, LINEAR)]
    good = replace(result(row("none", 0.5, 0.5), row("linear", 1.0, 1.0)), threshold=0.9)
    said = advice(replace(good, horizon=Horizon(key="length", values=[5, 300], tried=ends)))
    assert "Gradients of linear reach 64 steps back, its episodes last 302" in said
    # Breaks where an approach that fails in both is told of twice, under two names.
    other = row("gru", 1.0, 1.0, approach="r2d2:gru")
    worse = replace(good, rows=[other, row("linear", 0.5, 0.5, reach=Reach.of(LINEAR, ppo.Config(), 400))])
    both = advice(replace(worse, horizon=Horizon(key="length", values=[5, 300], tried=ends)))
    assert both.count("Gradients of") == both.count("Gradients of ppo:linear reach 64 steps back") == 1
    ends["ppo:linear"] = [tried(5, True, LINEAR), tried(300, True, LINEAR)]
    assert "Gradients" not in advice(replace(good, horizon=Horizon(key="length", values=[5, 300], tried=ends)))


def tried(value: float, solved: bool, approach: Approach) -> Tried:
    reach = Reach.of(approach, ppo.Config(), value + 2)
    return Tried(value=value, needed=0.9, seed_means=[1.0], solved=solved, reach=reach)
