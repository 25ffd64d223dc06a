"""Returns-to-go raised to what values of the log promise: the recursion, the values, and what both make of a log."""

import json
import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from seqrl.collect import Scripted, collect
from seqrl.data import Episode, EpisodeDataset, EpisodeWriter
from seqrl.envs import make
from seqrl.errors import UserError
from seqrl.offline.relabel import (
    ValueConfig,
    bounds,
    learn_values,
    relabelled_returns,
    rows_of,
    scan,
    seconds_of,
    state_values,
    value_loss,
)

CELLS = gym.spaces.Discrete(4)
ACTIONS = gym.spaces.Discrete(2)


def written(folder, episodes, observation_space=CELLS, action_space=ACTIONS, gamma=1.0) -> EpisodeDataset:
    """Episodes as (observations, actions, rewards, terminated)."""
    with EpisodeWriter(folder, observation_space, action_space, about={}) as writer:
        for observation, action, reward, terminated in episodes:
            writer.add(Episode(np.array(observation), np.array(action), np.float32(reward), terminated, not terminated))
    return EpisodeDataset.open(folder, gamma)


def random_log(folder, num_episodes=15, gamma=1.0) -> EpisodeDataset:
    rng = np.random.default_rng(0)
    episodes = []
    for k in range(num_episodes):
        length = int(rng.integers(1, 8))
        observation, action = rng.integers(4, size=length + 1), rng.integers(2, size=length)
        episodes.append((observation, action, rng.normal(size=length), k % 3 > 0))
    return written(folder, episodes, gamma=gamma)


# Break: `promised = following[going]` at every step; `value[rows]` for `value[rows + 1]`; `cut` without its ~.
@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("part", [False, True])
def test_the_scan_is_the_recursion_written_out(tmp_path, gamma, part):
    """R_t = r_t + γ max(R_{t+1}, V(o_{t+1})), where R is 0 behind an end, and V(o_T) behind a cut."""
    log = random_log(tmp_path / "log", gamma=gamma)
    log = log.subset(np.array([0, 3, 4, 9, 14])) if part else log
    value = np.random.default_rng(1).normal(size=len(log.reward)).astype(np.float32)
    found, _, expected = scan(log, value, gamma), 0, np.zeros(len(log.reward), dtype=np.float64)
    highest = max(float(log.reward[log.starts[k] : log.starts[k] + n].max()) for k, n in enumerate(log.lengths))
    longest = int(log.lengths.max())

    def promised(row, timestep):
        return min(float(value[row]), max(highest, 0.0) * sum(gamma**k for k in range(longest - timestep)))

    for k, length in enumerate(log.lengths):
        first = int(log.starts[k])
        after = 0.0 if log.terminated[first + length - 1] else promised(first + length, length)
        for t in reversed(range(length)):
            if t < length - 1:
                after = max(after, promised(first + t + 1, t + 1))
            after = expected[first + t] = float(log.reward[first + t]) + gamma * after
    np.testing.assert_allclose(found, expected, atol=1e-5)
    terminated = np.array([log.terminated[s + n - 1] for s, n in zip(log.starts[:-1], log.lengths, strict=True)])
    nothing = scan(log, np.full_like(value, -100.0), gamma)
    for k in np.flatnonzero(terminated):  # values that promise less than what came change nothing
        rows = slice(int(log.starts[k]), int(log.starts[k] + log.lengths[k]))
        np.testing.assert_allclose(nothing[rows], log.return_to_go[rows], atol=1e-5)


class Table(torch.nn.Module):
    """Q and V of each cell and action, as `Values` has them."""

    def __init__(self):
        super().__init__()
        self.q, self.v = torch.nn.Parameter(torch.zeros(2, 4, 2)), torch.nn.Parameter(torch.zeros(4))

    def of_actions(self, observation, action):
        return [q[observation, action] for q in self.q]

    def of_observations(self, observation):
        return self.v[observation]


def chain(folder, gamma=1.0) -> EpisodeDataset:
    """Cell 0, cell 1, and there action 0 ends with 1, action 1 with 0, equally often; one episode is cut at cell 1."""
    return written(
        folder,
        [([0, 1, 2], [0, 0], [0.0, 1.0], True), ([0, 1, 2], [0, 1], [0.0, 0.0], True), ([0, 1], [0], [0.0], False)],
        gamma=gamma,
    )


def all_windows(log: EpisodeDataset, length: int):
    """Every window that may be drawn, also those that pads cut off before the episode's end."""
    pairs = [(k, start) for k, n in enumerate(log.lengths) for start in range(1 - length, int(n))]
    return log.windows_at(*np.array(pairs).T, length)


# Break: `windows.truncated` for `windows.terminated` in the goal; gamma left out; τ to 1 − τ; or decisions whose
# successor is a pad taken in (`decision = windows.mask[:-1]`), which looks like cell 0.
@pytest.mark.parametrize(("expectile", "gamma"), [(0.5, 1.0), (0.9, 1.0), (0.9, 0.5)])
def test_values_of_a_chain(tmp_path, expectile, gamma):
    """Golden: V(1) is the τ-expectile of {1, 0}, which is τ; V(0) = Q(0, 0) = γ τ."""
    log = chain(tmp_path / "log", gamma)
    windows = all_windows(log, 3)
    values, target = Table(), Table()
    optimizer = torch.optim.SGD(values.parameters(), lr=1.0)
    for _ in range(150):
        optimizer.zero_grad()
        value_loss(values, target, windows, ValueConfig(gamma=gamma, expectile=expectile)).backward()
        optimizer.step()
        target.load_state_dict(values.state_dict())
    assert values.v[:2].tolist() == pytest.approx([gamma * expectile, expectile], abs=1e-3)
    for q in values.q:
        assert q[0, 0].item() == pytest.approx(gamma * expectile, abs=1e-3)
        assert q[1].tolist() == pytest.approx([1.0, 0.0], abs=1e-3)
    assert not values.q[:, 2:].any()  # of final observations nothing is learnt


# Break: `goal.clamp` left out; `left` without its reversal in `bounds`.
def test_values_without_an_end_stay_within_what_a_return_can_be(tmp_path):
    """One cell, 1 a step, cut after 5: undiscounted, its value would be infinite."""
    log = written(tmp_path / "log", [([0] * 6, [0] * 5, [1.0] * 5, False)] * 3)
    least, greatest = bounds(log, 1.0)
    assert least.tolist() == [0.0] * 6
    assert greatest.tolist() == [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    assert bounds(log, 0.5)[1].tolist() == pytest.approx([1.9375, 1.875, 1.75, 1.5, 1.0, 0.0])
    windows = all_windows(log, 6)
    values, target = Table(), Table()
    optimizer = torch.optim.SGD(values.parameters(), lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        value_loss(values, target, windows, ValueConfig(), (float(least[0]), float(greatest[0]))).backward()
        optimizer.step()
        target.load_state_dict(values.state_dict())
    assert values.v[0].item() == pytest.approx(5.0, abs=1e-2)
    with torch.no_grad():
        found = scan(log, values.of_observations(torch.as_tensor(np.array(log.observation))).numpy(), 1.0)
    assert found[:5].tolist() == pytest.approx([5.0, 4.0, 3.0, 2.0, 1.0], abs=1e-2)


def test_bounds_are_of_the_subset(tmp_path):
    log = written(tmp_path / "log", [([0, 1], [0], [9.0], True), ([0, 1, 2], [0, 0], [-2.0, 1.0], True)])
    least, greatest = bounds(log.subset(np.array([1])), 1.0)
    assert (least.tolist(), greatest.tolist()) == ([-4.0, -2.0, 0.0], [2.0, 1.0, 0.0])
    rows, timestep = rows_of(log.subset(np.array([1])))
    assert (rows.tolist(), timestep.tolist()) == ([2, 3, 4], [0, 1, 2])


def corridors_log(folder, episodes_each=8) -> EpisodeDataset:
    """A → X → B, which brings 1, and C → X → D, which brings 2: never A → X → D, which would bring 3."""
    environment = make("seqrl/CrossingCorridors-v0", 4, env_kwargs={"length": 1})
    spaces = environment.single_observation_space, environment.single_action_space
    crossing = 3
    with EpisodeWriter(folder, *spaces, about={}) as writer:
        for way_in, way_out in ((0, 0), (1, 1)):

            def choose(inputs, generator, ways=(way_in, way_out)):
                return torch.where(inputs.observation == crossing, ways[1], ways[0])

            for episode in collect(Scripted(spaces[1], choose), environment, episodes_each, seed=0):
                writer.add(episode)
    environment.close()
    return EpisodeDataset.open(folder)


SETTINGS = ValueConfig(num_updates=300, hidden_size=32, batch_size=32, length=4, learning_rate=3e-3, target_rate=0.05)


# Break: `max(R, V)` without V in scan, or Q and V swapped in `of_observations`.
def test_relabelled_returns_of_crossing_corridors_exceed_the_logged_ones(tmp_path):
    log = corridors_log(tmp_path / "log")
    assert sorted(set(log.returns)) == [1.0, 2.0]
    path = tmp_path / "return_to_go.npy"
    found = relabelled_returns(log, SETTINGS, path)
    by_return = {value: found[log.starts[:-1]][log.returns == value] for value in (1.0, 2.0)}
    assert by_return[1.0] == pytest.approx(3.0, abs=0.25)  # A, then what D promises
    assert by_return[2.0] == pytest.approx(2.0, abs=0.25)  # C pays nothing, so that nothing is to be gained
    decision = rows_of(log)[1] < np.repeat(log.lengths, log.lengths + 1)
    assert (found >= log.return_to_go - 1e-5)[decision].all()

    # Kept, and read from the file: bit for bit what it was, or what somebody put there.
    assert np.array_equal(np.load(path), found)
    assert seconds_of(path) == json.loads(path.with_suffix(".json").read_text())["seconds"] > 0
    np.save(path, np.full_like(found, 7.0))
    assert (relabelled_returns(log, SETTINGS, path) == 7.0).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "return_to_go.json", "return_to_go.npy"]
    assert seconds_of(tmp_path / "nothing.npy") == 0.0


# Breaks if held-out rows stay 0 or as logged.
def test_held_out_episodes_are_relabelled_by_the_values_of_the_others(tmp_path):
    log, path = corridors_log(tmp_path / "log"), tmp_path / "return_to_go.npy"
    learnt, held_out = log.subset(np.arange(3, 13)), log.subset(np.array([0, 1, 2, 13, 14, 15]))
    found = relabelled_returns(learnt, SETTINGS, path, held_out)
    alone = relabelled_returns(learnt, SETTINGS)
    own = rows_of(learnt)[0]
    assert np.array_equal(found[own], alone[own])
    begins = found[held_out.starts[:-1]]
    assert begins[held_out.returns == 1.0] == pytest.approx(3.0, abs=0.25)
    assert begins[held_out.returns == 2.0] == pytest.approx(2.0, abs=0.25)
    assert np.array_equal(relabelled_returns(learnt, SETTINGS, path, held_out), found)


# Breaks if a place behind the longest learnt episode's end is looked up, or promises anything.
def test_nothing_is_promised_behind_the_longest_episode_of_the_bounds(tmp_path):
    log = written(tmp_path / "log", [([0, 1], [0], [1.0], True), ([0, 1, 2, 3], [0, 0, 0], [0.0, 0.0, 0.0], False)])
    short, long = log.subset(np.array([0])), log.subset(np.array([1]))
    found = scan(long, np.full(len(log.reward), 9.0, np.float32), 1.0, bounds(short, 1.0)[1])
    assert found[long.starts[0] :].tolist() == [0.0, 0.0, 0.0, 0.0]


# Break: `allow_pickle=True`, or the comparison of shapes left out.
def test_returns_that_are_damaged_or_of_another_log_are_refused(tmp_path):
    log, path = random_log(tmp_path / "log"), tmp_path / "return_to_go.npy"
    np.save(path, np.zeros(len(log.reward) - 1, np.float32))
    with pytest.raises(UserError, match=r"holds \d+ returns-to-go, and .*log \d+ rows: .* in a new folder"):
        relabelled_returns(log, SETTINGS, path)
    np.save(path, np.array([{}] * len(log.reward)), allow_pickle=True)
    with pytest.raises(UserError, match=r"return_to_go.npy is damaged .*: delete it"):
        relabelled_returns(log, SETTINGS, path)
    for content in (b"", b"nonsense", b"\x93NUMPY"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"return_to_go.npy is damaged .*: delete it"):
            relabelled_returns(log, SETTINGS, path)


def test_values_are_the_same_each_time_and_leave_the_random_state_alone(tmp_path):
    log = random_log(tmp_path / "log")
    few = ValueConfig(num_updates=5, hidden_size=8)
    before = torch.get_rng_state()
    one, other = (state_values(log, learn_values(log, few)) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(one, other)
    np.testing.assert_allclose(one, state_values(log, learn_values(log, few), chunk=7), atol=1e-6)
    assert all(math.isfinite(v) for v in one)
