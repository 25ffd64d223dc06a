"""The advice that a comparison of memories ends with."""

from dataclasses import replace

from seqrl.comparison.advice import advice
from seqrl.comparison.report import Comparison, Row
from seqrl.statistics import mean_and_half_width


def row(memory: str, *means: float, **changes: object) -> Row:
    mean, half_width = mean_and_half_width(means)
    figures = {
        "approach": f"ppo:{memory}", "memory": memory, "mean": mean, "half_width": half_width,
        "seed_means": list(means), "steps_per_second": 9000.0,
        "num_parameters": 1234, "seconds": 12.5, "best_run": f"runs/{memory}_s0",
        "curves": [[(k * 1000.0, mean * k / 100) for k in range(1, 101)] for _ in means],
    }  # fmt: skip
    return Row(**{**figures, **changes})  # type: ignore[arg-type]


def result(*rows: Row, optimal: float | None = 1.0, memoryless: float | None = 0.5) -> Comparison:
    return Comparison(
        env="seqrl/TMaze-v0",
        num_steps=100_000,
        num_episodes=100,
        optimal=optimal,
        memoryless=memoryless,
        rows=list(rows),
    )


def test_advice_no_memory_needed() -> None:
    words = advice(result(row("none", 0.99, 1.0), row("gru", 1.0, 1.0)))
    assert words.startswith("No memory is needed here within this budget")
    assert words.endswith("Its best run is runs/none_s0.")


def test_advice_a_frame_stack_suffices() -> None:
    # Breaks when `advice` takes the best and not the simplest that is as good.
    words = advice(result(row("gru", 1.0, 0.99), row("none", 0.5, 0.49), row("frame_stack", 0.98, 1.0)))
    assert words.startswith("Take frame_stack: it reaches 0.99, while none reaches 0.495.")
    assert "Nothing is gained by gru." in words
    assert "optimum" not in words


def test_advice_only_a_gru_does() -> None:
    words = advice(result(row("none", 0.5, 0.5), row("frame_stack", 0.5, 0.48), row("gru", 1.0, 1.0)))
    assert words.startswith("Take gru: it reaches 1, while none reaches 0.5, frame_stack reaches 0.49.")
    assert "Nothing is gained" not in words


def test_advice_far_from_the_optimum() -> None:
    words = advice(result(row("none", 0.1, 0.1), row("gru", 0.7, 0.7)))
    assert words.startswith("Take gru")
    assert "The optimum, 1, is not reached: give more --num-steps" in words
    words = advice(result(row("none", 0.1, 0.1), row("gru", 0.1, 0.1), memoryless=None))
    assert words.startswith("Nothing shows a need for memory yet")
    assert "--num-steps" in words


def test_advice_where_returns_are_negative() -> None:
    # Breaks when the distance to the optimum is a quotient: 0.9 · (−20) is above −20.
    assert "optimum" not in advice(result(row("none", -90.0), row("gru", -20.5), optimal=-20.0))
    assert "The optimum, -20, is not" in advice(result(row("none", -90.0), row("gru", -40.0), optimal=-20.0))
    assert "optimum" not in advice(result(row("none", -90.0), row("gru", -40.0), optimal=None))
    assert "% of optimal" not in result(row("gru", -20.5), optimal=-20.0).columns()
    assert "% of optimal" not in result(row("gru", -0.5)).columns()


def test_advice_of_one_memory() -> None:
    words = advice(result(row("gru", 1.0, 0.9)))
    assert words == "Only gru was tried: compare others with --memories. Its best run is runs/gru_s0."


def test_advice_within_the_noise() -> None:
    """A difference that seeds alone could make is neither one nor none."""
    # Breaks when _noise returns 0.
    noisy = advice(result(row("none", 0.2, 1.0, 0.5), row("gru", 0.4, 1.0, 0.6), optimal=None))
    assert noisy.startswith("Take gru")
    assert "3 seeds do not settle whether none, which is simpler, would do: give more --num-seeds." in noisy
    clear = (row("none", 0.55, 0.56, 0.57), row("gru", 0.65, 0.66, 0.67))
    assert advice(result(*clear, optimal=None)).startswith("Take gru")
    assert "settle" not in advice(result(*clear, optimal=None))
    single = advice(result(row("none", 0.55), row("gru", 0.65), optimal=None))
    assert single.startswith("Take gru")
    assert "A single seed settles little" in single


def test_advice_where_theory_settles_what_seeds_do_not() -> None:
    """Breaks without `memoryless` in `_may_do`: an agent without memory has 0.5 at best, however few its seeds."""
    unlucky, good = row("none", -1.0, 0.5), row("gru", 1.0, 1.0)
    assert "settle" not in advice(result(unlucky, good))
    assert "settle whether none, which is simpler, would do" in advice(result(unlucky, good, memoryless=None))
    assert "settle whether frame_stack" in advice(result(row("frame_stack", -1.0, 0.5), good))


def test_advice_where_one_seed_of_the_simpler_memory_fails() -> None:
    # Breaks when a difference within the noise counts as none: one failure of n seeds is a standard error for every n.
    for n in (3, 5):
        words = advice(result(row("gru", *[1.0] * (n - 1), 0.3), row("lstm", *[1.0] * n), optimal=None))
        assert words.startswith("Take lstm")
        assert f"{n} seeds do not settle whether gru" in words


def test_advice_is_not_changed_by_an_approach_that_failed() -> None:
    # Breaks when the spread of all returns says what as good is: it reaches down to the one that failed.
    rows = row("none", 0.8, 0.8), row("gru", 1.0, 1.0)
    assert advice(result(*rows)).startswith("Take gru")
    assert advice(result(*rows, row("lstm", -4.0, -4.0))).startswith("Take gru")
    fewer = advice(result(row("gru", 1.0, 1.0, num_steps=900), row("lstm", 0.1, 0.1, num_steps=80)))
    assert "Nothing is gained by lstm (in 80 steps, not 900)." in fewer


# Break: `simplicity` of the whole name, which is then one of a user's own memories.
def test_advice_on_what_is_read_besides() -> None:
    rows = [
        row(name, *means) for name, means in {"none": (0.5, 0.5), "gru": (0.5, 0.5), "gru+reward": (1.0, 1.0)}.items()
    ]
    words = advice(result(*rows))
    assert words.startswith("Take gru+reward: it reaches 1, while none reaches 0.5, gru reaches 0.5.")
    assert advice(result(*rows[:1], row("gru", 1.0, 1.0), rows[2])).startswith("Take gru: it reaches 1")
    assert advice(result(row("none+reward", 1.0, 1.0), rows[0], row("gru", 1.0, 1.0))).startswith("Take none+reward:")


def test_advice_at_chance() -> None:
    # Breaks when what can be had without memory is not looked at.
    words = advice(result(row("none", 0.47, 0.5), row("gru", 0.55, 0.5)))
    assert words.startswith("None has learnt it yet: the best, gru, brings 0.525 ± 0.318, and 0.5 can be had without")
    assert "Take" not in words
    assert "is not reached: give more --num-steps" in words
    # Must break: `enough` kept, which is the simplest that brings as much: "its" is the best's.
    assert words.endswith("Its best run is runs/gru_s0.")
    words = advice(result(row("none", 0.49, 0.5), row("gru", 0.5, 0.5)))
    assert words.startswith("None has learnt it yet: the best, gru,")
    assert words.endswith("Its best run is runs/gru_s0.")
    # Must break: " over its episodes" left out: the table has ± 0.318 of the same mean, over the seeds.
    judged = replace(row("gru", 0.55, 0.5), episodes_half_width=0.04)
    assert "brings 0.525 ± 0.04 over its episodes, and 0.5" in advice(result(row("none", 0.47, 0.5), judged))


def test_advice_at_chance_of_the_best_of_several() -> None:
    """Seven agents flip a coin 300 times each: the best of them is beyond its interval of ½ in one of six such
    comparisons. Must break: `_nothing_learnt` by the interval that is meant for one."""
    lucky = 0.567  # of 300: half an interval is 0.0563
    flips = [row(name, 0.5, episodes_half_width=0.0563) for name in ("none", "frame_stack", "gru", "lstm", "linear")]
    best = row("transformer", lucky, episodes_half_width=0.0563)
    assert advice(result(*flips, best)).startswith(
        "None has learnt it yet: the best, transformer, brings 0.567 ± 0.0563"
    )
    assert advice(result(flips[0], best)).startswith("Take transformer")


def test_advice_where_no_memory_has_the_optimum_too() -> None:
    """Key to door. Must break: a tolerance of 5 % of nothing, by which one lost episode of 300 calls for a GRU."""
    rows = row("none", 1.0, 1.0, 0.99), row("gru", 1.0, 1.0, 1.0)
    assert advice(result(*rows, memoryless=1.0)).startswith("No memory is needed here within this budget")
    worse = row("none", 0.9, 0.9, 0.91), row("gru", 1.0, 1.0, 1.0)
    assert advice(result(*worse, memoryless=1.0)).startswith("Take gru")


def test_advice_where_episodes_do_not_tell_whether_the_optimum_is_reached() -> None:
    """Tiger: returns of the best policy spread by 41, so that 300 episodes miss 20.4 by a tenth one time in six.

    Must break: the mean alone, without its interval."""
    rows = row("none", -20.0), row("gru", 17.0, episodes_half_width=4.7)
    words = advice(result(*rows, optimal=20.4, memoryless=-20.0))
    assert "not reached" not in words
    assert "Whether the optimum, 20.4, is reached these episodes do not settle: compare anew with more" in words
    rows = row("none", -20.0), row("gru", 10.0, episodes_half_width=4.7)
    assert "The optimum, 20.4, is not reached" in advice(result(*rows, optimal=20.4, memoryless=-20.0))


def test_advice_where_training_lost_what_is_kept() -> None:
    """Breaks where seeds that never were there count as lost, or the last agent's figures are the kept one's."""
    kept = row("gru", 1.0, 1.0, 0.6, final_means=[0.5, 1.0, 0.55], reached=[True, True, False], earlier_kept=[True] * 3)
    compared = replace(result(row("none", 0.5, 0.5, 0.5), kept), threshold=0.9)
    assert "Training lost it again on 1 of 3 seeds; earlier agents are kept there." in advice(compared)
    assert compared.columns()["last agent"] == ["–", "0.6833"]
    assert "lost" not in advice(replace(compared, rows=[replace(kept, final_means=[1.0, 0.95, 0.5])]))
    # Breaks where a last agent that is kept counts as lost, as its few episodes while training brought less by chance.
    assert "lost" not in advice(replace(compared, rows=[replace(kept, earlier_kept=[False] * 3)]))


def test_advice_where_large_rewards_were_clipped() -> None:
    """Breaks without the sentence, or if it names what was clipped little, or PPO's flag for other algorithms."""
    rows = row("none", 0.5, rewards_clipped=0.05), row("gru", 1.0, rewards_clipped=0.25)
    said = (
        "Clipping moved up to 25 % of the rewards' sum from large to small ones with gru: if large ones must count in"
    )
    assert f"{said} full, compare with --no-normalize-rewards." in advice(result(*rows))
    late = row("gru", 0.9, approach="impala:gru", rewards_clipped=0.3)
    words = advice(result(*rows, late))
    assert "up to 30 % of the rewards' sum from large to small ones with ppo:gru and impala:gru: if" in words
    assert "compare with --no-normalize-rewards --override impala.normalize_rewards=false." in words
    assert "Clipping" not in advice(result(rows[0]))
