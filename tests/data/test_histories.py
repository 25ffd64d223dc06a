"""Histories thinned out and shuffled: by hand, row for row, and what a window shows before a moved inner episode."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from seqrl.data import Episode, EpisodeDataset, EpisodeWriter
from seqrl.data.histories import check_histories, exchanged, inner_starts, shuffled, strided
from seqrl.errors import UserError

SPACE = gym.spaces.Dict({"observation": gym.spaces.Discrete(100), "episode_start": gym.spaces.Discrete(2)})
ACTIONS = gym.spaces.Discrete(100)


def written(folder, *histories, first=1):
    """Histories of inner episodes of the given lengths. Row t of history k shows 10 k + t, acts t and earns t."""
    with EpisodeWriter(folder, SPACE, ACTIONS, about={}) as writer:
        for k, lengths in enumerate(histories):
            rows = np.arange(sum(lengths) + 1)
            start = np.isin(rows, [0, *np.cumsum(lengths)]).astype(np.int64)  # the final row begins one more, unplayed
            start[0] = first
            observation = {"observation": 10 * k + rows, "episode_start": start}
            writer.add(Episode(observation, rows[:-1], rows[:-1].astype(np.float32), k % 2 == 0, k % 2 == 1))
    return EpisodeDataset.open(folder)


# Break: `order` given the number of rows, or the final row of the history left out.
def test_a_stride_keeps_whole_inner_episodes_and_the_final_row(tmp_path):
    log = written(tmp_path / "log", [2, 3, 1, 2, 1], [1, 1, 4])
    assert [inner_starts(log, k).tolist() for k in (0, 1)] == [[0, 2, 5, 6, 8], [0, 1, 2]]
    half = strided(log, 2)
    assert half.lengths.tolist() == [4, 5]
    assert half.starts.tolist() == [0, 5, 11]
    assert half.observation["observation"].tolist() == [0, 1, 5, 8, 9, 10, 12, 13, 14, 15, 16]
    assert half.observation["episode_start"].tolist() == [1, 0, 1, 1, 1, 1, 1, 0, 0, 0, 1]
    assert half.action.tolist() == [0, 1, 5, 8, 0, 0, 2, 3, 4, 5, 0]
    assert half.terminated.nonzero()[0].tolist() == [3]
    assert half.truncated.nonzero()[0].tolist() == [9]
    assert half.returns.tolist() == [14, 14]
    assert half.return_to_go.tolist() == [14, 14, 13, 8, 0, 14, 14, 12, 9, 5, 0]
    assert log.lengths.tolist() == [9, 6]  # the log itself is as it was


# Break: `rows[0, inside] - 1` of the folder's rows, not of the kept ones.
def test_the_row_before_is_the_one_that_now_stands_there(tmp_path):
    """An inner episode's first row shows what was done and earned in the row kept before it, as acting would."""
    half = strided(written(tmp_path / "log", [2, 3, 1, 2, 1]), 2)
    whole = half.windows_at(np.array([0]), np.array([0]), 5)
    assert whole.inputs.previous_action[:, 0].tolist() == [0, 0, 1, 5, 8]
    assert whole.inputs.previous_reward[:, 0].tolist() == [0, 0, 1, 5, 8]
    assert whole.mask[:, 0].tolist() == [True] * 4 + [False]
    inside = half.windows_at(np.array([0]), np.array([2]), 2)
    assert inside.inputs.previous_action[:, 0].tolist() == [1, 5]
    assert inside.timestep[:, 0].tolist() == [2, 3]


def test_shuffling_moves_inner_episodes_whole_within_their_history(tmp_path):
    log = written(tmp_path / "log", [2, 3, 1, 2, 1], [1, 1, 4])
    other = shuffled(log, seed=1)
    assert other.lengths.tolist() == [9, 6]
    for k, lengths in enumerate(([2, 3, 1, 2, 1], [1, 1, 4])):
        rows = other.episode(k)
        assert sorted(rows.action) == list(range(sum(lengths)))
        assert rows.action.tolist() != list(range(sum(lengths)))
        parts = np.split(rows.action, np.flatnonzero(rows.observation["episode_start"][:-1])[1:])
        ends = np.cumsum(lengths)
        want = {tuple(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)}
        assert {tuple(part.tolist()) for part in parts} == want
        assert rows.observation["observation"][-1] == 10 * k + sum(lengths)
    assert np.array_equal(other.action, shuffled(log, seed=1).action)
    assert not np.array_equal(other.action, shuffled(log, seed=2).action)


# Break: `every` made of one history alone, `own[0]`, or `dealt` drawn anew for each history.
def test_exchanging_deals_inner_episodes_out_among_all_histories(tmp_path):
    log = written(tmp_path / "log", *[[2, 3, 1]] * 8)
    other = exchanged(log, seed=1)
    final = other.starts[:-1] + other.lengths
    assert other.observation["observation"][final].tolist() == [10 * k + 6 for k in range(8)]
    assert other.terminated[final - 1].tolist() == [k % 2 == 0 for k in range(8)]
    kept = np.delete(np.arange(8 * 7), final)
    shown = other.observation["observation"][kept]
    assert sorted(shown) == sorted(np.delete(log.observation["observation"], np.arange(6, 56, 7)))
    parts = np.split(shown, np.flatnonzero(other.observation["episode_start"][kept])[1:])
    assert all(np.array_equal(part, part[0] + np.arange(len(part))) for part in parts)  # whole, wherever it is now
    tasks = np.array([part[0] // 10 for part in parts]).reshape(8, 3)  # as many a history as before
    assert len({tuple(sorted(row)) for row in tasks.tolist()}) > 4
    assert sum(len(set(row)) > 1 for row in tasks.tolist()) >= 6
    assert np.array_equal(other.action, exchanged(log, seed=1).action)
    assert not np.array_equal(other.action, exchanged(log, seed=2).action)


def test_of_a_subset_its_own_histories_are_rearranged(tmp_path):
    log = written(tmp_path / "log", [2, 1, 1], [3, 1], [1, 3, 1])
    part = strided(log.subset(np.array([0, 2])), 2)
    assert part.observation["observation"].tolist() == [0, 1, 3, 4, 20, 24, 25]
    assert part.windows(8, 3, torch.Generator().manual_seed(0)).mask.any(0).all()


@pytest.mark.parametrize(
    ("stride", "message"),
    [(0, "--episode-stride is 0"), (3, "--episode-stride 3 leaves history 1 of .* one of its 2 inner episodes")],
)
def test_strides_that_leave_no_history_are_refused(tmp_path, stride, message):
    with pytest.raises(UserError, match=message):
        strided(written(tmp_path / "log", [1, 1, 1, 1], [1, 2]), stride)


def test_logs_without_inner_episodes_are_refused(tmp_path):
    check_histories(written(tmp_path / "good", [2, 2]))
    with pytest.raises(UserError, match=r"history 0 of .* does not begin with an inner episode"):
        check_histories(written(tmp_path / "late", [2, 2], first=0))
    with EpisodeWriter(tmp_path / "plain", gym.spaces.Discrete(3), ACTIONS, about={}) as writer:
        writer.add(Episode(np.arange(3), np.arange(2), np.ones(2, np.float32), True, False))
    with pytest.raises(UserError, match="holds no learning histories") as error:
        check_histories(EpisodeDataset.open(tmp_path / "plain"))
    assert "\n" not in str(error.value)
