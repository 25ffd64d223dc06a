"""Logged episodes: windows keep to their episode and draw every decision equally, and opening reads no rows."""

import json
import os

import gymnasium as gym
import numpy as np
import pytest
import torch

from seqrl.data import Episode, EpisodeDataset, EpisodeWriter, storage
from seqrl.data.episodes import returns_to_go
from seqrl.errors import UserError
from seqrl.trajectory import tree_flatten, tree_map

LENGTHS = [1, 3, 8, 2, 5]
OBSERVATION = gym.spaces.Box(-np.inf, np.inf, (2,))
ACTION = gym.spaces.Discrete(100)


def counting(k, length, terminated=None):
    """Observation [k, t], action t + 1, reward 100 k + t + 1: each row says where it belongs."""
    observation = np.stack([np.full(length + 1, k), np.arange(length + 1)], axis=1).astype(np.float32)
    terminated = k % 2 == 0 if terminated is None else terminated
    reward = (100 * k + np.arange(length) + 1).astype(np.float32)
    return Episode(observation, np.arange(length) + 1, reward, terminated, not terminated)


def write(folder, episodes, observation_space=OBSERVATION, action_space=ACTION, gamma=1.0, **about):
    with EpisodeWriter(folder, observation_space, action_space, about=about) as writer:
        for episode in episodes:
            writer.add(episode)
    return EpisodeDataset.open(folder, gamma)


@pytest.fixture
def dataset(tmp_path):
    return write(tmp_path / "log", [counting(k, length) for k, length in enumerate(LENGTHS)], source="test")


def all_places(length):
    """Every window of the fixture: episode [N], start [N]."""
    places = [(k, s) for k, num in enumerate(LENGTHS) for s in range(-(length - 1), num)]
    episode, start = np.array(places).T
    return episode, start


# Breaks if `first` is `start` unclipped, if the window's end is `start + length`, or pads keep the row they were read
# from (`leaf[pads] = 0` left out).
@pytest.mark.parametrize("length", [1, 2, 4, 20])
def test_every_window_by_hand(dataset, length):
    """All windows there are, cell by cell, against a loop that follows the definition."""
    episode, start = all_places(length)
    windows = dataset.windows_at(episode, start, length)
    for n, (k, s) in enumerate(zip(episode, start, strict=True)):
        shown = list(range(max(s, 0), min(s + length - 1, LENGTHS[k]) + 1))
        for j in range(length):
            at = tree_map(lambda leaf, j=j, n=n: leaf[j, n], windows)
            if j >= len(shown):  # a pad
                assert bool(at.inputs.is_first)
                rest = at._replace(inputs=at.inputs._replace(is_first=torch.zeros(())))
                assert not any(leaf.any() for leaf in tree_flatten(tuple(rest)).values())
                continue
            t = shown[j]
            decision = t < LENGTHS[k]
            reward = 100 * k + t + 1
            assert at.inputs.observation.tolist() == [k, t]
            assert bool(at.inputs.is_first) == (j == 0)
            assert int(at.inputs.previous_action) == t  # that of the row before is t, and 0 stands before the first
            assert float(at.inputs.previous_reward) == (reward - 1 if t else 0)
            assert int(at.timestep) == t
            assert bool(at.mask) == decision
            assert (int(at.action), float(at.reward)) == ((t + 1, reward) if decision else (0, 0))
            last = t == LENGTHS[k] - 1
            assert bool(at.terminated) == (last and k % 2 == 0)
            assert bool(at.truncated) == (last and k % 2 == 1)
            expected = sum(100 * k + i + 1 for i in range(t, LENGTHS[k]))
            assert float(at.return_to_go) == expected


def test_leaves_are_of_their_own_types_and_nobody_elses(dataset):
    windows = dataset.windows(3, 4, torch.Generator().manual_seed(0))
    for leaf in tree_flatten(tuple(windows)).values():
        assert leaf.shape[:2] == (4, 3)
    types = {name: leaf.dtype for name, leaf in zip(windows._fields[1:], windows[1:], strict=True)}
    assert types["action"] == types["timestep"] == torch.int64
    assert types["mask"] == types["terminated"] == types["truncated"] == torch.bool
    assert types["reward"] == types["return_to_go"] == torch.float32
    before, others = dataset.action.copy(), [leaf.clone() for leaf in tree_flatten(tuple(windows)).values()]
    windows.action.fill_(77)
    np.testing.assert_array_equal(dataset.action, before)
    for old, new in zip(others, tree_flatten(tuple(windows)).values(), strict=True):
        assert torch.equal(old, new) or new is windows.action


# Breaks if `_blocks` begins at the window's first row instead of the one before, or takes the last record for others.
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("length", [1, 3, 9])
def test_windows_near_the_files_end_are_those_of_the_middle(tmp_path, monkeypatch, native, length):
    """Behind a longer file's episodes stand others: whole blocks are copied there, row by row at the end."""
    if not native:
        monkeypatch.setattr(storage, "library", lambda: None)
    episodes = [counting(k, n) for k, n in enumerate(LENGTHS)]
    short, long = write(tmp_path / "short", episodes), write(tmp_path / "long", [*episodes, counting(9, 50)])
    place = all_places(length)
    for a, b in zip(*(tree_flatten(tuple(d.windows_at(*place, length))).values() for d in (short, long)), strict=True):
        assert torch.equal(a, b)


# Breaks if `width` is two more, or `<=` is `<` where the guide's episode is corrected.
@pytest.mark.parametrize("lengths", [LENGTHS, [1] * 30 + [90] + [1] * 30, [40, 1, 1, 1], [7]])
@pytest.mark.parametrize("length", [1, 2, 5, 64])
def test_every_place_is_found_in_its_episode(tmp_path, monkeypatch, lengths, length):
    """All places there are, in order, in place of drawn ones."""
    dataset = write(tmp_path / "log", [counting(k, n) for k, n in enumerate(lengths)])
    number = sum(n + length - 1 for n in lengths)
    monkeypatch.setattr(torch, "randint", lambda high, size, generator: torch.arange(high))
    windows = dataset.windows(number, length, torch.Generator())
    places = [(k, s) for k, n in enumerate(lengths) for s in range(-(length - 1), n)]
    assert windows.inputs.observation[0].tolist() == [[k, max(s, 0)] for k, s in places]
    assert windows.mask.sum(0).tolist() == [min(s + length, lengths[k]) - max(s, 0) for k, s in places]


# Breaks if places are drawn from 0 … T − 1 (the first decisions become rare) or episodes are drawn before places.
def test_every_decision_is_drawn_equally_often(dataset):
    """χ² over the 19 decisions, of which each draw shows several: the draws of one window are counted once each."""
    length, number = 4, 40_000
    windows = dataset.windows(number, length, torch.Generator().manual_seed(1))
    seen = windows.inputs.observation[windows.mask].long()
    counts = np.array(
        [int(((seen[:, 0] == k) & (seen[:, 1] == t)).sum()) for k, n in enumerate(LENGTHS) for t in range(n)]
    )
    share = length / sum(n + length - 1 for n in LENGTHS)  # of windows that show a given decision
    deviation = (counts - number * share) / np.sqrt(number * share * (1 - share))
    assert np.abs(deviation).max() < 4.5
    assert counts.sum() == int(windows.mask.sum())


def test_a_window_never_shows_another_episode(dataset):
    windows = dataset.windows(5000, 7, torch.Generator().manual_seed(2))
    inside = ~windows.inputs.is_first
    inside[0] = True
    episode = windows.inputs.observation[..., 0]
    assert ((episode == episode[0]) | ~inside).all()
    step = windows.inputs.observation[..., 1]
    assert ((step[1:] == step[:-1] + 1) | ~inside[1:]).all()


def test_equal_generators_draw_equal_windows(dataset):
    first, second = torch.Generator().manual_seed(3), torch.Generator()
    dataset.windows(5, 3, first)
    second.set_state(first.get_state())
    for length in (3, 6, 3):
        one, other = (dataset.windows(8, length, generator) for generator in (first, second))
        for a, b in zip(tree_flatten(tuple(one)).values(), tree_flatten(tuple(other)).values(), strict=True):
            assert torch.equal(a, b)


# Breaks if `behind > step` is `>= step`, or the power of γ is left at 1.
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("chunk", [1, 10, 1 << 20])
def test_returns_to_go_against_the_sum(gamma, chunk):
    """An O(T²) oracle; episodes of 1 to 40 decisions, in chunks smaller and larger than they are."""
    generator = np.random.default_rng(0)
    lengths = [1, 40, 7, 1, 2, 16, 17]
    starts = np.concatenate([[0], np.cumsum([n + 1 for n in lengths])])
    reward = generator.normal(size=starts[-1]).astype(np.float32)
    reward[starts[1:] - 1] = 0
    expected = np.zeros(len(reward))
    for first, n in zip(starts[:-1], lengths, strict=True):
        for t in range(n):
            expected[first + t] = sum(gamma**i * float(reward[first + t + i]) for i in range(n - t))
    np.testing.assert_allclose(returns_to_go(reward, starts, gamma, chunk), expected, rtol=1e-6, atol=1e-6)


def test_a_discount_holds_for_windows_and_not_for_returns(tmp_path, dataset):
    """Truncated and terminated episodes alike: what would have come after a truncation is not in the log."""
    other = EpisodeDataset.open(dataset.folder, gamma=0.5)
    assert other.return_to_go[:2].tolist() == [1.0, 0.0]
    assert other.return_to_go[2:6].tolist() == [101 + 0.5 * (102 + 0.5 * 103), 102 + 0.5 * 103, 103, 0]
    assert dataset.return_to_go[2:6].tolist() == [306, 205, 103, 0]
    assert other.returns.tolist() == dataset.returns.tolist() == [1, 306, 1636, 603, 2015]


# Breaks if pads keep the return-to-go that they were read from, or it is read from the windows' first rows alone.
@pytest.mark.parametrize("length", [1, 4, 20])
def test_other_returns_to_go_stand_where_the_logs_do(dataset, length):
    other = dataset.with_returns_to_go(2 * dataset.return_to_go)
    expected = 2 * dataset.windows_at(*all_places(length), length).return_to_go
    assert torch.equal(other.windows_at(*all_places(length), length).return_to_go, expected)


def test_arrays_and_whole_episodes(dataset):
    assert len(dataset) == sum(LENGTHS)
    assert dataset.num_episodes == 5
    assert dataset.lengths.tolist() == LENGTHS
    assert dataset.starts.tolist() == [0, 2, 6, 15, 18, 24]
    assert dataset.about == {"source": "test"}
    assert (dataset.observation_space, dataset.action_space) == (OBSERVATION, ACTION)
    for k, length in enumerate(LENGTHS):
        for found, expected in zip(dataset.episode(k), counting(k, length), strict=True):
            np.testing.assert_array_equal(found, expected)
    final = dataset.starts[1:] - 1
    for array in (dataset.action, dataset.reward, dataset.terminated, dataset.truncated, dataset.return_to_go):
        assert not array[final].any()


# Breaks if `subset` keeps the whole dataset's places, or counts in the files instead of in this dataset.
def test_a_subset_draws_from_its_own_episodes(dataset):
    part = dataset.subset(np.array([4, 1, 2])).subset(np.array([0, 2]))
    assert part.lengths.tolist() == [3, 5]
    assert part.returns.tolist() == [306, 2015]
    assert len(part) == 8
    windows = part.windows(300, 3, torch.Generator().manual_seed(0))
    assert set(windows.inputs.observation[..., 0][windows.mask].tolist()) == {1.0, 4.0}
    assert part.episode(1).observation[0, 0] == 4
    assert dataset.num_episodes == 5


@pytest.mark.parametrize("episodes", [[], [5], [-1]])
def test_a_subset_of_nothing(dataset, episodes):
    with pytest.raises(UserError, match="needs episodes from 0 to 4, at least one"):
        dataset.subset(np.array(episodes))


def test_split(dataset):
    train, held_out = dataset.split(0.4, seed=0)
    assert (train.num_episodes, held_out.num_episodes) == (3, 2)
    assert sorted([*train.returns, *held_out.returns]) == sorted(dataset.returns)
    assert dataset.split(0.4, seed=0)[1].returns.tolist() == held_out.returns.tolist()
    assert {tuple(dataset.split(0.4, seed=s)[1].returns) for s in range(10)} != {tuple(held_out.returns)}
    assert dataset.split(0.01, seed=0)[1].num_episodes == dataset.split(0.99, seed=0)[0].num_episodes == 1
    with pytest.raises(UserError, match=r"share of held-out episodes is 1\.0"):
        dataset.split(1.0, seed=0)
    with pytest.raises(UserError, match="cannot be split"):
        dataset.subset(np.array([0])).split(0.5, seed=0)


def test_best(dataset):
    assert dataset.best(0.4).returns.tolist() == [1636, 2015]
    assert dataset.best(0.01).returns.tolist() == [2015]
    assert dataset.best(1.0).num_episodes == 5
    with pytest.raises(UserError, match=r"share of best episodes is 0\.0"):
        dataset.best(0.0)


SPACE = gym.spaces.Dict(
    {
        "image": gym.spaces.Box(0, 255, (4, 4, 3), np.uint8),
        "pair": gym.spaces.Tuple([gym.spaces.Discrete(5, start=2), gym.spaces.MultiBinary(3)]),
        "action_mask": gym.spaces.MultiBinary(5),
        "speed": gym.spaces.Box(-1.0, 1.0, (2,), np.float64),
    }
)
PARTS = gym.spaces.MultiDiscrete([2, 3])


def nested(length, seed, terminated=True):
    """An episode of all kinds of leaves, as agents see it."""
    generator = np.random.default_rng(seed)
    observation = {
        "image": generator.integers(0, 256, (length + 1, 4, 4, 3), dtype=np.uint8),
        "pair": (generator.integers(0, 5, length + 1), generator.random((length + 1, 3)) < 0.5),
        "action_mask": np.ones((length + 1, 5), dtype=bool),
        "speed": generator.uniform(-1, 1, (length + 1, 2)).astype(np.float32),
    }
    action = generator.integers(0, [2, 3], (length, 2))
    return Episode(observation, action, generator.normal(size=length).astype(np.float32), terminated, not terminated)


def test_nested_observations_survive(tmp_path):
    episodes = [nested(length, seed=length) for length in (3, 1, 6)]
    dataset = write(tmp_path / "log", episodes, SPACE, PARTS)
    for k, episode in enumerate(episodes):
        found, expected = dataset.episode(k), episode
        for name, leaf in tree_flatten(tuple(expected)).items():
            np.testing.assert_array_equal(tree_flatten(tuple(found))[name], leaf)
    windows = dataset.windows(4, 5, torch.Generator().manual_seed(0))
    observation = windows.inputs.observation
    assert observation["image"].dtype == torch.uint8
    assert observation["image"].shape == (5, 4, 4, 4, 3)
    assert observation["pair"][0].dtype == torch.int64
    assert observation["pair"][1].dtype == observation["action_mask"].dtype == torch.bool
    assert observation["speed"].dtype == torch.float32
    assert windows.action.shape == windows.inputs.previous_action.shape == (5, 4, 2)
    assert dataset.observation_space["pair"][0].start == 2


# Breaks if only leaves of more than `LARGE` bytes are large, or pads are blanked in the first file alone.
def test_a_large_leaf_has_a_file_of_its_own(tmp_path):
    """Frames of 4,096 bytes, and of one less; rewards then lie in records without frames."""
    generator = np.random.default_rng(0)
    for shape, large in (((32, 32, 4), True), ((4095,), False)):
        frames = generator.integers(1, 256, (7, *shape), dtype=np.uint8)
        speed = generator.uniform(-1, 1, (7, 2)).astype(np.float32)
        space = gym.spaces.Dict(frame=gym.spaces.Box(0, 255, shape, np.uint8), speed=gym.spaces.Box(-1, 1, (2,)))
        episode = Episode({"frame": frames, "speed": speed}, np.arange(6), np.ones(6), True, False)
        dataset = write(tmp_path / str(large), [episode, episode], space)
        assert (dataset.folder / "observation.0.bin").exists() == large
        assert (dataset.reward.strides[0] < 100) == large
        np.testing.assert_array_equal(dataset.episode(1).observation["frame"], frames)
        windows = dataset.windows_at(np.array([0, 1]), np.array([-2, 3]), 5)
        found = windows.inputs.observation
        expected = np.concatenate([frames[:3], 0 * frames[:2]]), np.concatenate([frames[3:], 0 * frames[:1]])
        np.testing.assert_array_equal(found["frame"], np.stack(expected, axis=1))
        np.testing.assert_array_equal(found["speed"][:4, 1], speed[3:])


# Breaks if flags are taken from the rows themselves, or returns-to-go are not computed anew.
@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_rearranged_rows_are_episodes_of_their_own(tmp_path, gamma):
    log = write(tmp_path / "log", [counting(k, n) for k, n in enumerate(LENGTHS)], gamma=gamma)
    # Episode 2 (rows 6 to 14) backwards, without two decisions; and episode 3's second decision, which is truncated.
    other = log.rearranged(np.array([13, 12, 11, 10, 9, 8, 14, 16, 17]), np.array([6, 1]))
    assert other.observation[:, 1].tolist() == [7, 6, 5, 4, 3, 2, 8, 1, 2]
    assert other.terminated.tolist() == [False] * 5 + [True] + [False] * 3
    assert other.truncated.tolist() == [False] * 7 + [True, False]
    rewards = [208, 207, 206, 205, 204, 203]
    assert other.returns.tolist() == [sum(rewards), 302]
    assert other.return_to_go[0] == sum(gamma**k * reward for k, reward in enumerate(rewards))
    windows = other.windows_at(np.array([0, 1]), np.array([0, -1]), 3)
    assert windows.inputs.previous_action[:, 0].tolist() == [0, 8, 7]
    assert windows.action[:, 1].tolist() == [2, 0, 0]
    assert windows.inputs.previous_action[:, 1].tolist() == [0, 2, 0]


def test_box_actions_and_numbers_of_no_dimension(tmp_path):
    box = gym.spaces.Box(-2.0, 2.0, (3,))
    generator = np.random.default_rng(0)
    action = generator.uniform(-2, 2, (4, 3)).astype(np.float32)
    episode = Episode(np.arange(5) % 3, action, np.ones(4), False, True)
    dataset = write(tmp_path / "log", [episode], gym.spaces.Discrete(3), box)
    windows = dataset.windows_at(np.array([0]), np.array([0]), 5)
    assert windows.inputs.observation[:, 0].tolist() == [0, 1, 2, 0, 1]
    assert torch.equal(windows.action[:4, 0], torch.from_numpy(action))
    assert torch.equal(windows.inputs.previous_action[1:, 0], torch.from_numpy(action))


def test_opening_reads_no_rows(tmp_path, dataset):
    """Rows of 10⁹ bytes that are only a hole in a file: reading them would take seconds and memory."""
    index = json.loads((dataset.folder / "index.json").read_text())
    num_rows, resident = 200_000_000, _resident()
    index["num_rows"], index["num_episodes"] = num_rows, 1
    os.truncate(dataset.folder / "rows.bin", index["files"]["rows"]["bytes"] * (num_rows + 1))
    (dataset.folder / "returns.bin").write_bytes(bytes(8))
    (dataset.folder / "starts.bin").write_bytes(np.array([0, num_rows]).tobytes())
    (dataset.folder / "index.json").write_text(json.dumps(index))
    large = EpisodeDataset.open(dataset.folder)
    assert len(large) == num_rows - 1
    large.windows(64, 20, torch.Generator().manual_seed(0))
    assert _resident() - resident < 50e6


def _resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_rows_are_read_only(dataset):
    with pytest.raises(ValueError, match="read-only"):
        dataset.reward[0] = 1.0


def test_a_discount_out_of_range(dataset):
    with pytest.raises(UserError, match=r"gamma is 1\.5: give a discount from 0 to 1"):
        EpisodeDataset.open(dataset.folder, gamma=1.5)
