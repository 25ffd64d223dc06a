"""Trials: what all families share. Their tasks and returns are in test_trial_families.py."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from seqrl.envs import ENVIRONMENTS, Bandit, DarkKeyToDoor, DarkRoom, TabularMDP, TrialVectorEnv, make
from seqrl.envs.trials import unrevealed_space
from seqrl.errors import UserError
from seqrl.testing.environment import check_environment
from seqrl.trajectory import tree_leaves

FAMILIES = [kind for kind in ENVIRONMENTS.values() if issubclass(kind, TrialVectorEnv)]
TASKS = {Bandit: ("mean",), TabularMDP: ("mean", "cumulative"), DarkRoom: ("goal",), DarkKeyToDoor: ("key", "door")}
SMALL = {
    Bandit: {"num_episodes": 7},
    TabularMDP: {"num_episodes": 3, "horizon": 4},
    DarkRoom: {"num_episodes": 3, "episode_steps": 5, "size": 3},
    DarkKeyToDoor: {"num_episodes": 3, "episode_steps": 12, "size": 3},
}
STEPS = {Bandit: 1, TabularMDP: 4, DarkRoom: 5}  # of an inner episode, where its number is fixed


def play(env: TrialVectorEnv, num_steps: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """The rows of `num_steps` random decisions: what was seen, what came of it, and the state that it was seen in."""
    generator = torch.Generator().manual_seed(seed + 1)
    observation, _ = env.reset(seed=seed)
    ended = torch.zeros(env.num_envs, dtype=torch.bool)
    rows = []
    for _ in range(num_steps):
        state = dict(env.state)
        action = torch.randint(env.single_action_space.n, (env.num_envs,), generator=generator)
        row = {"seen": observation, "start": observation["episode_start"].bool(), "mask": ~ended, "state": state}
        observation, reward, terminated, truncated, _ = env.step(action)
        ended = terminated | truncated
        rows.append(row | {"action": action, "reward": reward, "terminated": terminated, "truncated": truncated})
    return rows


def column(rows, name: str) -> np.ndarray:
    return torch.stack([row[name] for row in rows]).numpy()


@pytest.mark.parametrize("reveal", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_conformance(family, reveal):
    check_environment(family(3, **SMALL[family], reveal=reveal), num_steps=100)
    check_environment(family(3, **SMALL[family], max_episode_steps=6, reveal=reveal), num_steps=100)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trial_has_its_inner_episodes_and_each_starts_once(family):
    """Broken by letting the masked row behind a trial show a start too: ended in place of ended & ~over."""
    env = family(4, **SMALL[family])
    rows = play(env, 120)
    start, mask, end = column(rows, "start"), column(rows, "mask"), column(rows, "terminated")
    assert end.any(0).all()
    assert not column(rows, "truncated").any()
    assert not start[~mask].any()
    for b in range(env.num_envs):
        first = 0
        for last in np.flatnonzero(end[:, b]):
            assert start[first, b]
            assert mask[first : last + 1, b].all()  # no masked row inside a trial, and just one behind it
            assert last + 1 >= len(rows) or not mask[last + 1, b]
            starts = np.flatnonzero(start[first : last + 1, b])
            assert len(starts) == env.num_episodes
            if family in STEPS:
                assert starts.tolist() == [STEPS[family] * k for k in range(env.num_episodes)]
            first = last + 2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_task_stays_for_the_trial_and_is_new_after(family):
    env = family(8, **SMALL[family])
    rows = play(env, 120)
    mask = column(rows, "mask")
    for name in TASKS[family]:
        values = torch.stack([row["state"][name].reshape(8, -1) for row in rows])
        changed = (values[1:] != values[:-1]).any(-1).numpy()
        renewed = changed[~mask[:-1]]
        assert renewed.mean() > 0.6  # one goal of eight may be drawn twice in a row
        assert not changed[mask[:-1]].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_trials(family):
    env, other = family(3, **SMALL[family]), family(3, **SMALL[family])
    same = zip(play(env, 80), play(other, 80), strict=True)
    assert all(torch.equal(x, y) for pair in same for x, y in zip(*map(tree_leaves, pair), strict=True))
    first = torch.cat([env.state[name].flatten() for name in TASKS[family]])
    play(other, 80, seed=5)
    assert not torch.equal(first, torch.cat([other.state[name].flatten() for name in TASKS[family]]))


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_at_starts_alone_restore_bit_for_bit(family):
    """`test_state_dict_restores_a_fresh_instance` does it for the defaults; here trials end many times after."""
    env, other = family(5, **SMALL[family]), family(5, **SMALL[family])
    assert env.draws_only_at_starts
    play(env, 33)
    play(other, 7, seed=3)
    other.load_state_dict(env.state_dict())
    ended = 0
    for seed in range(80):
        action = torch.randint(env.single_action_space.n, (5,), generator=torch.Generator().manual_seed(seed))
        left, right = env.step(action), other.step(action)
        ended += int(left[2].sum())
        assert all(torch.equal(x, y) for x, y in zip(tree_leaves(left[:4]), tree_leaves(right[:4]), strict=True))
    assert ended > 5


def test_tasks_are_drawn_only_where_a_trial_starts(monkeypatch):
    calls = []
    draw = TabularMDP._draw_task
    monkeypatch.setattr(TabularMDP, "_draw_task", lambda env: calls.append(1) or draw(env))
    env = TabularMDP(4, num_episodes=2, horizon=3)
    play(env, 15)  # reset, and the steps 7 and 14 begin trials
    assert len(calls) == 3
    env.draws_only_at_starts = False
    play(env, 15)
    assert len(calls) == 3 + 16


@pytest.mark.parametrize("family", FAMILIES)
def test_a_limit_truncates_the_trial(family):
    rows = play(family(2, **SMALL[family] | {"num_episodes": 50}, max_episode_steps=6), 21)
    assert column(rows, "truncated")[:, 0].nonzero()[0].tolist() == [5, 12, 19]
    assert not column(rows, "terminated").any()
    assert column(rows, "start")[[7, 14]].all()


@pytest.mark.parametrize("family", FAMILIES)
def test_reveal_shows_the_oracles_action_and_changes_nothing_else(family):
    env, plain = family(4, **SMALL[family], reveal=True), family(4, **SMALL[family])
    observation, _ = env.reset(seed=0)
    plain.reset(seed=0)
    for _ in range(60):
        best = env.optimal_action()
        assert best.dtype == torch.int64
        assert torch.equal(observation["optimal_action"], best)
        observation, reward, *_ = env.step(best)
        other, other_reward, *_ = plain.step(best)
        assert other.keys() == {"observation", "episode_start"}
        assert torch.equal(observation["observation"], other["observation"])
        assert torch.equal(reward, other_reward)


TELLING = [family for family in FAMILIES if family.tells_regret]


@pytest.mark.parametrize("family", TELLING)
def test_regrets_are_what_the_optimum_would_have_brought_more(family):
    """In expectation, of any policy. Breaks with what is expected of the next reward in `TabularMDP._regret`, in place
    of `self._values(state)`, and with zeros in `Bandit._regret`."""
    env = family(4_000, reveal=True, num_episodes=3)
    generator = torch.Generator().manual_seed(1)
    gaps = []
    for play_best in (True, False):
        observation, _ = env.reset(seed=0)
        paid = torch.zeros(4_000)
        regret, ended = paid.clone(), torch.zeros(4_000, dtype=torch.bool)
        while not ended.any():
            action = torch.randint(int(env.single_action_space.n), (4_000,), generator=generator)
            action = observation["optimal_action"] if play_best else action
            regret += observation["regret"].gather(1, action[:, None])[:, 0]
            observation, reward, ended, *_ = env.step(action)
            paid += reward
        assert ended.all()
        assert (regret == 0).all() if play_best else (regret >= 0).all() and regret.mean() > 0.1
        gaps.append(paid + regret)
    error = (gaps[0].var() / 4_000 + gaps[1].var() / 4_000).sqrt()  # the same tasks, other rewards
    assert abs(gaps[0].mean() - gaps[1].mean()) < 3 * error


@pytest.mark.parametrize("family", TELLING)
def test_no_agent_reads_regrets(family):
    env = family(2, reveal=True)
    assert env.single_observation_space["regret"].shape == (env.single_action_space.n,)
    assert unrevealed_space(env.single_observation_space) == family(2).single_observation_space


@pytest.mark.parametrize("family", FAMILIES)
def test_all_ways_to_make_one(family):
    env_id = next(name for name, kind in ENVIRONMENTS.items() if kind is family)
    single = gym.make(env_id, **SMALL[family])
    observation, _ = single.reset(seed=0)
    assert observation["episode_start"] == 1
    assert single.observation_space.contains(observation)
    batch = gym.make_vec(env_id, 3, **SMALL[family])
    assert isinstance(batch.unwrapped, family)
    one, two = (make(env_id, 3, vectorization=how, env_kwargs=SMALL[family]) for how in ("auto", "sync"))
    for env in (one, two):
        step = env.reset(0)
        for _ in range(30):
            step = env.step(torch.zeros(3, dtype=torch.int64))
        assert step.observation["episode_start"].shape == (3,)
    assert one.single_observation_space == two.single_observation_space


def test_random_sizes_never_break_the_contract():
    """Each trial has its inner episodes, one masked row stands behind it, and values stay in the spaces."""
    draw = np.random.default_rng(0)
    for case in range(80):
        family = FAMILIES[case % len(FAMILIES)]
        size = int(draw.integers(3, 6))
        sizes = {
            Bandit: {"num_arms": int(draw.integers(2, 5)), "kind": str(draw.choice(["bernoulli", "gaussian"]))},
            TabularMDP: {
                "num_states": size - 1,
                "num_actions": int(draw.integers(2, 4)),
                "horizon": int(draw.integers(1, 5)),
            },
            DarkRoom: {"size": size - 1 + size % 2, "episode_steps": int(draw.integers(1, 6))},
            DarkKeyToDoor: {"size": size, "episode_steps": int(draw.integers(1, 9))},
        }[family]
        if family in (DarkRoom, DarkKeyToDoor):
            sizes |= {"goals": str(draw.choice(["all", "train", "held_out"]))}
        if family is DarkRoom:
            sizes["size"] = 3 + 2 * (size % 2)
        env = family(int(draw.integers(1, 4)), num_episodes=int(draw.integers(1, 5)), reveal=bool(case % 3), **sizes)
        rows = play(env, 40, seed=case)
        end, mask, start, reward = (column(rows, name) for name in ("terminated", "mask", "start", "reward"))
        assert (end[:-1] == ~mask[1:]).all(), (family, sizes)
        assert not (end & ~mask).any()
        assert not reward[~mask].any()
        assert not start[~mask].any()
        for b in range(env.num_envs):
            counts = np.add.reduceat(start[:, b], np.r_[0, np.flatnonzero(end[:-1, b]) + 1])
            assert (counts[: end[:, b].sum()] == env.num_episodes).all(), (family, sizes)
        space = env.observation_space
        assert all(space.contains({key: leaf.numpy() for key, leaf in row["seen"].items()}) for row in rows)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Bandit(num_arms=1), "num_arms=1"),
        (lambda: Bandit(num_episodes=0), "num_episodes=0"),
        (lambda: Bandit(kind="beta"), "kind='beta'.*bernoulli or gaussian"),
        (lambda: TabularMDP(num_states=1), "num_states=1"),
        (lambda: TabularMDP(num_actions=1), "num_actions=1"),
        (lambda: TabularMDP(horizon=0), "horizon=0"),
        (lambda: DarkRoom(size=1), "size=1"),
        (lambda: DarkRoom(size=4), "size=4.*odd"),
        (lambda: DarkRoom(episode_steps=0), "episode_steps=0"),
        (lambda: DarkRoom(goals="some"), "goals='some'.*all, train, held_out"),
        (lambda: DarkKeyToDoor(size=2), "size=2"),
        (lambda: DarkKeyToDoor(size=4, random_start=False), "size=4.*odd"),
        (lambda: DarkKeyToDoor(episode_steps=0), "episode_steps=0"),
        (lambda: DarkKeyToDoor(goals="none"), "goals='none'"),
        (lambda: DarkKeyToDoor(num_episodes=0), "num_episodes=0"),
        (lambda: make("seqrl/DarkKeyToDoor-v0", 2, env_kwargs={"size": 1}), "DarkKeyToDoor.*size=1"),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(UserError, match=message) as caught:
        wrong()
    assert "\n" not in str(caught.value)
