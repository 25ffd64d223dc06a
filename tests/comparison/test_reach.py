"""What the advice says of episodes that are longer than what a run can learn from."""

from dataclasses import replace

import pytest
from test_online import result, row

from seqrl.algorithms import impala, ppo, r2d2
from seqrl.comparison.advice import advice
from seqrl.comparison.approaches import Approach
from seqrl.comparison.reach import Reach
from seqrl.comparison.report import Horizon, Tried

GRU = Approach("ppo", "gru")


def test_all_that_is_shorter_than_an_episode() -> None:
    # Breaks where γ's horizon is not 1 / (1 − γ), or `_two_digits` rounds down: a rollout of 300 has not all of 302.
    assert Reach.of(GRU, ppo.Config(), 302).advice() == (
        "Episodes last 302 steps, while gradients reach 64 back, units keep what they read for 64 and γ 0.99 looks "
        "100 ahead: where what matters lies further apart, compare with --rollout-length 310 --memory-horizon 310 "
        "--gamma 0.997."
    )
    assert Reach.of(GRU, ppo.Config(), 302).advice_on_discount() == (
        "Episodes last 302 steps, while γ 0.99 looks 100 ahead: compare with --gamma 0.997."
    )


def test_what_the_advice_asks_for_is_enough() -> None:
    # Breaks where a bound that equals what is advised counts as too short still.
    for steps in (1, 9, 64, 99, 302, 1_001, 54_321):
        given = Reach.of(GRU, ppo.Config(), steps)
        words = given.advice().rstrip(".").split("compare with ")[-1].split()
        flags = dict(zip(words[::2], words[1::2], strict=True))
        back, kept = int(flags.get("--rollout-length", 64)), int(flags.get("--memory-horizon", 64))
        config = ppo.Config(rollout_length=back, memory_horizon=kept, gamma=float(flags.get("--gamma", 0.99)))
        assert min(back, kept) >= steps or not words
        assert Reach.of(GRU, config, steps).advice() == ""


@pytest.mark.parametrize(
    ("approach", "config", "words"),
    [
        # Breaks where what holds sequences together is taken from the rollout: R2D2's gradients flow over `length`.
        (Approach("r2d2", "lstm"), r2d2.Config(), "--override r2d2.length=310 --override r2d2.memory_horizon=310 "),
        (Approach("ppo", "linear"), ppo.Config(bptt_length=32), "compare with --bptt-length 310 --gamma 0.997."),
        (Approach("ppo", "none"), ppo.Config(), "while γ 0.99 looks 100 ahead: "),
        (Approach("impala", "gru"), impala.Config(gamma=1.0, memory_horizon=0), "gradients reach 32 back: "),
    ],
)
def test_of_each_algorithm_and_memory(approach: Approach, config: ppo.Config, words: str) -> None:
    said = Reach.of(approach, config, 302).advice()
    assert words in said
    assert ("γ" in said) == (config.gamma < 1)


def test_where_the_comparison_says_it() -> None:
    """Breaks where it is said although all is well, or of what has no memory, or all of it where something was lost."""
    far, near = Reach.of(GRU, ppo.Config(), 302), Reach.of(GRU, ppo.Config(), 42)
    without = row("none", 0.52, 0.5, reach=Reach.of(Approach("ppo", "none"), ppo.Config(), 300))
    none_learnt = advice(result(without, row("gru", 0.5, 0.5, reach=far)))
    assert none_learnt.startswith("None has learnt it yet")
    assert "is not reached: give more --num-steps, or try other --memories. Episodes last 302 steps" in none_learnt
    assert "Episodes last" not in advice(result(without, row("gru", 0.5, 0.5, reach=near)))
    assert "Episodes last" not in advice(result(without, row("gru", 1.0, 1.0, reach=far)))
    assert "Episodes last" not in advice(result(without, row("gru", 0.5, 0.5)))

    kept = row("gru", 1.0, 1.0, final_means=[0.5, 1.0], reached=[True] * 2, earlier_kept=[True] * 2, reach=far)
    lost = advice(replace(result(without, kept), threshold=0.9))
    assert "earlier agents are kept there. Episodes last 302 steps, while γ 0.99 looks 100 ahead: compare" in lost


def test_what_ended_a_sweep() -> None:
    """Breaks where it tells of the approach that came less far, or of one that bridged all."""
    none, gru = Approach("ppo", "none"), GRU
    ends = {
        "ppo:none": [tried(5, False, none)],
        "ppo:gru": [tried(5, True, gru), tried(300, False, gru)],
        "ppo:linear": [tried(5, True, gru), tried(300, True, gru)],
    }
    good = result(row("none", 0.5, 0.5), row("gru", 1.0, 1.0))
    said = advice(replace(good, horizon=Horizon(key="length", values=[5, 300], tried=ends)))
    assert "The sweep ended for gru at length=300. Episodes last 302 steps, while gradients reach 64 back" in said
    del ends["ppo:gru"]
    assert "sweep" not in advice(replace(good, horizon=Horizon(key="length", values=[5, 300], tried=ends)))


def tried(value: float, solved: bool, approach: Approach) -> Tried:
    reach = Reach.of(approach, ppo.Config(), value + 2)
    return Tried(value=value, needed=0.9, seed_means=[1.0], solved=solved, reach=reach)
