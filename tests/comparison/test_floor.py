"""Where theory knows no optimum, returns are measured from what random actions bring."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_advice import result, row

from seqrl.algorithms import ppo
from seqrl.cli import main
from seqrl.comparison.advice import advice
from seqrl.comparison.config import Config
from seqrl.comparison.floor import play_randomly, random_floor
from seqrl.comparison.learning_curve import reached, read_threshold
from seqrl.comparison.report import Comparison
from seqrl.errors import UserError
from seqrl.progress import Bar

pytestmark = pytest.mark.usefixtures("forked_comparisons")

GUESS = """
import gymnasium as gym
import numpy as np


class Guess(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), float(self.np_random.choice((-11.0, -9.0))), True, False, {}


gym.register("Guess-v0", Guess)
"""


def measured(*rows: object, random: float = -0.93, width: float = 0.02) -> Comparison:
    return replace(result(*rows, optimal=None, memoryless=None), random=random, random_half_width=width)  # type: ignore[arg-type]


def test_a_share_is_of_the_way_from_the_floor() -> None:
    """Golden: of −0.93 → −0.33 nine tenths is −0.39. Breaks when the floor is left at 0 (−0.363)."""
    assert read_threshold("90%").of(-0.33, -0.93) == pytest.approx(-0.39)
    assert read_threshold("-0.5").of(-0.33, -0.93) == -0.5


def test_a_curve_s_own_nine_tenths_are_from_the_floor_too(tmp_path: Path) -> None:
    # Breaks when the level is a tenth of the highest itself below it: it would be −0.55 for every floor.
    returns = [-1.0] * 10 + [-0.5] * 10
    lines = [{"step": 100 * k, "episode_return": r, "steps_per_second": 10.0} for k, r in enumerate(returns)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert reached(tmp_path, 0.0, floor=-1.0).steps == 1200
    assert reached(tmp_path, 0.0, floor=-0.5).steps == 1200
    assert reached(tmp_path, 0.0, floor=3.0).steps < 1200


def test_nothing_is_learnt_where_random_actions_bring_as_much() -> None:
    # Breaks when `_nothing_learnt` does not look at `random`: gru, 2 % above none, would be the one to take.
    rows = row("none", -0.934, episodes_half_width=0.02), row("gru", -0.915, episodes_half_width=0.02)
    words = advice(measured(*rows))
    assert words.startswith("None has learnt it yet: the best, gru, brings -0.915 ± 0.02, and random actions bring")
    assert "Take" not in words
    assert advice(measured(*rows, random=-1.0)).startswith("Take gru")


def test_a_single_approach_may_not_have_learnt_it_either() -> None:
    # Breaks where what was tried alone is not looked at: one would evaluate an agent that acts at random.
    words = advice(measured(row("gru", -0.92, episodes_half_width=0.02)))
    assert words.startswith(
        "Only gru was tried: compare others with --memories. None has learnt it yet: the best, gru,"
    )
    assert "None" not in advice(measured(row("gru", -0.5, episodes_half_width=0.02)))


def test_a_floor_that_is_damaged_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "random.json").write_text('{"mean": null, "half_width": 1}')
    config = Config(settings=ppo.Config(env="CartPole-v1", run_dir=str(tmp_path)))
    with pytest.raises(UserError, match=r"random\.json is damaged: remove it"):
        random_floor(config)


def test_one_seed_that_fails_does_not_hide_what_the_others_have_learnt() -> None:
    # Breaks when the interval over seeds decides: 0.67 ± 1.4.
    rows = row("none", 0.0, 0.0, 0.0), row("gru", 1.0, 1.0, 0.0, episodes_half_width=0.05)
    assert advice(measured(*rows, random=0.0)).startswith("Take gru")


def test_a_single_seed_settles_no_difference_that_episodes_make() -> None:
    """Coin flips: 50 episodes bring 0.66 and 0.56. Breaks when a single seed's interval counts as 0."""
    rows = row("none", 0.56, episodes_half_width=0.14), row("gru", 0.66, episodes_half_width=0.13)
    words = advice(measured(*rows, random=0.0))
    assert "A single seed does not settle whether none, which is simpler, would do" in words
    assert "settles little" not in words


def test_tolerance_is_of_what_is_above_the_floor() -> None:
    # Breaks when it is 2 % of the best return: 990 would be as good as 1,000 above every floor.
    rows = row("none", 990.0, 990.0), row("gru", 1000.0, 1000.0)
    assert advice(measured(*rows, random=980.0)).startswith("Take gru")
    assert advice(measured(*rows, random=0.0)).startswith("No memory is needed here")


def test_what_chance_may_explain_of_noisy_returns() -> None:
    """As Blackjack has them: what was learnt is as wide as what random actions bring, and both are apart by more."""
    rows = row("none", -0.03, episodes_half_width=0.11), row("gru", -0.02, episodes_half_width=0.11)
    told = replace(measured(*rows, random=-0.28), random_half_width=0.19)
    # Breaks where two intervals may not touch, in place of one of their difference.
    assert advice(told).startswith("Nothing shows a need for memory yet")
    words = advice(replace(told, random=-0.2))
    assert words.startswith("None has learnt it yet")
    assert "Give more --num-steps; more --num-episodes would tell whether the difference is chance." in words
    assert "Give more --num-steps. " in advice(replace(told, random=0.0))


@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """No action changes the return, −10 in the mean. Breaks when a threshold is made of the best return alone."""
    (tmp_path / "guess_in_test.py").write_text(GUESS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    status = main(["compare", "guess_in_test:Guess-v0", "--memories", "none,gru", "--num-seeds", "1", "--num-envs", "4",
                   "--rollout-length", "8", "--num-minibatches", "1", "--num-steps", "64", "--num-episodes", "40",
                   "--run-dir", "compared"])  # fmt: skip
    assert status == 0
    assert "None has learnt it yet" in " ".join(capsys.readouterr().out.split())
    results = json.loads(Path("compared/results.json").read_text())
    assert results["threshold"] is None
    assert [row["reached"] for row in results["rows"]] == [[False], [False]]
    assert results["random"] == pytest.approx(-10.0, abs=1.0)
    assert not math.isnan(results["rows"][0]["episodes_half_width"])
    assert json.loads(Path("compared/random.json").read_text())["mean"] == results["random"]


# Breaks if agents are cut later than random actions are: here each step brings 1, whatever is done.
def test_what_never_ends_is_cut_at_the_same_step_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    ends = "float(self.np_random.choice((-11.0, -9.0))), True"
    Path("waiting.py").write_text(GUESS.replace("Guess", "Waiting").replace(ends, "1.0, False"))
    for module in ("floor", "online"):
        monkeypatch.setattr(f"seqrl.comparison.{module}.LONGEST", 40)
    tiny = "--num-steps 64 --num-envs 4 --rollout-length 8 --hidden-size 8 --num-seeds 1 --num-episodes 4 --workers 1"
    tiny += " --num-evaluations 1 --evaluation-episodes 2"
    command = ["compare", "waiting:Waiting-v0", "--memories", "none", *tiny.split(), "--run-dir", "compared"]
    assert main(command) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "4 episodes had not ended and were cut: a time limit ends them" in out
    results = json.loads(Path("compared/results.json").read_text())
    assert (results["random"], results["rows"][0]["mean"], results["rows"][0]["num_cut"]) == (40.0, 40.0, 4)


# Breaks without `watch`: a slow environment would look as if nothing happened.
def test_random_actions_show_how_far_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Bar, "QUIET", 0.0)
    settings = ppo.Config(env="CartPole-v1", vectorization="sync")
    found = play_randomly(Config(settings=settings, num_episodes=60))
    assert found is not None
    assert 15 < found.mean < 35
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("random actions: 0 of 60, ")
    assert re.fullmatch(r"random actions: 60 of 60, [\d,]+ steps/s", lines[-1])


def test_interrupted_while_random_actions_play_there_is_nothing_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seqrl.comparison.online.play_randomly", interrupt)
    assert main(["compare", "CartPole-v1", "--run-dir", str(tmp_path / "compared")]) == 130
    assert "seqrl compare --resume" not in capsys.readouterr().err  # breaks where a folder that is not there is named


def test_what_few_seeds_do_not_settle_is_not_called_needless() -> None:
    """Two seeds each, 109 ± 67 and 101 ± 149, of 20 by random actions. Breaks when `better` is always empty."""
    rows = row("none", 103.9, 114.3), row("gru", 88.8, 112.2)
    words = advice(measured(*rows, random=20.0))
    assert words.startswith("Nothing shows a need for memory yet")
    assert "2 seeds do not settle whether gru would bring more: give more --num-seeds." in words


def test_nothing_is_gained_by_what_may_yet_be_better_is_not_said() -> None:
    # Breaks when "Nothing is gained" names every less simple approach.
    rows = row("gru", 0.9, 0.92), row("lstm", 0.5, 1.3), row("transformer", 0.2, 0.21)
    words = advice(measured(*rows, random=0.0))
    assert "Nothing is gained by transformer." in words
    assert "2 seeds do not settle whether lstm would bring more" in words


def test_a_return_that_was_asked_for_and_not_reached_is_named() -> None:
    # Breaks when `_misses_threshold` asks for any approach, not any seed, or does not look at `reached`.
    rows = row("none", 109.0, 109.0, reached=[False, False]), row("gru", 100.0, 100.0, reached=[False, False])
    words = advice(replace(measured(*rows, random=20.0), threshold=120.0))
    assert words.startswith("Nothing shows a need for memory yet")
    assert "None reaches 120: give more --num-steps, or try other --memories." in words
    there = replace(rows[1], reached=[False, True])
    assert "None reaches" not in advice(replace(measured(rows[0], there, random=20.0), threshold=120.0))
