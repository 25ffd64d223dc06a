"""What learning cost, read from a run's log."""

import json
from pathlib import Path

import pytest

from seqrl.comparison.learning_curve import Reached, last_evaluation, mean_of_second_half, reached, rewards_clipped


def log(folder: Path, returns: list[float], **metrics: list[float]) -> Path:
    """A line every 100 steps, at 50 steps a second."""
    folder.mkdir(exist_ok=True)
    lines = [
        {"step": 100 * k, "episode_return": value, "steps_per_second": 50.0}
        | {name: values[k - 1] for name, values in metrics.items()}
        for k, value in enumerate(returns, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


# Break: the raw curve, in which one lucky update is enough; or the last place below the threshold.
def test_where_the_threshold_was_reached(tmp_path: Path) -> None:
    """Golden: the mean of the five updates around step 600 is the first above 0.89; the spike at 200 does not count."""
    rising = log(tmp_path / "rising", [0.0, 1.0, 0.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.5])
    assert reached(rising, 0.89) == Reached(600.0, 12.0)
    assert reached(rising, 0.5) == Reached(300.0, 6.0)  # (0 + 1 + 0 + 0.9 + 0.9) / 5 = 0.56


# Break: no level of its own for what explores.
def test_an_agent_that_explores_is_held_to_its_own_highest(tmp_path: Path) -> None:
    """Golden: its highest is 0.5, and nine tenths of it are there from step 300 on, where the five average 0.46."""
    explorer = log(tmp_path / "explorer", [0.4, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5])
    assert reached(explorer, 0.9) == Reached(300.0, 6.0, exploring=True)
    below = log(tmp_path / "below", [-40.0, -20.0, -20.0, -20.0, -20.0, -20.0, -20.0])
    assert reached(below, 0.0) == Reached(400.0, 8.0, exploring=True)  # −24 before, and −22 is enough
    (tmp_path / "nothing").mkdir()
    assert reached(tmp_path / "nothing", 0.9) == Reached(None, None)


# Break: all lines, also those in which nothing but short episodes can have ended.
def test_what_ends_first_is_short(tmp_path: Path) -> None:
    """Ten environments, a time limit of 60: who finds the goal by luck is done by step 500, and all others fail at 600.
    Golden: from there on the five lines around step 1200 are the first that average 0.9."""
    returns, lengths = [1.0] * 5 + [0.0] + [0.5] * 4 + [1.0] * 8, [10.0] * 5 + [60.0] + [30.0] * 12
    run = log(tmp_path / "run", returns, episode_length=lengths)
    assert reached(run, 0.89).steps == 100  # what is known without its settings
    (run / "config.json").write_text('{"num_envs": 10}')
    assert reached(run, 0.89).steps == 1200
    (run / "config.json").write_text('{"num_envs": 5, "num_actors": 2}')
    assert reached(run, 0.89).steps == 1200
    short = log(run, [1.0], episode_length=[60.0])
    assert reached(short, 0.89).steps == 100


# Breaks if the mean is over the whole run: what is no longer sought is no longer clipped. Or if single updates count.
def test_the_tenth_in_which_most_was_clipped(tmp_path: Path) -> None:
    shares = [0.1, 0.1, 0.4, 0.2, *[0.0] * 16]
    assert rewards_clipped(log(tmp_path / "run", [0.0] * 20, rewards_clipped=shares)) == pytest.approx(0.3)
    assert rewards_clipped(log(tmp_path / "short", [0.0] * 2, rewards_clipped=[0.0, 0.2])) == pytest.approx(0.2)
    assert rewards_clipped(log(tmp_path / "as they are", [0.0] * 2)) == 0


def test_the_second_half(tmp_path: Path) -> None:
    run = log(tmp_path / "run", [0.0] * 4, delta_q_first=[9.0, 1.0, 2.0, 3.0])
    assert mean_of_second_half(run, "delta_q_first") == pytest.approx(2.0)
    assert mean_of_second_half(run, "kl") is None


@pytest.mark.parametrize(
    ("lines", "last", "earlier"),
    [
        ([], None, False),
        ([{"eval_return": 5.0}, {"eval_return": 3.0}], 3.0, False),  # of --keep last, or of a version before
        ([{"eval_return": 5.0}, {"eval_return": 3.0, "kept_return": 3.0}], 3.0, False),
        ([{"eval_return": 5.0}, {"eval_return": 3.0, "kept_return": 5.0}], 3.0, True),
        (
            [{"eval_return": 3.0, "kept_return": 5.0}, {"eval_return": 6.0, "kept_return": 6.0}],
            6.0,
            False,
        ),  # trained on
    ],
)
def test_which_agent_is_kept(lines: list[dict[str, float]], last: float | None, earlier: bool, tmp_path: Path) -> None:
    logged = [{"step": 10 * k, **line, "loss": 1.0} for k, line in enumerate(lines, 1)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))
    assert last_evaluation(tmp_path) == (last, earlier)
