"""What the benchmark of killed actors reads from a run's log."""

import pytest

from benchmarks.faults import told


# Breaks if the rate is taken for that of one update: it is that of all steps since the run began.
def test_moments_of_updates_are_told_by_the_rate_of_steps():
    times = [1.0, 1.5, 4.0, 4.25]
    lines = [
        {"step": 100 * n, "steps_per_second": 100 * n / time, "actors_restarted": lost, "trajectories_lost": lost}
        | {"learner_utilisation": 0.5, "episode_return": 7.0}
        for n, (time, lost) in enumerate(zip(times, [0.0, 0.0, 1.0, 1.0], strict=True), 1)
    ]
    row = told(lines)
    assert row["longest_pause"] == pytest.approx(2.5)
    assert row["median_pause"] == pytest.approx(0.5)
    assert row["seconds"] == pytest.approx(3.25)
    assert (row["actors_restarted"], row["trajectories_lost"], row["updates"]) == (1, 1, 4)
    assert (row["last_step"], row["episode_return"]) == (400, 7.0)
